"""Documents through a child are what they are in process; children start, stay and end."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from email.message import EmailMessage
from pathlib import Path
from threading import Thread

import pytest
from fpdf import FPDF

from rag.errors import (
    Cancelled,
    EmptyDocument,
    InvalidInput,
    MalformedDocument,
    NotFound,
    ParseLimit,
    RagError,
    TooLarge,
    UnsupportedType,
)
from rag.parse import child, parse_document
from rag.parse.child import ParserPool
from rag.parse.options import Options
from rag.work import Work, working
from tests.rag.parse.pools import LIMITS, assert_works, do, hostile_pool, is_gone

SET = {"PYTHONPATH", "OPENBLAS_NUM_THREADS", "OMP_THREAD_LIMIT"}
PAGE = (
    "<html lang='en'><head><title>Bell Rock</title><meta name='author' content='Ann'></head><body>"
    "<h1>Bell Rock</h1><p>Lit in 1811 \U0001f4a1.</p><h2>The tower</h2><p>It is 35 m high.</p>"
)


def pdf():
    made = FPDF()
    made.set_font("Helvetica", size=11)
    made.set_author("Ann")
    for title in ("Bell Rock", "The lamp"):
        made.add_page()
        made.start_section(title)
        made.cell(text=title, new_x="LMARGIN", new_y="NEXT")
        made.cell(text="Built between 1807 and 1810.")
    made.add_page()
    return bytes(made.output())


def mail(*files):
    made = EmailMessage()
    made["Subject"] = "Bell Rock"
    made.set_content("See the files.")
    for name, content in files:
        made.add_attachment(content, maintype="text", subtype="plain", filename=name)
    return made.as_bytes()


@pytest.fixture(scope="module")
def pool():
    made = ParserPool(LIMITS)
    yield made
    made.close()


@pytest.fixture
def hostile():
    made = hostile_pool()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (PAGE.encode(), {"name": "bell.html"}),
        (pdf(), {"name": "bell.pdf"}),
        ("Grüße\nzwei".encode("cp1252"), {"name": "a.txt"}),
        (b"# One\n\ntext", {"name": "a", "media_type": "text/markdown", "title": "Mine"}),
        (b"text", {"name": "na\udcffme\x00.txt"}),
        (mail(("a.txt", b"one"), ("\u00fc.txt", "zw\u00f6lf".encode())), {"name": "a.eml"}),
    ],
    ids=["html", "pdf", "encoding", "options", "surrogates", "attachments"],
)
def test_a_document_is_the_same_as_in_process(pool, content, options):
    expected = parse_document(content, **options)
    assert pool.parse(content, **options) == expected


def test_what_the_documents_above_are_made_of():
    page, paper = parse_document(PAGE.encode(), name="a.html"), parse_document(pdf(), name="a.pdf")
    assert len(page.headings) == len(paper.headings) == 2
    assert page.metadata
    assert paper.pages
    assert paper.warnings


@pytest.mark.parametrize(
    ("content", "name", "kind"),
    [
        (b" ", "a.txt", EmptyDocument),
        (b"%PDF-1.7 broken", "a.pdf", MalformedDocument),
        (b"\x89PNG\r\n", "a.png", UnsupportedType),
        (b"PK\x03\x04", "a.docx", MalformedDocument),
    ],
)
def test_an_error_is_the_same_as_in_process(pool, content, name, kind):
    with pytest.raises(kind) as inside:
        parse_document(content, name=name)
    with pytest.raises(kind) as raised:
        pool.parse(content, name=name)
    assert type(raised.value) is type(inside.value)
    assert raised.value.message == inside.value.message
    assert raised.value.hint == inside.value.hint


def test_the_limit_on_characters(pool):
    assert pool.parse(b"12345", name="a.txt", max_chars=5).text == "12345"
    with pytest.raises(TooLarge, match="more than 4 characters"):
        pool.parse(b"12345", name="a.txt", max_chars=4)


def test_a_file_by_its_path(pool, tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"line\n" * 600_000)  # three pieces
    assert pool.parse(file, name="a.txt") == parse_document(file.read_bytes(), name="a.txt")


def test_paths_that_cannot_be_read(pool, tmp_path):
    with pytest.raises(NotFound, match="cannot be read"):
        pool.parse(tmp_path / "missing.txt", name="a.txt")
    with pytest.raises(NotFound, match="cannot be read"):
        pool.parse(Path("a\x00b"), name="a.txt")
    with pytest.raises(NotFound, match="not a file"):
        pool.parse(tmp_path, name="a.txt")
    with pytest.raises(NotFound, match="not a file"):
        pool.parse(Path("/dev/zero"), name="a.txt")


def test_a_file_that_shrinks_meanwhile(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"123")
    assert b"".join(child._pieces(file, 2)) == b"12"
    with pytest.raises(InvalidInput, match="became shorter"):
        list(child._pieces(file, 4))


def test_a_child_stays_for_the_next_documents(hostile):
    assert len({do(hostile, "tell", "pid") for _ in range(3)}) == 1
    with pytest.raises(EmptyDocument):
        hostile.parse(b" ", name="a.txt")
    assert len({do(hostile, "tell", "pid") for _ in range(3)}) == 1


def test_a_new_child_takes_over_after_some_documents():
    with closing(hostile_pool(reuse=2)) as pool:
        pids = [int(do(pool, "tell", "pid")) for _ in range(5)]
        assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]
        assert is_gone(pids[0])
        assert is_gone(pids[2])
        assert_works(pool)


def test_a_child_outlives_the_thread_that_asked_first(hostile):
    pids = []
    first = Thread(target=lambda: pids.append(do(hostile, "tell", "pid")))
    first.start()
    first.join()
    assert pids == [do(hostile, "tell", "pid")]


def test_many_threads_share_few_children():
    with closing(hostile_pool(processes=2)) as pool:

        def parse(number):
            text = pool.parse(f"document {number}".encode(), name="a.txt").text
            return text, do(pool, "tell", "pid")

        with ThreadPoolExecutor(8) as threads:
            texts, pids = zip(*threads.map(parse, range(40)), strict=True)
        assert list(texts) == [f"document {number}" for number in range(40)]
        assert len(set(pids)) <= 2


def test_close_leaves_no_process(tmp_path):
    with closing(hostile_pool(processes=2)) as pool:
        with ThreadPoolExecutor(1) as threads:
            parsing = threads.submit(do, pool, "meet", str(fifo(tmp_path / "meet")))
            with (tmp_path / "meet").open() as met:
                busy = int(met.readline())
                idle = int(do(pool, "tell", "pid"))
                pool.close()
                assert met.read() == ""
            with pytest.raises(Cancelled):
                parsing.result()
        assert idle != busy
        assert is_gone(idle)
        assert is_gone(busy)
        with pytest.raises(Cancelled):
            pool.parse(b"good", name="good.txt")
        pool.close()


def test_a_document_that_nobody_waits_for_any_more_is_given_up(hostile, tmp_path):
    work = Work()

    def parse():
        with working(work):
            return do(hostile, "meet", str(tmp_path / "meet"))

    fifo(tmp_path / "meet")
    with ThreadPoolExecutor(1) as threads:
        parsing = threads.submit(parse)
        with (tmp_path / "meet").open() as met:
            pid = int(met.readline())
            work.cancelled.set()
            with pytest.raises(Cancelled):
                parsing.result()
    assert is_gone(pid)
    assert_works(hostile)


@pytest.mark.parametrize("state", ["hold", "meet"], ids=["idle", "busy"])
def test_a_child_ends_with_its_parent(tmp_path, state):
    if state == "meet" and sys.platform != "linux":
        pytest.skip("a busy child ends at its next document or its limits there")
    program = (
        "import sys; from tests.rag.parse.pools import do, hostile_pool;"
        f"do(hostile_pool(), {state!r}, sys.argv[1]); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(fifo(tmp_path / "meet"))]
    root = Path(__file__).parents[3]
    with (
        subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE) as parent,
        (tmp_path / "meet").open() as met,
    ):
        assert int(met.readline()) != parent.pid
        parent.send_signal(signal.SIGKILL)
        assert met.read() == ""  # every other end of it is closed


def test_a_child_imports_no_model_and_gets_no_secret(hostile, monkeypatch):
    monkeypatch.setenv("RAG_QDRANT_API_KEY", "secret")
    assert set(do(hostile, "tell", "environment").split()) <= {"LC_CTYPE", *SET}
    hostile.parse(PAGE.encode(), name="a.html")
    hostile.parse(pdf(), name="a.pdf")
    loaded = set(do(hostile, "tell", "modules").split())
    assert "trafilatura" in loaded
    heavy = {"torch", "openvino", "transformers", "pydantic", "sqlalchemy", "httpx"}
    assert not loaded & heavy


@pytest.mark.parametrize(
    "command", [(sys.executable, "-c", "raise SystemExit('no such thing')"), ("/no/such/python",)]
)
def test_a_child_that_does_not_start(command):
    with closing(ParserPool(LIMITS, command=command)) as pool:
        with pytest.raises(
            RagError, match=r"did not start\. no such thing|cannot be started"
        ) as raised:
            pool.parse(b"good", name="good.txt")
        assert type(raised.value) is RagError


def asked(**changes):
    fields = {"name": "a", "media_type": None, "title": None, "max_chars": 5, "options": Options()}
    return child._Asked(**(fields | changes))


def answered(header, *, body=b"12345", output=10_000, **changes):
    return child._answer(json.dumps(header).encode(), body, 1, asked(**changes), output)


@pytest.mark.parametrize(
    "change",
    [
        {"number": 2},  # that of the document before, come late
        {"pages": [6]},
        {"pages": ["x"]},
        {"headings": [{"start": -1, "level": 1, "title": "x"}]},
        {"title": None},
        {"error": "Cancelled", "message": "", "hint": ""},
        {"error": "SystemExit", "message": "", "hint": ""},
        {"error": ["RagError"], "message": "", "hint": ""},
        {"attachments": [["a.txt", "text/plain", 6]]},
        {"attachments": [["a.txt", "text/plain", -1]]},
        {"attachments": [["a.txt", "text/plain"]]},
        {"attachments": [["", "text/plain", 1]]},
        {"attachments": [["a\u202eb", "text/plain", 1]]},
        {"attachments": [["a" * 300, "text/plain", 1]]},
        {"attachments": {"a.txt": 1}},
    ],
)
def test_an_answer_is_not_trusted(change):
    good = {"number": 1, "title": "a", "media_type": "b", "pages": [0]}
    assert answered(good).text == "12345"
    with pytest.raises((ValueError, TypeError)):
        answered({**good, **change})
    with pytest.raises(ValueError, match="too long"):
        answered(good, max_chars=4)


def test_attachments_follow_the_text():
    good = {"number": 1, "title": "a", "media_type": "b"}
    files = [["a.txt", "text/plain", 2], ["b.txt", "text/html", 1]]
    document = answered({**good, "attachments": files})
    assert document.text == "12"
    assert [(one.name, one.content) for one in document.attachments] == [
        ("a.txt", b"34"), ("b.txt", b"5")
    ]  # fmt: skip
    for bounds in ({"max_attachments": 1}, {"max_attachment_bytes": 2}, {"max_attachments": 0}):
        with pytest.raises(ValueError, match="more attached"):
            answered({**good, "attachments": files}, options=Options(**bounds))


def test_what_is_attached_is_no_room_for_text():
    good = {"number": 1, "title": "a", "media_type": "b"}
    room = len(json.dumps(good)) + 4
    with pytest.raises(OverflowError):
        answered(good, output=room)
    assert answered(good, output=room + 1).text == "12345"


def test_a_parser_cannot_attach_more_than_it_may(hostile):
    few = Options(max_attachments=2, max_attachment_bytes=100)
    taken = hostile.parse(b"do attach 2 50", name="hostile.txt", options=few)
    assert [len(one.content) for one in taken.attachments] == [50, 50]
    for much in (b"do attach 3 10", b"do attach 2 51"):
        with pytest.raises(MalformedDocument, match="crashed"):
            hostile.parse(much, name="hostile.txt", options=few)
    with pytest.raises(ParseLimit, match="became more than"):
        hostile.parse(b"do attach 70 1048576", name="hostile.txt", options=few)
    assert_works(hostile)


def test_nonsense_is_no_answer():
    for header in ([], "text", {}):
        with pytest.raises(ValueError, match="something else"):
            answered(header)
    with pytest.raises((RecursionError, ValueError)):
        child._answer(b"[" * 1_000_000, b"12345", 1, asked(), 10_000)


def fifo(path):
    os.mkfifo(path)
    return path
