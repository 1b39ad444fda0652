"""JSON, JSON Lines and notebooks: records as table rows, everything else as `path: value`."""

import json
from collections.abc import Iterator
from typing import Any

from rag.errors import MalformedDocument
from rag.parse.decode import decode
from rag.parse.draft import Draft
from rag.parse.markdown import write_markdown
from rag.parse.table import labelled_row

Json = Any


def parse_json(data: bytes, draft: Draft) -> None:
    """Read a JSON file. Raises MalformedDocument with line and column of the first error."""
    text = _text(data, draft)
    try:
        value = _loads(text)
    except json.JSONDecodeError as error:
        values = _values_by_line(text)
        if values is None:
            raise _malformed(error.msg, error.lineno, error.colno) from error
        draft.warn("This is JSON Lines: one value per line.")
        value = values
    _write(value, draft)


def parse_jsonl(data: bytes, draft: Draft) -> None:
    """Read one JSON value per line. Raises MalformedDocument with the number of a bad line."""
    values = []
    for number, line in enumerate(_text(data, draft).split("\n"), start=1):
        if line.strip():
            try:
                values.append(_loads(line))
            except json.JSONDecodeError as error:
                raise _malformed(error.msg, number, error.colno) from error
    _write(values, draft)


def parse_notebook(data: bytes, draft: Draft) -> None:
    """Read a Jupyter notebook: Markdown cells as Markdown, code cells as code, no outputs."""
    notebook = _loads_notebook(_text(data, draft))
    for cell in notebook["cells"]:
        source = cell.get("source", "")
        text = source if isinstance(source, str) else "".join(source)
        if cell.get("cell_type") == "markdown":
            write_markdown(text, draft)
        else:
            draft.code(text)


def _text(data: bytes, draft: Draft) -> str:
    decoded = decode(data)
    draft.warnings.extend(decoded.warnings)
    return decoded.text.removeprefix("\ufeff")


def _loads(text: str) -> Json:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise MalformedDocument("The JSON is nested too deeply.") from error


def _loads_notebook(text: str) -> dict[str, Json]:
    try:
        notebook = _loads(text)
    except json.JSONDecodeError as error:
        raise _malformed(error.msg, error.lineno, error.colno) from error
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        raise MalformedDocument("The notebook has no list of cells.")
    return notebook


def _malformed(problem: str, line: int, column: int) -> MalformedDocument:
    return MalformedDocument(f"Invalid JSON in line {line}, column {column}: {problem}.")


def _values_by_line(text: str) -> list[Json] | None:
    """The values of a JSON Lines file that is named .json, None when it is something else."""
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) < 2:
        return None
    try:
        return [json.loads(line) for line in lines]
    except (json.JSONDecodeError, RecursionError):
        return None


def _write(value: Json, draft: Draft) -> None:
    """Flat records become a table; a list a block per element; all else lines of its own."""
    if _is_table(value):
        draft.lines(_record_lines(value))
    elif isinstance(value, list):
        for element in value:
            draft.lines(list(_lines(element, "")))
    else:
        draft.lines(list(_lines(value, "")))


def _is_table(value: Json) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(record, dict) and record for record in value)
        and not any(isinstance(part, dict | list) for record in value for part in record.values())
    )


def _record_lines(records: list[dict[str, Json]]) -> list[str]:
    names = list(dict.fromkeys(name for record in records for name in record))
    return [
        labelled_row(names, [_scalar(record.get(name)) for name in names]) for record in records
    ]


def _lines(value: Json, path: str) -> Iterator[str]:
    """`path: value` for every leaf, with the names of all its parents: a line can stand alone."""
    if _is_table(value):
        for line in _record_lines(value):
            yield f"{path} | {line}" if path else line
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _lines(part, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and not any(isinstance(part, dict | list) for part in value):
        yield from _leaf(", ".join(filter(None, map(_scalar, value))), path)
    elif isinstance(value, list):
        for position, part in enumerate(value):
            yield from _lines(part, f"{path}[{position}]")
    else:
        yield from _leaf(_scalar(value), path)


def _leaf(text: str, path: str) -> Iterator[str]:
    if text:
        yield f"{path}: {text}" if path else text


def _scalar(value: Json) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)
