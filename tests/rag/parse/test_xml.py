import pytest

from rag.errors import EmptyDocument, MalformedDocument
from rag.parse import parse_document


def parsed(markup, encoding="utf-8"):
    return parse_document(markup.encode(encoding), name="data.xml")


def test_records_are_one_line_each():
    document = parsed(
        "<towers><tower id='1'><name>Bell Rock</name><height>36</height></tower>"
        "<tower id='2'><name>Skerryvore</name><height/></tower></towers>"
    )
    assert document.text == "id: 1 | name: Bell Rock | height: 36\n\nid: 2 | name: Skerryvore"


def test_prose_has_headings_by_depth():
    document = parsed(
        "<article><title>Towers</title><sec><title>Bell Rock</title><p>It is <b>36 m</b> tall.</p>"
        "<sec><title>Lamp</title><p>White.</p></sec></sec>"
        "<fig><caption><title>A drawing</title><p>By Ann.</p></caption></fig></article>"
    )
    assert document.text == (
        "Towers\n\nBell Rock\n\nIt is 36 m tall.\n\nLamp\n\nWhite.\n\nA drawing\n\nBy Ann."
    )
    assert [(h.level, h.title) for h in document.headings] == [
        (1, "Towers"),
        (2, "Bell Rock"),
        (3, "Lamp"),
    ]
    assert document.title == "Towers"


def test_tables_in_prose():
    document = parsed(
        "<doc><p>Heights:</p><table><tr><th>Name</th><th>m</th></tr>"
        "<tr><td>Bell Rock</td><td>36</td></tr></table></doc>"
    )
    assert document.text == "Heights:\n\nName: Bell Rock | m: 36"


def test_small_parts_of_a_reference_are_one_line():
    document = parsed(
        "<doc><p>Text.</p><ref><name>Stevenson</name><year>1824</year>"
        "<article-title>Account</article-title></ref><date><day>1</day><year>1811</year></date></doc>"
    )
    assert document.text == "Text.\n\nStevenson 1824 Account\n\n1 1811"


def test_the_mark_wins_over_a_wrong_declaration():
    assert parsed('<?xml version="1.0" encoding="UTF-8"?><a><b>é</b></a>', "utf-16").text == "b: é"


def test_broken_xml_names_the_place():
    with pytest.raises(MalformedDocument, match="line 2"):
        parsed("<a>\n<b></a>")


def test_external_entities_are_not_read():
    markup = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a><b>safe</b><c>&x;</c></a>'
    assert "root:" not in parsed(markup).text


def test_entity_bombs_do_not_go_off():
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    markup = f'<!DOCTYPE a [<!ENTITY e0 "x">{entities}]><a><b>&e11;</b><c>kept</c></a>'
    with pytest.raises(MalformedDocument, match="amplification"):  # 10 ** 11 characters
        parsed(markup)


def test_elements_without_text_are_empty():
    with pytest.raises(EmptyDocument):
        parsed("<a><b/><c> </c></a>")
