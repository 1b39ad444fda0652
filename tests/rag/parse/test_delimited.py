import pytest

from rag.errors import MalformedDocument
from rag.parse import parse_document


def parsed(text, name="towers.csv", encoding="utf-8"):
    return parse_document(text.encode(encoding), name=name)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiter_is_found(delimiter):
    rows = ["Name;Height;Lit", "Bell Rock;36;1811", "Skerryvore;48;1844"]
    document = parsed("\n".join(rows).replace(";", delimiter))
    assert document.text == (
        "Name: Bell Rock | Height: 36 | Lit: 1811\nName: Skerryvore | Height: 48 | Lit: 1844"
    )
    assert document.title == "towers"
    assert document.media_type == "text/csv"


def test_decimal_commas_do_not_hide_the_semicolon():
    assert parsed("Name;Höhe\nRoter Sand;28,4\nAlte Weser;33,1").text == (
        "Name: Roter Sand | Höhe: 28,4\nName: Alte Weser | Höhe: 33,1"
    )


def test_quoted_fields_keep_delimiters_and_lose_line_breaks():
    assert parsed('Name,Note\nBell Rock,"sea,\nstorm ""and"" fog"\n').text == (
        'Name: Bell Rock | Note: sea, storm "and" fog'
    )


def test_a_first_row_of_numbers_is_no_header():
    assert parsed("1,2\n3,4").text == "1 | 2\n3 | 4"


def test_one_column_is_a_list_of_lines():
    assert parsed("alpha\nbeta\n").text == "alpha\nbeta"


def test_a_legacy_encoding_is_guessed_with_a_warning():
    document = parsed("Name,Ort\nMüller,Köln\n", encoding="cp1252")
    assert document.text == "Name: Müller | Ort: Köln"
    assert document.warnings == ("The encoding was guessed to be cp1252.",)


def test_tsv_by_its_name():
    assert parsed("a\tb\n1\t2", name="x.tsv").text == "a: 1 | b: 2"


def test_a_field_may_be_longer_than_the_csv_module_allows_by_default():
    assert len(parsed(f"a,b\n1,{'x' * 200_000}").text) > 200_000


def test_a_runaway_field_is_malformed(monkeypatch):
    monkeypatch.setattr("rag.parse.delimited._MAX_FIELD_CHARS", 100)
    with pytest.raises(MalformedDocument, match=r"Line \d+ is not valid CSV"):
        parsed(f'a,b\n1,"{"x" * 200}')
