import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag import parse
from rag.errors import EmptyDocument, MalformedDocument, RagError, TooLarge
from rag.parse import detect, parse_document, text_document


def test_plain_text_keeps_its_lines():
    document = parse_document(b"\xef\xbb\xbfone\r\n\r\n  two \x00three", name="notes/plan.txt")
    assert document.text == "one\n\n  two three"
    assert (document.title, document.media_type) == ("plan", "text/plain")
    assert document.pages == ()


def test_text_through_the_api_is_kept_as_it_was_sent():
    # A decomposed letter and a carriage return: offsets of the caller must go on to fit.
    text = "  cafe\u0301\r\n\u200bend "
    document = text_document(text, title="A", media_type="text/markdown")
    assert document.text == text
    assert (document.title, document.media_type, document.warnings) == ("A", "text/markdown", ())


def test_what_cannot_be_stored_is_replaced_in_place():
    document = text_document("a\x00b\udfffc")
    assert document.text == "a\ufffdb\ufffdc"
    assert document.warnings == ("2 characters that cannot be stored were replaced.",)


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_blank_text_is_refused(text):
    with pytest.raises(EmptyDocument):
        text_document(text)
    with pytest.raises(EmptyDocument):
        parse_document(text.encode(), name="a.txt")


def test_the_limit_on_characters():
    assert parse_document(b"12345", name="a.txt", max_chars=5).text == "12345"
    with pytest.raises(TooLarge, match="more than 4 characters"):
        parse_document(b"12345", name="a.txt", max_chars=4)


def test_a_failing_library_means_a_malformed_document(monkeypatch):
    def fail(*_):
        raise OverflowError("deep inside")

    monkeypatch.setattr("rag.parse.text.parse_text", fail)
    with pytest.raises(MalformedDocument, match="OverflowError: deep inside") as error:
        parse_document(b"x", name="a.txt")
    assert isinstance(error.value.__cause__, OverflowError)


@pytest.mark.parametrize("fault", [MemoryError, NameError])
def test_faults_that_no_document_causes_stay_what_they_are(monkeypatch, fault):
    def fail(*_):
        raise fault

    monkeypatch.setattr("rag.parse.text.parse_text", fail)
    with pytest.raises(fault):
        parse_document(b"x", name="a.txt")


def test_every_type_has_a_reader():
    kinds = {*detect._BINARY_EXTENSIONS.values(), *detect._TEXT_EXTENSIONS.values()}
    assert kinds == set(parse._READERS)


def test_importing_the_package_loads_no_format_library():
    code = (
        "import sys, rag.parse; "
        "print([m for m in ('docx', 'pptx', 'openpyxl', 'trafilatura', 'pypdfium2', 'lxml')"
        " if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


@settings(max_examples=150, deadline=None)
@given(
    data=st.binary(max_size=300) | st.text(max_size=200).map(str.encode),
    extension=st.sampled_from(detect.SUPPORTED.split(", ")),
)
def test_any_bytes_give_a_document_or_a_clear_error(data, extension):
    try:
        document = parse_document(data, name=f"a.{extension}")
    except RagError:
        return
    assert document.text.strip()
    document.text.encode("utf-8")
