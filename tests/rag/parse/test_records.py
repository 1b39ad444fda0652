import json

import pytest

from rag.errors import EmptyDocument, MalformedDocument
from rag.parse import parse_document


def parsed(value, name="data.json"):
    text = value if isinstance(value, str) else json.dumps(value)
    return parse_document(text.encode(), name=name)


def test_flat_records_are_rows():
    records = [{"name": "Bell Rock", "height": 36}, {"name": "Skerryvore", "lit": True, "x": None}]
    assert parsed(records).text == "name: Bell Rock | height: 36\nname: Skerryvore | lit: true"


def test_nested_values_carry_their_path():
    value = {"tower": {"name": "Bell Rock", "keepers": ["Ann", "Bo"], "gone": None}, "n": 1.5}
    assert parsed(value).text == "tower.name: Bell Rock\ntower.keepers: Ann, Bo\nn: 1.5"


def test_records_inside_an_object_are_rows_of_their_own():
    value = {"towers": [{"name": "Bell Rock", "m": 36}, {"name": "Skerryvore", "m": 48}]}
    assert (
        parsed(value).text == "towers | name: Bell Rock | m: 36\ntowers | name: Skerryvore | m: 48"
    )


def test_a_list_of_nested_records_has_a_block_each():
    value = [{"a": {"b": 1}}, {"a": {"b": [[2], {"c": 3}]}}]
    assert parsed(value).text == "a.b: 1\n\na.b[0]: 2\na.b[1].c: 3"


@pytest.mark.parametrize(
    ("value", "text"), [('"just words"', "just words"), (3, "3"), ([1, "b"], "1\n\nb")]
)
def test_bare_values(value, text):
    assert parsed(value).text == text


@pytest.mark.parametrize("value", [{}, [], None, [{}], {"a": ""}])
def test_values_without_text(value):
    with pytest.raises(EmptyDocument):
        parsed(value)


def test_errors_name_line_and_column():
    with pytest.raises(MalformedDocument, match=r"line 2, column 7"):
        parsed('{"a": 1,\n "b": ?}')


def test_json_lines():
    assert parsed('{"a": 1}\n\n{"a": 2}\n', "data.jsonl").text == "a: 1\na: 2"
    with pytest.raises(MalformedDocument, match="line 3"):
        parsed('{"a": 1}\n{"a": 2}\n{"a"}', "data.jsonl")


def test_json_lines_under_the_name_of_json():
    document = parsed('{"a": 1}\n{"a": {"b": 2}}')
    assert document.text == "a: 1\n\na.b: 2"
    assert document.warnings == ("This is JSON Lines: one value per line.",)


def test_absurd_depth_is_malformed():
    with pytest.raises(MalformedDocument):
        parsed("[" * 100_000 + "]" * 100_000)


def test_notebooks():
    cells = [
        {"cell_type": "markdown", "source": ["# Lamp\n", "A *bright* one."]},
        {"cell_type": "code", "source": "x = 1\nprint(x)", "outputs": [{"text": "1"}]},
    ]
    document = parsed({"cells": cells}, "lab.ipynb")
    assert document.text == "Lamp\n\nA bright one.\n\nx = 1\nprint(x)"
    assert document.title == "Lamp"


@pytest.mark.parametrize("text", ["{}", "[]", '{"cells": 3}', "{"])
def test_notebooks_without_cells(text):
    with pytest.raises(MalformedDocument):
        parsed(text, "lab.ipynb")
