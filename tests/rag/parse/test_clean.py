import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.parse.clean import (
    clean_code,
    clean_inline,
    clean_lines,
    clean_paragraph,
    replace_unstorable,
)


def test_lines_keep_their_breaks_and_spaces():
    assert clean_lines("\ufeffone\r\n  two\rthree\x00\x07") == "one\n  two\nthree"


def test_form_feed_and_unicode_separators_break_lines():
    assert clean_lines("a\x0cb\u2028c\x85d") == "a\nb\nc\nd"


def test_inline_folds_all_white_space_to_one_space():
    assert clean_inline("  a\u00a0\u3000b\n\tc ") == "a b c"


def test_inline_drops_layout_hints_but_keeps_joiners():
    # U+200C parts letters in Persian words: it is spelling, not layout.
    assert (
        clean_inline("ex\u00adample zero\u200bwidth می\u200cروم") == "example zerowidth می\u200cروم"
    )


def test_inline_composes_letters():
    assert clean_inline("Mu\u0308ller") == "Müller"


def test_paragraph_keeps_hard_breaks_only():
    assert clean_paragraph("12 High  Street\n\n  Oban ") == "12 High Street\nOban"


def test_code_keeps_indentation():
    assert clean_code("\n\ndef f():\n    return 1   \n\n") == "def f():\n    return 1"


def test_unstorable_characters_are_replaced_one_for_one():
    assert replace_unstorable("a\x00b\ud800c") == ("a\ufffdb\ufffdc", 2)


@pytest.mark.parametrize("clean", [clean_lines, clean_inline, clean_paragraph, clean_code])
@given(text=st.text(st.characters(codec=None, exclude_categories=())))
def test_clean_text_can_be_stored_and_stays_as_it_is(clean, text):
    cleaned = clean(text)
    cleaned.encode("utf-8")
    assert "\x00" not in cleaned
    assert unicodedata.is_normalized("NFC", cleaned)
    assert clean(cleaned) == cleaned
