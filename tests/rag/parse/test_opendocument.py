import io
import zipfile

import pytest

from rag.errors import EncryptedDocument, MalformedDocument
from rag.parse import parse_document

SPACES = " ".join(
    f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{full}:1.0"'
    for name, full in (
        ("office", "office"),
        ("text", "text"),
        ("table", "table"),
        ("draw", "drawing"),
        ("presentation", "presentation"),
        ("meta", "meta"),
    )
)
META = (
    f'<office:document-meta {SPACES} xmlns:dc="http://purl.org/dc/elements/1.1/"><office:meta>'
    "<dc:title>The Tower</dc:title><meta:initial-creator>Ann</meta:initial-creator>"
    "<meta:creation-date>2026-01-02T03:04:05</meta:creation-date></office:meta></office:document-meta>"
)


def packed(members, kind="text"):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("mimetype", f"application/vnd.oasis.opendocument.{kind}")
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def parsed(body, kind="text", **members):
    content = (
        f"<office:document-content {SPACES}><office:body><office:{kind}>{body}</office:{kind}>"
        "</office:body></office:document-content>"
    )
    return parse_document(packed({"content.xml": content, **members}, kind), name="a.odt")


def row(*cells):
    inner = "".join(
        f"<table:table-cell><text:p>{cell}</text:p></table:table-cell>" for cell in cells
    )
    return f"<table:table-row>{inner}</table:table-row>"


def test_text_with_headings_lists_and_characters():
    document = parsed(
        '<text:h text:outline-level="1">Bell Rock</text:h>'
        "<text:p>One<text:s/>two<text:tab/>three<text:line-break/>four <text:span>five</text:span>"
        "<office:annotation><text:p>a comment</text:p></office:annotation></text:p>"
        "<text:list><text:list-item><text:p>lamp</text:p><text:list><text:list-item>"
        "<text:p>lens</text:p></text:list-item></text:list></text:list-item></text:list>"
        "<text:p>End<text:note><text:note-citation>1</text:note-citation><text:note-body>"
        "<text:p>a note</text:p></text:note-body></text:note>.</text:p>",
        **{"meta.xml": META},
    )
    assert document.text == (
        "Bell Rock\n\nOne two three\nfour five\n\n- lamp\n  - lens\n\nEnd (a note) ."
    )
    assert document.headings[0].level == 1
    assert document.title == "The Tower"
    assert document.metadata == {"author": "Ann", "created": "2026-01-02T03:04:05"}


def test_tables():
    table = row("Name", "Height") + row("Bell Rock", "36") + row("Skerryvore", "48")
    document = parsed(f"<table:table>{table}</table:table>")
    assert document.text == "Name: Bell Rock | Height: 36\nName: Skerryvore | Height: 48"


def test_text_boxes_follow_their_paragraph():
    document = parsed(
        "<text:p>anchor<draw:frame><draw:text-box><text:p>boxed</text:p></draw:text-box>"
        "</draw:frame></text:p>"
    )
    assert document.text == "anchor\n\nboxed"


def test_spreadsheets_name_their_sheets():
    document = parsed(
        f'<table:table table:name="Towers">{row("Bell Rock", "36")}<table:table-row>'
        '<table:table-cell table:number-columns-repeated="16384"/></table:table-row></table:table>'
        '<table:table table:name="Empty"/>',
        kind="spreadsheet",
    )
    assert document.text == "Towers\n\nBell Rock | 36"
    assert [h.title for h in document.headings] == ["Towers"]


def test_a_value_that_fills_a_whole_row_is_not_read_without_end():
    cell = '<table:table-cell table:number-columns-repeated="500"><text:p>x</text:p>'
    document = parsed(
        f"<table:table><table:table-row>{cell}</table:table-cell></table:table-row></table:table>",
        kind="spreadsheet",
    )
    assert document.text == " | ".join("x" * 100)
    assert document.warnings[-1].startswith("A cell that is repeated more than 100 times")


def test_presentations_have_pages():
    slide = (
        "<draw:page><draw:frame><draw:text-box><text:p>{}</text:p></draw:text-box></draw:frame>{}"
        "</draw:page>"
    )
    notes = (
        "<presentation:notes><draw:frame><draw:text-box><text:p>Smile.</text:p></draw:text-box>"
        "</draw:frame></presentation:notes>"
    )
    document = parsed(slide.format("One", notes) + slide.format("Two", ""), kind="presentation")
    assert document.text == "One\n\nNotes:\n\nSmile.\n\nTwo"
    assert document.pages == (0, 21)


def test_a_protected_document():
    manifest = {"META-INF/manifest.xml": "<manifest:encryption-data/>", "content.xml": "noise"}
    with pytest.raises(EncryptedDocument):
        parse_document(packed(manifest), name="a.odt")


@pytest.mark.parametrize("members", [{}, {"content.xml": "<a/>"}, {"content.xml": "<a>"}])
def test_documents_without_content(members):
    with pytest.raises(MalformedDocument):
        parse_document(packed(members), name="a.odt")
