import pytest

from rag.errors import EmptyDocument
from rag.parse import parse_document
from rag.parse.draft import Draft
from rag.parse.html import write_html

STORY = " ".join(
    f"Sentence {n} tells how the tower was built on the reef by Robert Stevenson." for n in range(8)
)
ARTICLE = f"""<!DOCTYPE html><html lang="en"><head><title>Bell Rock | Towers</title>
<meta name="author" content="Ann"><style>p {{}}</style></head><body>
<header><a href="/">Home</a> <a href="/shop">Shop now</a></header>
<nav><ul><li>Menu one</li><li>Menu two</li></ul></nav>
<main><article><h1>Bell Rock</h1><p>{STORY}</p><h2>Height</h2>
<p>It is 36 m tall.<script>track()</script></p>
<table><tr><th>Name</th><th>Height</th></tr><tr><td>Bell Rock</td><td>36 m</td></tr></table>
</article></main><footer>Imprint and cookies</footer></body></html>"""


def parsed(markup, name="page.html", **options):
    data = markup if isinstance(markup, bytes) else markup.encode()
    return parse_document(data, name=name, **options)


def blocks(markup):
    draft = Draft(max_chars=100_000)
    write_html(markup, draft)
    return draft.document(title=None, name="x", media_type="text/html").text


def test_main_content_of_an_article():
    document = parsed(ARTICLE)
    assert document.text == (
        f"Bell Rock\n\n{STORY}\n\nHeight\n\nIt is 36 m tall.\n\nName: Bell Rock | Height: 36 m"
    )
    assert [(h.level, h.title) for h in document.headings] == [(1, "Bell Rock"), (2, "Height")]
    assert document.title == "Bell Rock | Towers"
    assert document.metadata == {"author": "Ann", "language": "en"}


def test_a_page_that_is_no_article_is_read_whole_without_its_frame():
    rows = "".join(
        f"<div><span>Part {n}</span><span> costs {n} euro</span></div>" for n in range(40)
    )
    document = parsed(f"<html><body><nav>Menu</nav>{rows}<footer>Imprint</footer></body></html>")
    assert "Part 7 costs 7 euro\n\nPart 8 costs 8 euro" in document.text
    assert "Menu" not in document.text
    assert "Imprint" not in document.text


def test_a_page_of_navigation_only_still_has_text():
    assert parsed("<html><body><nav>Just a menu</nav></body></html>").text == "Just a menu"


@pytest.mark.parametrize("markup", ["<html></html>", "<!-- nothing -->", "<script>x()</script>"])
def test_pages_without_text_are_empty(markup):
    with pytest.raises(EmptyDocument):
        parsed(markup)


@pytest.mark.parametrize(
    ("head", "encoding"),
    [
        ('<meta charset="shift_jis">', "cp932"),
        ('<meta http-equiv="Content-Type" content="text/html; charset=euc-jp">', "euc_jp"),
        ('<meta charset="utf-8">', "utf-16"),
    ],
)
def test_the_declared_encoding_unless_a_mark_says_otherwise(head, encoding):
    page = f"<html><head>{head}</head><body><p>灯台は海にある。</p></body></html>"
    assert parsed(page.encode(encoding)).text == "灯台は海にある。"


def test_wrapped_source_is_one_line_and_br_is_a_break():
    assert blocks("<p>one\n  <b>two</b>\nthree<br>four</p>") == "one two three\nfour"


def test_bare_text_between_blocks_is_a_paragraph():
    assert blocks("<div>one<p>two</p>three <i>four</i></div>") == "one\n\ntwo\n\nthree four"


def test_lists():
    markup = (
        "<ul><li>one<ul><li>deep</li></ul></li><li><p>two</p><p>more</p></li></ul>"
        '<ol start="3"><li>third</li><li>fourth</li></ol>'
    )
    assert blocks(markup) == "- one\n  - deep\n- two\n\nmore\n\n3. third\n4. fourth"


def test_preformatted_text():
    assert blocks("<pre>a\n  b<br>c</pre>") == "a\n  b\nc"


def test_hidden_things_and_anchors_are_left_out():
    markup = (
        '<p>shown<span hidden>h</span><span style="display: none">n</span>'
        '<a class="headerlink" href="#x">¶</a><span aria-hidden="true">*</span></p>'
        "<noscript>enable</noscript><svg><text>drawn</text></svg>"
    )
    assert blocks(markup) == "shown"


def test_spanned_cells_belong_to_every_row_they_span():
    markup = (
        "<table><tr><th>Coast</th><th>Tower</th><th>Height</th></tr>"
        "<tr><td rowspan=2>East</td><td>Bell Rock</td><td>36</td></tr>"
        "<tr><td>Isle of May</td><td>24</td></tr>"
        "<tr><td>West</td><td colspan=2>none</td></tr></table>"
    )
    assert blocks(markup) == (
        "Coast: East | Tower: Bell Rock | Height: 36\n"
        "Coast: East | Tower: Isle of May | Height: 24\n"
        "Coast: West | Tower: none"
    )


def test_stacked_headers_are_joined_and_a_title_row_stands_above():
    markup = (
        "<table><caption>Towers</caption><thead><tr><th colspan=3>Scotland</th></tr>"
        "<tr><th rowspan=2>Name</th><th colspan=2>Size</th></tr>"
        "<tr><th>m</th><th>t</th></tr></thead>"
        "<tr><td>Bell Rock</td><td>36</td><td>2083</td></tr></table>"
    )
    assert blocks(markup) == "Towers\n\nScotland\n\nName: Bell Rock | Size m: 36 | Size t: 2083"


def test_layout_tables_are_no_tables():
    markup = "<table><tr><td><p>one</p><p>two</p></td></tr></table>"
    assert blocks(markup) == "one\n\ntwo"


def test_hostile_spans_are_harmless():
    spans = '<table><tr><td colspan="99999999">a</td><td rowspan="-1">b</td></tr></table>'
    assert blocks(spans) == "a | b"


def test_deeply_nested_text_is_found():
    assert blocks("<p>top</p>" + "<div>" * 200 + "deep") == "top\n\ndeep"
