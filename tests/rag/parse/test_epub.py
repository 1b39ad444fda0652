import io
import zipfile

import pytest

from rag.errors import EncryptedDocument, MalformedDocument
from rag.parse import parse_document

CONTAINER = (
    '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    '<rootfile full-path="OEBPS/book.opf"/></rootfiles></container>'
)
PACKAGE = """<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/">
<metadata><dc:title>The Tower</dc:title><dc:creator>Ann</dc:creator><dc:language>en</dc:language>
</metadata><manifest><item id="b" href="two.xhtml" media-type="application/xhtml+xml"/>
<item id="a" href="text/one%20.xhtml" media-type="application/xhtml+xml"/>
<item id="c" href="style.css" media-type="text/css"/>
</manifest><spine><itemref idref="a"/><itemref idref="b"/><itemref idref="c"/></spine></package>"""
CHAPTER = (
    '<?xml version="1.0"?><html><head><title>x</title></head>'
    "<body><h1>{}</h1><p>{}</p></body></html>"
)
BOOK = {
    "META-INF/container.xml": CONTAINER,
    "OEBPS/book.opf": PACKAGE,
    "OEBPS/text/one .xhtml": CHAPTER.format("First", "The sea."),
    "OEBPS/two.xhtml": CHAPTER.format("Second", "The rock."),
}


def parsed(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("mimetype", "application/epub+zip")
        for name, content in members.items():
            archive.writestr(name, content)
    return parse_document(buffer.getvalue(), name="book.epub")


def test_chapters_in_the_order_of_the_spine():
    document = parsed(BOOK)
    assert document.text == "First\n\nThe sea.\n\nSecond\n\nThe rock."
    assert [h.title for h in document.headings] == ["First", "Second"]
    assert document.title == "The Tower"
    assert document.metadata == {"author": "Ann", "language": "en"}


def test_a_missing_chapter_is_told():
    members = {name: text for name, text in BOOK.items() if "two" not in name}
    assert parsed(members).warnings == ("The chapter OEBPS/two.xhtml is missing.",)


@pytest.mark.parametrize("missing", ["META-INF/container.xml", "OEBPS/book.opf"])
def test_a_book_without_its_index(missing):
    with pytest.raises(MalformedDocument, match="lacks its file"):
        parsed({name: text for name, text in BOOK.items() if name != missing})


@pytest.mark.parametrize(("locked", "refused"), [("OEBPS/two.xhtml", True), ("OEBPS/f.otf", False)])
def test_copy_protection_of_chapters_but_not_of_fonts(locked, refused):
    listing = f'<encryption><CipherReference URI="{locked}"/></encryption>'
    members = {**BOOK, "META-INF/encryption.xml": listing}
    if refused:
        with pytest.raises(EncryptedDocument, match="copy-protected"):
            parsed(members)
    else:
        assert "The rock." in parsed(members).text
