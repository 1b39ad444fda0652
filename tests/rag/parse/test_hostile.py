"""Files made to harm and parsers gone mad: what comes out, and that the next file is parsed."""

import io
import sys
import zipfile
from contextlib import closing, suppress
from copy import copy
from dataclasses import replace
from pathlib import Path

import pytest

from rag import collection as shelf
from rag.errors import (
    MalformedDocument,
    NotFound,
    ParseLimit,
    RagError,
    TooLarge,
)
from rag.parse.child import ParserPool
from rag.sources import Source
from tests.rag.parse.pools import LIMITS, assert_works, do, hostile_pool, is_gone

LINUX = sys.platform == "linux"
LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a0 "ha">'
    + "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
    + "]>"
)
W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
TYPES = (
    '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.'
    'relationships+xml"/><Override PartName="/word/document.xml" ContentType="application/vnd.'
    'openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>'
)
RELATIONS = (
    '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    '<Relationship Id="r1" Target="word/document.xml" Type="http://schemas.openxmlformats.org/'
    'officeDocument/2006/relationships/officeDocument"/></Relationships>'
)


@pytest.fixture(scope="module")
def pool():
    made = ParserPool(LIMITS)
    yield made
    made.close()


@pytest.fixture(scope="module")
def hostile():
    made = hostile_pool()
    yield made
    made.close()


def zipped(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def docx(body, head=""):
    document = f'{head}<w:document xmlns:w="{W}"><w:body>{body}</w:body></w:document>'
    parts = {"[Content_Types].xml": TYPES, "_rels/.rels": RELATIONS}
    return zipped({**parts, "word/document.xml": document})


def words(text):
    return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"


def pdf(*objects):
    """A file of numbered objects; the first is the catalog."""
    content, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(content))
        content += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size, start = len(objects) + 1, len(content)
    content += b"xref\n0 %d\n0000000000 65535 f \n%s" % (size, table)
    return content + b"trailer\n<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % (size, start)


def test_the_files_here_would_be_read_if_they_were_harmless(pool):
    assert pool.parse(docx(words("harmless")), name="a.docx").text == "harmless"


def test_a_zip_bomb_is_refused_by_what_it_says(pool):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", bytes(20_000_000))
        for number in range(40):  # all of them the same bytes
            archive.filelist.append(copy(archive.filelist[0]))
            archive.filelist[-1].filename = f"word/{number}.xml"
    with pytest.raises(TooLarge, match="unpacks to"):
        pool.parse(buffer.getvalue(), name="bomb.docx")
    assert_works(pool)


def test_a_zip_bomb_that_passes_for_a_large_document_runs_out_of_memory():
    with closing(ParserPool(replace(LIMITS, memory_mb=400))) as pool:
        bomb = docx(words("a") * 3_000_000)  # 100 MB of XML, ten times that as a tree
        assert len(bomb) < 2_000_000
        with pytest.raises(ParseLimit, match=r"bomb\.docx needed more than 400 MB") as raised:
            pool.parse(bomb, name="bomb.docx")
        assert "RAG_PARSE_MEMORY_MB" in raised.value.hint
        assert_works(pool)


@pytest.mark.parametrize("name", ["laughs.xml", "laughs.svg", "laughs"])
def test_billion_laughs_are_not_laughed(pool, name):
    with pytest.raises(MalformedDocument, match="amplification"):
        pool.parse(f"{LAUGHS}<x>&a9;</x>".encode(), name=name)
    assert_works(pool)


def test_a_drawing_is_read_as_xml_or_as_the_text_that_it_is(pool):
    drawing = f"{LAUGHS}<svg><text>one</text></svg>"
    assert pool.parse(drawing.encode(), name="a.svg").text == "text: one"
    drawing = drawing.partition("?>")[2].replace("one", "&a9;")
    assert pool.parse(drawing.encode(), name="laughs.svg").text == drawing
    assert_works(pool)


def test_billion_laughs_in_a_word_document(pool):
    with pytest.raises(MalformedDocument, match="amplification"):
        pool.parse(docx(words("&a9;"), head=LAUGHS), name="laughs.docx")
    assert_works(pool)


def test_an_external_entity_is_not_fetched(pool, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    head = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "{secret.as_uri()}">]>'
    page = f"{head}<x><p>before</p><p>&e;</p></x>"
    assert pool.parse(page.encode(), name="a.xml").text == "before\n\n&e;"
    text = pool.parse(docx(words("before") + words("&e;"), head=head), name="a.docx").text
    assert text == "before"
    assert_works(pool)


def test_html_100_000_levels_deep(pool):
    deep = "<div>" * 100_000 + "bottom" + "</div>" * 100_000
    page = f"<html><body><p>top</p>{deep}</body></html>"
    assert pool.parse(page.encode(), name="deep.html").text.startswith("top")
    assert_works(pool)


@pytest.mark.parametrize("name", ["deep.json", "deep.jsonl", "deep.ipynb"])
def test_json_100_000_levels_deep(pool, name):
    with pytest.raises(MalformedDocument, match="nested too deeply"):
        pool.parse(b"[" * 100_000 + b"]" * 100_000, name=name)
    assert_works(pool)


def test_a_pdf_of_100_000_pages():
    pages = b"<</Type/Pages/Count 100000/Kids[%s]>>" % (b"3 0 R " * 100_000)
    page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]/Contents 4 0 R/Resources 6 0 R>>"
    stream = b"<</Length 27>>stream\nBT/F 9 Tf 9 9 Td(word)Tj ET\nendstream"
    font = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"
    paper = pdf(
        b"<</Type/Catalog/Pages 2 0 R>>", pages, page, stream, font, b"<</Font<</F 5 0 R>>>>"
    )
    with closing(ParserPool(replace(LIMITS, cpu_seconds=1))) as pool:
        with pytest.raises(ParseLimit, match="1 s of CPU time"):
            pool.parse(paper, name="long.pdf")
        assert_works(pool)


def test_a_pdf_whose_page_tree_is_a_ring(pool):
    ring = b"<</Type/Pages/Count 2/Kids[3 0 R]/Parent 3 0 R>>"
    back = b"<</Type/Pages/Count 2/Kids[2 0 R]/Parent 2 0 R>>"
    with pytest.raises(MalformedDocument):
        pool.parse(pdf(b"<</Type/Catalog/Pages 2 0 R>>", ring, back), name="ring.pdf")
    assert_works(pool)


def test_a_file_of_4_gb_is_refused_without_being_read(pool, rag, tmp_path):
    large = tmp_path / "large.txt"
    with large.open("wb") as file:
        file.truncate(4 * 2**30)
    shelf.ensure(rag.parts, rag.scope, "default")
    before = file_bytes_read()
    for refuse in (
        lambda: pool.parse(large, name="large.txt"),
        lambda: rag.add(Source("large.txt", "large.txt", path=large)),
    ):
        with pytest.raises(TooLarge, match=r"4096\.0 MB"):
            refuse()
    assert rag.ingest(large)[0].error.startswith("large.txt has 4096.0 MB")
    assert file_bytes_read() - before < 2**20
    assert_works(pool)


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("../../../etc/passwd.txt", "passwd"),
        ("..\\..\\windows\\win.txt", "win"),
        ("a\x00b.txt", "ab"),
        ("invoice\u202efdp.txt", "invoice\u202efdp"),
        ("-rf.txt", "-rf"),
        ("a\nb.txt", "a b"),
    ],
)
def test_a_name_is_only_a_name(rag, name, title):
    shelf.ensure(rag.parts, rag.scope, "default")
    report = rag.add(Source(name, name, content=b"Some words."))
    assert (report.status, report.title) == ("ingested", title)


def test_a_path_that_no_system_has_is_not_found(rag):
    shelf.ensure(rag.parts, rag.scope, "default")
    for path in ("a\x00b.txt", "../" * 2000 + "a.txt"):
        with pytest.raises(NotFound):
            rag.ingest(path)


@pytest.mark.parametrize(
    ("action", "limits", "message", "setting"),
    [
        ("spin", {"cpu_seconds": 1}, "1 s of CPU time to read", "CPU_SECONDS"),
        ("spin", {"wall_seconds": 0.2}, r"0\.2 s to read", "WALL_SECONDS"),
        ("wait", {"wall_seconds": 0.2}, r"0\.2 s to read", "WALL_SECONDS"),
        ("print_for_ever", {"wall_seconds": 0.2}, r"0\.2 s to read", "WALL_SECONDS"),
        ("allocate", {"memory_mb": 300}, "300 MB of memory", "MEMORY_MB"),
        ("allocate_at_once", {"memory_mb": 300}, "300 MB of memory", "MEMORY_MB"),
        ("swell", {"output_mb": 1}, "1 MB of text", "OUTPUT_MB"),
        ("answer_endlessly", {}, "64 MB of text", "OUTPUT_MB"),
    ],
)
def test_a_limit_ends_the_document_and_names_its_setting(action, limits, message, setting):
    with closing(hostile_pool(**limits)) as pool:
        pid = int(do(pool, "tell", "pid"))
        with pytest.raises(ParseLimit, match=rf"^hostile\.txt .* more than {message}") as raised:
            do(pool, action)
        assert f"RAG_PARSE_{setting}" in raised.value.hint
        assert is_gone(pid)
        assert_works(pool)


def test_cpu_time_is_counted_for_each_document():
    with closing(hostile_pool(cpu_seconds=1)) as pool:
        pids = {do(pool, "work", "0.6") for _ in range(4)}
        assert len(pids) == 1


@pytest.mark.parametrize(
    ("action", "how"),
    [
        (["segfault"], "Segmentation fault.*"),
        (["leave", "3"], "exit code 3"),
        (["leave", "0"], "exit code 0"),
        (["answer_nonsense"], "Killed.*"),
        (["raise_unknown_error"], "Killed.*"),
    ],
)
def test_a_crash_is_that_of_its_document(hostile, action, how):
    with pytest.raises(MalformedDocument, match=rf"crashed on hostile\.txt \({how}\)"):
        do(hostile, *action)
    assert_works(hostile)


def test_the_log_tells_what_a_crashed_parser_wrote(hostile, caplog):
    do(hostile, "print_much")
    with pytest.raises(MalformedDocument, match="crashed"):
        do(hostile, "complain_and_crash")
    last = caplog.records[-1].getMessage()
    assert last.endswith(r"it | 'hurts \x1b[31m'")
    assert "'hostile.txt'" in last
    assert "xxx" not in last


@pytest.mark.parametrize("action", ["crash_next", "leave_after"])
def test_a_crash_after_its_document_is_not_that_of_the_next(hostile, action):
    do(hostile, action)
    assert_works(hostile)


def test_a_second_answer_is_not_that_of_the_next_document(hostile):
    with suppress(MalformedDocument):  # both may have come in time to be noticed
        do(hostile, "answer_twice")
    assert_works(hostile)


def test_a_fault_of_the_program_is_not_the_document_s(hostile, caplog):
    with pytest.raises(RagError, match="NameError: no such name") as raised:
        do(hostile, "fail_inside")
    assert type(raised.value) is RagError
    assert "in fail_inside" in caplog.text
    assert_works(hostile)


def test_what_a_parser_prints_is_no_answer(hostile):
    assert do(hostile, "print_much") == "printed"
    assert_works(hostile)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (["dial"], "PermissionError: socket"),
        (["fork"], "PermissionError: os.fork"),
        (["run"], "PermissionError: subprocess.Popen"),
    ],
)
def test_a_parser_opens_no_socket_and_starts_no_process(hostile, action, message):
    with pytest.raises(MalformedDocument, match=message):
        do(hostile, *action)
    assert_works(hostile)


@pytest.mark.skipif(not LINUX, reason="there is no filter of system calls elsewhere")
@pytest.mark.parametrize("action", ["dial_natively", "fork_natively"])
def test_nor_does_native_code(hostile, action):
    assert do(hostile, action).endswith(" -1")
    assert_works(hostile)


def test_threads_start(hostile):
    assert do(hostile, "start_threads") == "from a thread"


def test_a_parser_writes_no_file(hostile, tmp_path):
    with pytest.raises(MalformedDocument, match="File too large"):
        do(hostile, "write", str(tmp_path / "written"))
    assert (tmp_path / "written").stat().st_size == 0
    assert_works(hostile)


def file_bytes_read():
    """Bytes that this process has asked the system for; 0 where it does not say."""
    if not LINUX:
        return 0
    counters = Path("/proc/self/io").read_text()
    return int(counters.partition("rchar: ")[2].partition("\n")[0])
