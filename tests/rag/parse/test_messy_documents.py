"""120 real and deliberately awkward files; `shared/eval-data/README.md` explains the manifest."""

import json
import unicodedata
from pathlib import Path

import pytest

from rag.errors import (
    EmptyDocument,
    EncryptedDocument,
    MalformedDocument,
    NeedsOcr,
    ParseError,
    UnsupportedType,
)
from rag.parse import parse_document

DOCUMENTS = Path(__file__).parents[3].parent / "shared" / "eval-data" / "documents"
MANIFEST = DOCUMENTS / "manifest.jsonl"
REFUSALS = {
    "empty": (EmptyDocument,),
    "error:encrypted": (EncryptedDocument,),
    # The manifest accepts for every such file that a clear error names another type.
    "error:malformed": (MalformedDocument, UnsupportedType),
    "needs-ocr": (NeedsOcr,),
}
# Its note: "reading it as DOCX is acceptable as well", which is what happens, with a warning.
READ_AS_WHAT_IT_IS = "derived/docx-named.pdf"

pytestmark = pytest.mark.skipif(
    not MANIFEST.exists(), reason="needs ../shared/eval-data, which is not part of the repository"
)


def entries():
    if not MANIFEST.exists():
        return [pytest.param(None, id="no manifest")]
    rows = map(json.loads, MANIFEST.read_text(encoding="utf-8").splitlines())
    return [pytest.param(row, id=row["file"]) for row in rows]


def comparable(text):
    """As the README says: NFKC, no soft hyphens and byte order marks, single spaces."""
    text = unicodedata.normalize("NFKC", text).replace("\u00ad", "").replace("\ufeff", "")
    return " ".join(text.split())


def read(entry):
    return parse_document((DOCUMENTS / entry["file"]).read_bytes(), name=entry["file"])


@pytest.mark.parametrize("entry", entries())
def test_document(entry):
    if entry["file"] == READ_AS_WHAT_IT_IS:
        assert read(entry).warnings == ("Named .pdf but is a DOCX file: read as DOCX.",)
    elif entry["expect"] == "text":
        check_text(entry)
    else:
        with pytest.raises(REFUSALS[entry["expect"]]):
            read(entry)


def check_text(entry):
    try:
        document = read(entry)
    except UnsupportedType:
        assert entry.get("optional"), "only rare formats may be refused"
        return
    except ParseError:
        assert entry.get("may_fail"), "only half-readable files may fail"
        return
    check_words(entry, comparable(document.text))
    check_offsets(document)
    if entry["type"] == "pdf":
        check_pages(entry, document)


def check_words(entry, text):
    missing = [words for words in entry["contains"] if comparable(words) not in text]
    assert missing == []
    present = [words for words in entry.get("absent", ()) if comparable(words) in text]
    assert present == []
    alternatives = entry.get("contains_any_of")
    assert not alternatives or any(comparable(words) in text for words in alternatives)


def check_offsets(document):
    assert unicodedata.is_normalized("NFC", document.text)
    document.text.encode("utf-8")  # whatever the fonts held, the store can keep it
    assert document.title
    for heading in document.headings:
        assert document.text[heading.start :].startswith(heading.title)


def check_pages(entry, document):
    pages = document.pages
    assert len(pages) == entry["pages"]
    assert pages[0] == 0
    assert list(pages) == sorted(pages)
    ends = (*pages[1:], len(document.text))
    for number, words in entry.get("page_texts", {}).items():
        page = document.text[pages[int(number) - 1] : ends[int(number) - 1]]
        assert comparable(words) in comparable(page)
