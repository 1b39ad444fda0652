import hashlib
import os
from pathlib import Path

import pytest

from rag.errors import InvalidInput, NotFound, TooLarge
from rag.sources import MAX_ID_CHARS, Source, check_id, check_metadata, derived_id, find


def test_an_id_is_the_name_for_people_and_a_hash_of_the_origin():
    digest = hashlib.sha256(b"/x/Hand Book (1).pdf").hexdigest()[:12]
    made = derived_id("Hand Book (1).pdf", "/x/Hand Book (1).pdf")
    assert made == f"hand-book-1-pdf-{digest}"
    assert derived_id("Hand Book (1).pdf", "/y") != made
    assert derived_id("文書", "o").startswith("document-")
    assert len(derived_id("a" * 300, "o")) == 60 + 1 + 12
    check_id(derived_id("a" * 300, "o"))


def test_a_given_id_wins():
    assert Source("a.txt", "/a.txt", id="mine").document_id == "mine"
    assert Source("a.txt", "/a.txt").document_id == derived_id("a.txt", "/a.txt")


def test_bytes_come_from_text_content_or_file(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"file")
    assert Source("a", "o", text="grün").read(5) == b"gr\xc3\xbcn"
    assert Source("a", "o", text="\ud800").read(5) == b"\xed\xa0\x80"  # half a pair is no crash
    assert Source("a", "o", text="").read(5) == b""
    assert Source("a", "o", content=b"bytes").read(5) == b"bytes"
    assert Source("a", "o", path=file).read(5) == b"file"
    assert Source("a", str(file)).read(5) == b"file"


def test_a_source_above_the_limit_is_refused(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"12345")
    for source in (
        Source("a.txt", "o", text="12345"),
        Source("a.txt", "o", content=b"12345"),
        Source("a.txt", "o", path=file),
    ):
        assert source.read(5) == b"12345"
        with pytest.raises(TooLarge, match=r"a\.txt has") as raised:
            source.read(4)
        assert "RAG_MAX_FILE_BYTES" in raised.value.hint


def test_what_is_no_readable_file_is_not_found(tmp_path):
    device = Path("/dev/zero")  # would never end
    too_long = tmp_path / ("a" * 5000)
    for path in (tmp_path / "gone.txt", tmp_path, device, too_long, Path("a\x00b")):
        with pytest.raises(NotFound, match="cannot be read"):
            Source("a", "o", path=path).read(2**20)


def test_folders_are_searched_in_order_without_hidden_files(tmp_path):
    for name in ("b.txt", "a/z.txt", "a/.hidden", ".git/config", "a/deep/c.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    found = list(find([tmp_path], metadata={"k": 1}))
    assert [os.path.relpath(source.origin, tmp_path.resolve()) for source in found] == [
        "a/deep/c.md",
        "a/z.txt",
        "b.txt",
    ]
    assert [source.name for source in found] == ["c.md", "z.txt", "b.txt"]
    assert all(source.metadata == {"k": 1} for source in found)
    # A hidden file that is named is meant; a folder may itself lie below a hidden one.
    assert [source.name for source in find([str(tmp_path / "a/.hidden")])] == [".hidden"]
    assert [source.name for source in find([tmp_path / ".git"])] == ["config"]


def test_the_same_file_has_one_id_however_it_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("a")
    monkeypatch.chdir(tmp_path)
    ids = {s.document_id for s in find(["a.txt", "./a.txt", tmp_path / "a.txt"])}
    assert len(ids) == 1


def test_a_path_that_is_not_there_is_named(tmp_path):
    with pytest.raises(NotFound, match="no file or folder"):
        list(find([tmp_path / "gone"]))


def test_a_file_name_that_is_no_text_can_be_kept(tmp_path):
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (source,) = find([tmp_path])
    check_id(source.document_id)
    assert source.read(9) == b"x"
    for value in (source.name, source.origin):
        value.encode("utf8")  # a database takes nothing else


def test_flat_metadata_are_accepted():
    check_metadata({"a": "x", "b": 1, "c": 1.5, "d": True, "e": ["x"], "f": (), "g": None}, 100)


@pytest.mark.parametrize("value", [{"k": 1}, [1], ["a", None], [["a"]], b"x", object()])
def test_nested_metadata_are_refused(value):
    with pytest.raises(InvalidInput, match="'deep' must be a text"):
        check_metadata({"deep": value}, 1000)


@pytest.mark.parametrize("number", [float("nan"), float("-inf"), 2**63, -(2**63) - 1])
def test_numbers_that_no_filter_finds_are_refused(number):
    with pytest.raises(InvalidInput, match="'n' is"):
        check_metadata({"n": number}, 1000)
    check_metadata({"most": 2**63 - 1, "least": -(2**63)}, 1000)


def test_metadata_are_limited():
    check_metadata({"a": "x"}, 10)  # {"a": "x"}
    with pytest.raises(TooLarge, match="more than 9 bytes"):
        check_metadata({"a": "x"}, 9)


def test_ids_are_printable_and_bounded():
    for good in ("a", "a b/ü?#", "x" * MAX_ID_CHARS):
        check_id(good)
    for bad in ("", " ", "a\nb", "a\0", "\ud800", "x" * (MAX_ID_CHARS + 1)):
        with pytest.raises(InvalidInput, match="1 to 512 printable characters"):
            check_id(bad)
