import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.errors import EmptyDocument, TooLarge
from rag.parse.draft import Draft


def finished(draft):
    return draft.document(title=None, name="folder/notes.md", media_type="text/markdown")


def test_blocks_are_parted_by_blank_lines_and_items_by_line_breaks():
    draft = Draft(max_chars=1000)
    draft.heading("Towers", 1)
    draft.paragraph("Two of them:")
    draft.item("Bell Rock")
    draft.item("Eddystone", depth=1)
    draft.table([["Name", "Height"], ["Bell Rock", "36"], ["Skerryvore", "48"]])
    draft.code("x = 1\n  y")
    assert finished(draft).text == (
        "Towers\n\nTwo of them:\n\n- Bell Rock\n  - Eddystone\n\n"
        "Name: Bell Rock | Height: 36\nName: Skerryvore | Height: 48\n\nx = 1\n  y"
    )


def test_headings_know_where_they_start():
    draft = Draft(max_chars=1000)
    draft.heading("One", 1)
    draft.paragraph("Text.")
    draft.heading("Two", 2)
    document = finished(draft)
    assert [(h.start, h.level, h.title) for h in document.headings] == [
        (0, 1, "One"),
        (12, 2, "Two"),
    ]
    assert document.text[12:] == "Two"


def test_every_page_has_a_start_even_when_it_is_empty():
    draft = Draft(max_chars=1000)
    for text in ("", "First.", "", "Second.", ""):
        draft.page()
        draft.paragraph(text)
    # "First.\n\nSecond.": an empty page starts where the next text does, or at the end.
    assert finished(draft).pages == (0, 0, 8, 8, 15)


def test_a_paragraph_may_go_on_with_the_one_before():
    draft = Draft(max_chars=1000)
    draft.page()
    draft.paragraph("The lamp was")
    draft.page()
    draft.paragraph("lit in 1811.", separator=" ")
    document = finished(draft)
    assert document.text == "The lamp was lit in 1811."
    assert document.pages == (0, 13)


def test_too_much_text_names_the_setting():
    draft = Draft(max_chars=10)
    draft.paragraph("1234567890")
    with pytest.raises(TooLarge, match="RAG_MAX_TEXT_CHARS"):
        draft.paragraph("x")


@pytest.mark.parametrize("text", ["", "  \n ", "\u200b", "\x07"])
def test_blank_text_is_empty(text):
    draft = Draft(max_chars=10)
    draft.page()
    draft.paragraph(text)
    with pytest.raises(EmptyDocument):
        finished(draft)


def test_a_blank_text_file_is_empty_even_with_spaces_kept():
    draft = Draft(max_chars=10)
    draft.verbatim(" \n ")
    with pytest.raises(EmptyDocument):
        finished(draft)


@pytest.mark.parametrize(
    ("explicit", "properties", "heading", "expected"),
    [
        (" My  title ", "Properties", "Heading", "My title"),
        (None, "Properties", "Heading", "Properties"),
        (None, "Untitled", "Heading", "Heading"),
        (None, "", "", "notes"),
    ],
)
def test_title_by_precedence(explicit, properties, heading, expected):
    draft = Draft(max_chars=1000, title=properties)
    draft.heading(heading, 1)
    draft.paragraph("Text.")
    document = draft.document(title=explicit, name=r"C:\docs\notes.md", media_type="text/plain")
    assert document.title == expected


def test_only_first_level_headings_name_a_document():
    draft = Draft(max_chars=1000)
    draft.heading("Sheet1", 2)
    assert finished(draft).title == "notes"


def test_warnings_are_told_once_and_empty_metadata_goes():
    draft = Draft(max_chars=1000, metadata={"author": "", "created": "2026-01-01"})
    draft.paragraph("Text.")
    draft.warn("odd")
    draft.warn("odd")
    document = finished(draft)
    assert document.warnings == ("odd",)
    assert document.metadata == {"created": "2026-01-01"}


BLOCKS = st.lists(st.tuples(st.sampled_from(["heading", "paragraph", "item", "page"]), st.text()))


@given(blocks=BLOCKS)
def test_offsets_hold_for_any_blocks(blocks):
    draft = Draft(max_chars=100_000)
    draft.paragraph("Anchor.")
    for kind, text in blocks:
        if kind == "page":
            draft.page()
        elif kind == "heading":
            draft.heading(text, 2)
        else:
            getattr(draft, kind)(text)
    document = finished(draft)
    assert all(document.text[h.start :].startswith(h.title) for h in document.headings)
    assert list(document.pages) == sorted(document.pages)
    assert all(0 <= page <= len(document.text) for page in document.pages)
