"""Rows of JSON in a file that grows, a line each. A kill costs the line that it falls into."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def take_up(path: Path, only: str = "") -> list[Any]:
    """The rows of whole lines, or what is `only` in each. What a kill left of another is cut off.

    A folder for the file is made where there is none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return []
    rows, end = [], 0
    with path.open("r+b") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            row = json.loads(line)
            rows.append(row[only] if only else row)
            end += len(line)
        file.truncate(end)
    return rows


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row, whole before this returns."""
    with path.open("a", encoding="utf8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
