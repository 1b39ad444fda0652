from rag.parse import parse_document


def parsed(text):
    return parse_document(text.encode(), name="notes.md")


def test_markup_goes_and_words_stay():
    document = parsed(
        "# Bell *Rock*\n\nA **tall** tower,\nsee [the page](https://x.org) and `lamp`.\n"
        "![a drawing](d.png) <b>bold</b> &amp; \\*star\\*\n"
    )
    assert document.text == (
        "Bell Rock\n\nA tall tower, see the page and lamp. a drawing bold & *star*"
    )
    assert document.title == "Bell Rock"


def test_heading_levels_and_offsets():
    document = parsed("Title\n=====\n\nText.\n\n### Deep\n")
    assert [(h.start, h.level, h.title) for h in document.headings] == [
        (0, 1, "Title"),
        (14, 3, "Deep"),
    ]


def test_lists_keep_numbers_and_depth():
    document = parsed(
        "- one\n  - two\n    wrapped\n- three\n\n  more of three\n\n3. third\n4. fourth\n"
    )
    assert document.text == (
        "- one\n  - two wrapped\n- three\n\nmore of three\n\n3. third\n4. fourth"
    )


def test_tables_become_rows():
    document = parsed("| Name | Height |\n|---|---|\n| *Bell* Rock | 36 |\n| Skerryvore | |\n")
    assert document.text == "Name: Bell Rock | Height: 36\nName: Skerryvore"


def test_code_keeps_its_lines():
    document = parsed("```python\ndef f():\n    return 1\n```\n\n    indented\n")
    assert document.text == "def f():\n    return 1\n\nindented"


def test_hard_breaks_stay_breaks():
    assert parsed("12 High Street  \nOban<br>Scotland\n").text == "12 High Street\nOban\nScotland"


def test_blocks_of_html_are_read_as_html():
    assert (
        parsed("<div><p>In a box</p><script>x()</script></div>\n\nAfter.").text
        == "In a box\n\nAfter."
    )


def test_front_matter_is_metadata():
    document = parsed(
        "---\ntitle: 'The Rock'\nauthor: Ann\ndate: 2026-01-02\nx:\n  - y\n---\n# Other\n"
    )
    assert document.title == "The Rock"
    assert document.metadata == {"author": "Ann", "created": "2026-01-02"}
    assert document.text == "Other"


def test_a_rule_at_the_start_is_no_front_matter():
    assert parsed("---\nplain words\n\n---\nmore").text == "plain words\n\nmore"


def test_quotes_are_paragraphs():
    assert parsed("> quoted\n> words\n\nafter").text == "quoted words\n\nafter"
