"""Real and deliberately awkward files through the parsers, against what a manifest says of each:

    python -m eval.documents FOLDER [--ocr off] [--csv FILE] [--markdown FILE]

Every file is parsed in a child process of its own, within the limits of the settings, and cut for
the starter profile's embedder. Locked files are tried without a password, with a wrong one and with
the right one. Prints a table by type; exit code 1 when anything differs from the manifest, crashes
its parser or breaks a limit. `manifest.jsonl` has a line per file: `file`, `type`, `expect`
(`text`, `empty`, `error:encrypted`, `error:malformed`, `needs-ocr`), and what its text holds.
"""

import argparse
import csv
import json
import sys
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rag import errors as e
from rag.embed import Embedder, load_embedder
from rag.ingest import parse_options
from rag.parse import ocr
from rag.parse.child import ParserPool
from rag.parse.options import Options
from rag.parts import parse_limits
from rag.settings import PROFILES, Settings, load_settings
from rag.sources import Source
from rag.split import split_document
from rag.types import Document

_OUTCOMES = (
    (e.EmptyDocument, "empty"),
    (e.EncryptedDocument, "error:encrypted"),
    (e.NeedsOcr, "needs-ocr"),
    (e.UnsupportedType, "unsupported"),
    (e.ParseLimit, "limit"),
    (e.MalformedDocument, "error:malformed"),
)
_CRASHED = "The parser crashed"
_WRONG = "certainly not this one"


@dataclass(frozen=True, slots=True)
class Try:
    """A file of the manifest, once: as it is, or with a password."""

    entry: Mapping[str, Any]
    how: str = ""
    password: str | None = None
    wanted: str = ""
    contains: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """What became of a file. Memory in MB: resident, and address space, which is limited."""

    file: str
    type: str
    wanted: str
    got: str
    differs: str
    pages: int = 0
    characters: int = 0
    attachments: int = 0
    chunks: int = 0
    tokens: int = 0
    truncated_tokens: int = 0
    seconds: float = 0.0
    resident_mb: int = 0
    address_mb: int = 0
    said: str = ""  # the warnings, or the error


def main() -> int:
    options = _options()
    settings = load_settings(ocr=options.ocr)
    has_ocr = not ocr.obstacle(_parse_options(settings, None))
    embedder = load_embedder(PROFILES["starter"].embedder)
    rows = [
        examine(options.folder, one, settings, embedder, has_ocr=has_ocr)
        for one in tries(options.folder)
    ]
    if options.csv:
        _write_csv(rows, options.csv)
    if options.markdown:
        options.markdown.write_text(markdown(rows), encoding="utf8")
    print(summary(rows, settings, has_ocr=has_ocr))
    for row in rows:
        if row.differs:
            print(f"{row.file}: wanted {row.wanted}, got {row.got}: {row.differs} {row.said}")
    return 1 if any(row.differs for row in rows) else 0


def tries(folder: Path) -> Iterator[Try]:
    """Every file of the manifest, locked ones also with a wrong and the right passwords."""
    for line in (folder / "manifest.jsonl").read_text(encoding="utf8").splitlines():
        entry = json.loads(line)
        yield Try(entry, wanted=entry["expect"], contains=entry["contains"])
        if entry["expect"] == "error:encrypted" and entry["type"] != "eml":
            yield Try(entry, "wrong password", _WRONG, "error:encrypted")
        for which in ("password", "owner_password"):
            if which in entry:
                opened = entry["contains_with_password"]
                wanted = "text" if opened else "needs-ocr"
                yield Try(entry, which.replace("_", " "), entry[which], wanted, opened)


def examine(
    folder: Path, one: Try, settings: Settings, embedder: Embedder, *, has_ocr: bool
) -> Row:
    """Parse a file in a new child, cut it, and compare."""
    entry = one.entry
    name = f"{entry['file']} ({one.how})" if one.how else entry["file"]
    with closing(ParserPool(parse_limits(settings))) as pool:
        pool.parse(b"started", name="started.txt")
        begun = time.monotonic()
        try:
            parsed: Document | e.RagError = pool.parse(
                folder / entry["file"],
                name=Path(entry["file"]).name,
                max_chars=settings.max_text_chars,
                options=_parse_options(settings, one.password),
            )
        except e.RagError as error:
            parsed = error
        seconds = time.monotonic() - begun
        resident, address = _peaks(pool)
    got = outcome(parsed)
    measured: dict[str, Any] = {
        "seconds": round(seconds, 2), "resident_mb": resident, "address_mb": address,
    }  # fmt: skip
    differs = "; ".join(differences(one, parsed, got, has_ocr=has_ocr))
    if isinstance(parsed, e.RagError):
        return Row(name, entry["type"], one.wanted, got, differs, **measured, said=str(parsed))
    cut = split_document(
        parsed,
        document_id=entry["file"],
        generation=1,
        tokenizer=embedder.tokenizer,
        chunk_tokens=min(settings.chunk_tokens, embedder.max_tokens),
        overlap=settings.chunk_overlap,
        instruction=embedder.preset.passage_instruction,
    )
    truncated = sum(max(0, chunk.tokens - embedder.max_tokens) for chunk in cut.chunks)
    if truncated:
        differs = "; ".join(filter(None, (differs, f"{truncated} tokens truncated")))
    return Row(
        name,
        entry["type"],
        one.wanted,
        got,
        differs,
        pages=len(parsed.pages),
        characters=len(parsed.text),
        attachments=len(parsed.attachments),
        chunks=len(cut.chunks),
        tokens=sum(chunk.tokens for chunk in cut.chunks),
        truncated_tokens=truncated,
        **measured,
        said=" ".join((*parsed.warnings, *cut.warnings)),
    )


def outcome(parsed: Document | e.RagError) -> str:
    """In the manifest's words."""
    if isinstance(parsed, Document):
        return "text"
    if parsed.message.startswith(_CRASHED):
        return "crash"
    kinds = (words for kind, words in _OUTCOMES if isinstance(parsed, kind))
    return next(kinds, type(parsed).__name__)


def differences(
    one: Try, parsed: Document | e.RagError, got: str, *, has_ocr: bool
) -> Iterator[str]:
    """What is not as the manifest says."""
    entry, wanted = one.entry, one.wanted
    if got in ("crash", "limit"):
        yield got
    elif isinstance(parsed, Document) and wanted == "text":
        yield from _differences_of_text(one, parsed)
    elif isinstance(parsed, Document) and wanted == "needs-ocr" and has_ocr:
        text = comparable(parsed.text).casefold()
        for words in entry.get("contains_after_ocr", ()):
            if comparable(words).casefold() not in text:
                yield f"OCR did not read {words!r}"
    elif got != wanted and not _is_allowed(entry, wanted, got, has_ocr=has_ocr):
        yield f"{got} instead of {wanted}"
    if one.how == "wrong password" and "does not open" not in str(parsed):
        yield "it does not say that the password is wrong"


def _differences_of_text(one: Try, document: Document) -> Iterator[str]:
    entry, text = one.entry, comparable(document.text)
    for words in one.contains:
        if comparable(words) not in text:
            yield f"{words!r} is missing"
    if one.how:
        return
    for words in entry.get("absent", ()):
        if comparable(words) in text:
            yield f"{words!r} is there"
    alternatives = entry.get("contains_any_of")
    if alternatives and not any(comparable(words) in text for words in alternatives):
        yield f"none of {alternatives} is there"
    if entry["type"] == "pdf":
        yield from _differences_of_pages(entry, document)


def _differences_of_pages(entry: Mapping[str, Any], document: Document) -> Iterator[str]:
    pages = document.pages
    if len(pages) != entry["pages"]:
        yield f"{len(pages)} pages instead of {entry['pages']}"
        return
    ends = (*pages[1:], len(document.text))
    for number, words in entry.get("page_texts", {}).items():
        page = document.text[pages[int(number) - 1] : ends[int(number) - 1]]
        if comparable(words) not in comparable(page):
            yield f"{words!r} is not on page {number}"


def _is_allowed(entry: Mapping[str, Any], wanted: str, got: str, *, has_ocr: bool) -> bool:
    """Whether the manifest accepts another outcome than the one that it names."""
    match wanted, got:
        case "text", "unsupported":
            return bool(entry.get("optional"))
        case "text", "error:malformed" | "empty":
            return bool(entry.get("may_fail"))
        case "error:malformed", "unsupported":
            return True  # a clear error that names another type
        case "error:malformed", "text":
            return f"reading it as {_real_type(entry)} is acceptable" in entry.get("note", "")
        case "error:encrypted", "empty":
            return "an empty result is acceptable" in entry.get("note", "")
        case "needs-ocr", "empty":
            return has_ocr and not entry.get("contains_after_ocr")
    return False


def _real_type(entry: Mapping[str, Any]) -> str:
    return "DOCX" if "DOCX" in entry.get("note", "") else "text"


def comparable(text: str) -> str:
    """NFKC, no soft hyphens and byte order marks, single spaces."""
    text = unicodedata.normalize("NFKC", text).replace("\u00ad", "").replace("\ufeff", "")
    return " ".join(text.split())


def summary(rows: Sequence[Row], settings: Settings, *, has_ocr: bool) -> str:
    """A line per type."""
    lines = [
        f"{len(rows)} attempts, {'with' if has_ocr else 'without'} OCR; limits:"
        f" {settings.parse_memory_mb} MB of address space, {settings.parse_cpu_seconds} s of CPU"
        f" time, {settings.parse_wall_seconds:g} s.",
        "",
        "| type | attempts | as wanted | text | refused | pages | chunks | tokens | truncated"
        " | longest s | resident MB | address MB |",
        "| --- |" + " ---: |" * 11,
    ]
    kinds = sorted({row.type for row in rows})
    for kind in (*kinds, "all"):
        some = [row for row in rows if kind in (row.type, "all")]
        text = [row for row in some if row.got == "text"]
        cells = (
            kind, len(some), sum(not row.differs for row in some), len(text),
            len(some) - len(text), sum(row.pages for row in text),
            sum(row.chunks for row in text), sum(row.tokens for row in text),
            sum(row.truncated_tokens for row in text), max(row.seconds for row in some),
            max(row.resident_mb for row in some), max(row.address_mb for row in some),
        )  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def markdown(rows: Sequence[Row]) -> str:
    """A line per attempt."""
    names = [field.name for field in fields(Row)]
    lines = [f"| {' | '.join(names)} |", "|" + " --- |" * len(names)]
    for row in rows:
        cells = (str(value).replace("|", "\\|") for value in asdict(row).values())
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _write_csv(rows: Sequence[Row], path: Path) -> None:
    with path.open("w", newline="", encoding="utf8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(map(asdict, rows))


def _parse_options(settings: Settings, password: str | None) -> Options:
    return parse_options(settings, Source(name="", origin="", password=password))


def _peaks(pool: ParserPool) -> tuple[int, int]:
    """The most that the waiting child has taken, resident and as address space; 0 if it is gone."""
    found = {"VmHWM": 0, "VmPeak": 0}
    for child in pool._idle:
        for line in Path(f"/proc/{child.pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in found:
                found[name] = int(value.split()[0]) // 1024
    return found["VmHWM"], found["VmPeak"]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="with a manifest.jsonl")
    parser.add_argument("--ocr", choices=["auto", "off"], default="auto")
    parser.add_argument("--csv", type=Path, help="write a line per attempt")
    parser.add_argument("--markdown", type=Path, help="the same as a Markdown table")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
