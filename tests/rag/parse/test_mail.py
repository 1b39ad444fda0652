from email.message import EmailMessage
from hashlib import sha256

import pytest

from rag.errors import EncryptedDocument
from rag.parse import parse_document
from rag.parse.options import Options

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


def parsed(message, **options):
    data = message if isinstance(message, bytes) else message.as_bytes()
    return parse_document(data, name="message.eml", options=Options(**options))


@pytest.fixture
def message():
    mail = EmailMessage()
    mail["Subject"] = "Bell Rock – the lamp"
    mail["From"] = "Ann Ünal <ann@example.org>"
    mail["To"] = "Bo <bo@example.org>, Cy <cy@example.org>"
    mail["Date"] = "Sat, 14 Mar 2026 15:09:26 +0100"
    return mail


HEAD = (
    "Bell Rock – the lamp\n\nFrom: Ann Ünal <ann@example.org>\n"
    "To: Bo <bo@example.org>, Cy <cy@example.org>\nDate: 2026-03-14 15:09:26+01:00\n\n"
)


def test_envelope_then_body(message):
    message.set_content("Hello,\n\nthe lamp is 5 € cheaper.\n")
    document = parsed(message)
    assert document.text == HEAD + "Hello,\n\nthe lamp is 5 € cheaper."
    assert document.title == "Bell Rock – the lamp"
    assert [(h.start, h.level) for h in document.headings] == [(0, 1)]
    assert document.metadata == {
        "subject": "Bell Rock – the lamp",
        "from": "Ann Ünal <ann@example.org>",
        "to": "Bo <bo@example.org>, Cy <cy@example.org>",
        "date": "2026-03-14 15:09:26+01:00",
    }


def test_the_plain_body_is_preferred(message):
    message.set_content("plain")
    message.add_alternative("<p>rich</p>", subtype="html")
    assert parsed(message).text == HEAD + "plain"


def test_an_html_body_is_read_as_html(message):
    message.set_content("<p>one</p><ul><li>two</li></ul>", subtype="html", cte="base64")
    assert parsed(message).text == HEAD + "one\n\n- two"


def test_attachments_are_named_and_taken_out(message):
    message.set_content("See the file.")
    message.add_attachment(b"%PDF-", maintype="application", subtype="pdf", filename="plan.pdf")
    message.add_attachment("note", filename=None)
    document = parsed(message)
    assert document.text == HEAD + "See the file.\n\nAttachments: plan.pdf, attachment.txt"
    assert document.warnings == ()
    plan, note = document.attachments
    assert (plan.name, plan.media_type, plan.content) == ("plan.pdf", "application/pdf", b"%PDF-")
    assert plan.content_hash == sha256(b"%PDF-").hexdigest()
    assert (note.name, note.media_type, note.content) == ("attachment.txt", "text/plain", b"note\n")


def test_a_mail_without_words_keeps_its_attachment():
    mail = EmailMessage()
    mail.add_attachment("x", filename="a.txt")
    document = parsed(mail)
    assert document.text == "Attachments: a.txt"
    assert [one.name for one in document.attachments] == ["a.txt"]


def test_what_no_parser_reads_is_left_out_with_a_warning(message):
    message.set_content("See.")
    message.add_attachment(PNG, maintype="image", subtype="png", filename="logo.png")
    message.add_attachment(bytes(9), maintype="application", subtype="x-odd", filename="odd.bin")
    message.add_attachment(b" ", maintype="text", subtype="plain", filename="blank.txt")
    message.add_attachment(
        b"-----BEGIN", maintype="application", subtype="pgp-signature", filename="sign.asc"
    )
    document = parsed(message)
    assert document.attachments == ()
    assert document.warnings == (
        "attachment logo.png was left out: no parser reads image/png",
        "attachment odd.bin was left out: no parser reads application/x-odd",
        "attachment blank.txt was left out: it is empty",
        "attachment sign.asc was left out: it is a signature",
    )
    assert document.text.endswith("Attachments: logo.png, odd.bin, blank.txt")


def test_images_within_the_text_and_other_forms_of_it_are_no_attachments(message):
    message.set_content("plain")
    message.add_alternative('<p>rich <img src="cid:1"></p>', subtype="html")
    rich = message.get_payload()[1]
    rich.add_related(PNG, "image", "png", cid="<1>", filename="image001.png")
    message.add_attachment("kept", filename="kept.txt")
    document = parsed(message)
    assert document.text == HEAD + "plain\n\nAttachments: kept.txt"
    assert [one.name for one in document.attachments] == ["kept.txt"]
    reason = "it is an image within the text"
    assert document.warnings == (f"attachment image001.png was left out: {reason}",)


def test_text_behind_an_attachment_is_text_of_the_mail():
    """Apple's program writes text, file, text; mailing lists add a footer."""
    data = (
        b"Subject: x\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n"
        b"--b\nContent-Type: text/plain\n\nBefore.\n"
        b"--b\nContent-Type: text/plain; name=a.txt\n\nattached\n"
        b"--b\nContent-Type: text/plain\n\nAfter.\n--b--\n"
    )
    document = parsed(data)
    assert document.text == "x\n\nBefore.\n\nAfter.\n\nAttachments: a.txt"
    assert [one.content for one in document.attachments] == [b"attached"]


def test_an_attached_message_is_a_message(message):
    inner = EmailMessage()
    inner["Subject"] = "The oil/lamp"
    inner.set_content("It burns.")
    inner.add_attachment("deep", filename="deep.txt")
    message.set_content("Forwarded.")
    message.add_attachment(inner)
    document = parsed(message)
    (attached,) = document.attachments
    assert (attached.name, attached.media_type) == ("The oil lamp.eml", "message/rfc822")
    again = parse_document(attached.content, name=attached.name)
    assert again.text == "The oil/lamp\n\nIt burns.\n\nAttachments: deep.txt"
    assert [one.content for one in again.attachments] == [b"deep\n"]


def with_files(message, count, size=1):
    message.set_content("See.")
    for number in range(count):
        message.add_attachment("x" * size, filename=f"{number}.txt", cte="7bit")
    return message


def test_attachments_are_bounded_in_number(message):
    document = parsed(with_files(message, 30), max_attachments=3)
    assert [one.name for one in document.attachments] == ["0.txt", "1.txt", "2.txt"]
    assert len(document.warnings) == 21
    assert document.warnings[0].startswith("attachment 3.txt was left out: RAG_MAX_ATTACHMENTS")
    assert document.warnings[-1] == "7 more attachments were left out"


def test_attachments_are_bounded_in_size_together(message):
    document = parsed(with_files(message, 3, size=59), max_attachment_bytes=120)
    assert [one.name for one in document.attachments] == ["0.txt", "1.txt"]
    assert "2.txt was left out: RAG_MAX_ATTACHMENT_BYTES" in document.warnings[0]


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\plans\\a.txt", "a.txt"),
        ("evil\u202etxt.exe", "eviltxt.exe"),
        ("a" * 300 + ".txt", "a" * 196 + ".txt"),
    ],
)
def test_names_are_names(message, given, name):
    message.set_content("See.")
    message.add_attachment(b"some text", maintype="text", subtype="plain", filename="GIVEN")
    data = message.as_bytes()
    encoded = "".join(f"%{byte:02X}" for byte in given.encode())
    data = data.replace(b'filename="GIVEN"', f"filename*=utf-8''{encoded}".encode())
    (attached,) = parsed(data).attachments
    assert attached.name == name


def test_damaged_attachments_do_not_stop_the_mail():
    data = (
        b"Subject: x\nContent-Type: multipart/mixed; boundary=b\n\n"
        b"--b\nContent-Type: text/plain\n\nThe body.\n"
        b"--b\nContent-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\n!!!\n"
        b"--b\nContent-Type: message/delivery-status\n\nStatus: 5.1.1\n\nA: b\n"
        b"--b\nContent-Disposition: attachment; filename*=x'y'%FF\n\ntext\n"
    )
    document = parsed(data)
    assert document.text.startswith("x\n\nThe body.")


@pytest.mark.parametrize(
    "kind",
    [
        'multipart/encrypted; boundary="x"; protocol="application/pgp-encrypted"',
        "application/pkcs7-mime; smime-type=enveloped-data",
    ],
)
def test_encrypted_messages(kind):
    with pytest.raises(EncryptedDocument):
        parsed(f"Subject: x\nContent-Type: {kind}\n\nnoise".encode())


def test_a_misnamed_charset_does_not_garble():
    head = (
        b"Subject: x\nContent-Type: text/plain; charset=us-ascii\n"
        b"Content-Transfer-Encoding: 8bit\n\n"
    )
    assert parsed(head + "Grüße".encode()).text.endswith("Grüße")
    assert parsed(head + "Grüße aus Köln".encode("cp1252")).text.endswith("Grüße aus Köln")


def test_damaged_headers_do_not_stop_the_body():
    data = b"Subject: =?utf-8?q?broken\nFrom: <<@>\nDate: not a date\n\nThe body."
    document = parsed(data)
    assert document.text.endswith("Date: not a date\n\nThe body.")
