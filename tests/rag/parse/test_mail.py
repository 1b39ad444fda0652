from email.message import EmailMessage

import pytest

from rag.errors import EncryptedDocument
from rag.parse import parse_document


def parsed(message):
    data = message if isinstance(message, bytes) else message.as_bytes()
    return parse_document(data, name="message.eml")


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


def test_attachments_are_named_not_read(message):
    message.set_content("See the file.")
    message.add_attachment(b"%PDF-", maintype="application", subtype="pdf", filename="plan.pdf")
    message.add_attachment("note", filename=None)
    document = parsed(message)
    assert document.text == HEAD + "See the file."
    assert document.warnings == (
        "The attachment plan.pdf was not ingested.",
        "The attachment of type text/plain was not ingested.",
    )


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
