import io
import zipfile

import pytest

from rag.errors import EncryptedDocument, MalformedDocument, TooLarge
from rag.parse import archive as module
from rag.parse.archive import checked_office_file, open_archive, read_member


def zipped(members, compression=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_members_are_read_and_missing_ones_are_none():
    with open_archive(zipped({"a.xml": "text"})) as archive:
        assert read_member(archive, "a.xml") == b"text"
        assert read_member(archive, "b.xml") is None


def test_a_bomb_is_refused_before_it_is_unpacked(monkeypatch):
    monkeypatch.setattr(module, "MAX_UNPACKED_BYTES", 1_000_000)
    with pytest.raises(TooLarge, match="1,000,000"), open_archive(zipped({"a": bytes(1_000_001)})):
        pass


def test_an_absurd_ratio_is_refused(monkeypatch):
    monkeypatch.setattr(module, "_RATIO_MATTERS_FROM", 1_000)
    data = zipped({f"{n}": bytes(1_000_000) for n in range(10)})
    assert len(data) * 500 < 10_000_000
    monkeypatch.setattr(module, "_MAX_RATIO", 500)
    with pytest.raises(TooLarge, match="times its size"), open_archive(data):
        pass


def test_damage_inside_a_member_is_malformed():
    data = bytearray(zipped({"a": b"0123456789" * 100}, zipfile.ZIP_STORED))
    data[60] ^= 0xFF  # one byte of the content: the checksum no longer fits
    with pytest.raises(MalformedDocument, match="damaged"), open_archive(bytes(data)) as archive:
        archive.read("a")


def test_password_protected_members():
    data = bytearray(zipped({"a": "x"}))
    central = data.index(b"PK\x01\x02")
    data[central + 8] |= 1  # the flag that marks a member as encrypted
    with pytest.raises(EncryptedDocument), open_archive(bytes(data)):
        pass


def test_strict_and_macro_files_are_rewritten_and_others_left_alone():
    plain = zipped({"_rels/.rels": "transitional", "[Content_Types].xml": ""})
    assert checked_office_file(plain).getvalue() == plain
    strict = zipped(
        {
            "_rels/.rels": "http://purl.oclc.org/ooxml/officeDocument/relationships/x",
            "[Content_Types].xml": "application/vnd.ms-word.document.macroEnabled.main+xml",
        }
    )
    with open_archive(checked_office_file(strict).getvalue()) as archive:
        assert archive.read("_rels/.rels") == (
            b"http://schemas.openxmlformats.org/officeDocument/2006/relationships/x"
        )
        assert b"wordprocessingml.document.main" in archive.read("[Content_Types].xml")
