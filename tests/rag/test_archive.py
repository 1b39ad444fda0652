"""The file that a backup is: whole and unaltered, or refused."""

import hashlib
import json
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.archive import FORMAT, SEAL_BYTES, Archive, Manifest, Writer
from rag.errors import MalformedBackup, NotFound

LETTER = b"Dear Mr Stevenson, the lamp is lit. " * 40
NAME = hashlib.sha256(LETTER).hexdigest()
VECTORS = np.array([[0.6, 0.8], [1, 0]], dtype=np.float32)


def packed(**changes) -> bytes:
    """A backup with a member of each kind."""
    writer = Writer()
    with writer.member("catalog/collections.jsonl") as member:
        member.write_line({"id": 7, "name": "Leuchttürme"})
    with writer.member("objects/000000") as member:
        member.write_line({"sha256": NAME, "bytes": len(LETTER)})
        member.write(LETTER)
    with writer.member("points/7/000000.jsonl") as member:
        member.write_line({"id": "a"})
        member.write_line({"id": "b"})
    with writer.member("points/7/000000.npy", compressed=False) as member:
        member.write(npy(VECTORS))
    fields = {
        "id": "x", "created_at": "2026-01-01", "made_by": {}, "revision": "1", "settings": {},
        "last_ids": {}, "counts": {}, "members": writer.members, **changes,
    }  # fmt: skip
    return writer.take(0) + writer.finish(Manifest(**fields))


def npy(vectors) -> bytes:
    file = BytesIO()
    np.save(file, vectors)
    return file.getvalue()


WHOLE = packed()


@pytest.fixture(scope="module")
def at(tmp_path_factory):
    """Writes a file and says where."""
    path = tmp_path_factory.mktemp("backups") / "some.backup"

    def write(data: bytes) -> Path:
        path.write_bytes(data)
        return path

    return write


def test_what_was_written_comes_back(at):
    with Archive.open(at(WHOLE)) as archive:
        rows = list(archive.lines("catalog/collections.jsonl"))
        assert rows == [{"id": 7, "name": "Leuchttürme"}]
        objects = [(name, b"".join(pieces)) for name, pieces in archive.objects()]
        assert objects == [(NAME, LETTER)]
        ((lines, vectors),) = archive.points(7)
        assert lines == [{"id": "a"}, {"id": "b"}]
        assert np.array_equal(vectors, VECTORS)
        assert list(archive.points(8)) == []


def test_any_zip_tool_reads_it_and_sha256sum_checks_it(at):
    with zipfile.ZipFile(at(WHOLE)) as members:
        assert members.testzip() is None
        assert members.namelist()[-1] == "manifest.json"
        manifest = json.loads(members.read("manifest.json"))
        for name, of in manifest["members"].items():
            assert hashlib.sha256(members.read(name)).hexdigest() == of["sha256"]
    assert hashlib.sha256(WHOLE[:-SEAL_BYTES]).hexdigest() == WHOLE[-SEAL_BYTES:].decode()


@given(st.integers(0, len(WHOLE) - 1))
def test_half_of_one_is_refused_wherever_it_ends(at, length):
    with pytest.raises(MalformedBackup):
        Archive.open(at(WHOLE[:length]))


@given(st.integers(0, len(WHOLE) * 8 - 1))
def test_one_flipped_bit_is_noticed_wherever_it_is(at, bit):
    altered = bytearray(WHOLE)
    altered[bit // 8] ^= 1 << bit % 8
    with pytest.raises(MalformedBackup):
        Archive.open(at(bytes(altered)))


def sealed_zip(**members: bytes) -> bytes:
    """A zip of somebody else's with a right checksum at its end."""
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for name, data in members.items():
            made.writestr(name, data)
        made.comment = b"0" * SEAL_BYTES
    body = file.getvalue()[:-SEAL_BYTES]
    return body + hashlib.sha256(body).hexdigest().encode()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is no backup"),
        (b"%PDF-1.7 and so on", "is no backup"),
        (sealed_zip(notes=b"mine"), "is no backup"),
        (sealed_zip(**{"manifest.json": b"{"}), "cannot be read"),
        (sealed_zip(**{"manifest.json": b"{}"}), "is no backup"),
        (WHOLE[:-SEAL_BYTES] + b"0" * SEAL_BYTES, "has changed"),
        (WHOLE[:-SEAL_BYTES], "is not whole"),
        (WHOLE + b"x", "is not whole"),
        (packed(format=FORMAT + 1), f"has format {FORMAT + 1}"),
        (packed(members={"objects/000000": {}}), "does not hold what its manifest says"),
    ],
)
def test_what_else_is_refused(at, data, says):
    with pytest.raises(MalformedBackup, match=says):
        Archive.open(at(data))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(NotFound, match="nowhere"):
        Archive.open(tmp_path / "nowhere")


def test_an_object_under_a_false_name_is_refused(at):
    writer = Writer()
    with writer.member("objects/000000") as member:
        member.write_line({"sha256": NAME, "bytes": 5})
        member.write(b"other")
    data = writer.take(0) + writer.finish(
        Manifest("x", "2026", {}, "1", {}, {}, {}, writer.members)
    )
    with Archive.open(at(data)) as archive:
        objects = archive.objects()  # kept: without it the member would be closed
        _, pieces = next(objects)
        with pytest.raises(MalformedBackup, match="not the one it is called"):
            list(pieces)


def test_a_file_that_changes_after_it_was_opened_is_noticed(at):
    path = at(WHOLE)
    with Archive.open(path) as archive:
        place = WHOLE.index(npy(VECTORS)) + len(npy(VECTORS)) - 1
        with path.open("r+b") as file:
            file.seek(place)
            file.write(b"!")
        with pytest.raises(MalformedBackup):
            list(archive.points(7))


def test_pieces_are_given_as_they_get_ready():
    writer = Writer()
    with writer.member("objects/000000", compressed=False) as member:
        member.write(b"x" * 1000)
        assert writer.take() == b""  # not worth a piece yet
        assert b"x" * 1000 in writer.take(1)
        assert writer.take(1) == b""
