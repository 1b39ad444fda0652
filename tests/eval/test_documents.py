"""The table of awkward files, on a small folder with a manifest of its own."""

import json
import sys

import pytest
from fpdf import FPDF

from eval import documents


def locked(password):
    made = FPDF()
    made.add_page()
    made.set_font("Helvetica", size=12)
    made.cell(text="The lamp burns oil.")
    made.set_encryption("owner", user_password=password)
    return bytes(made.output())


FILES = {
    "a.txt": (b"The lamp burns oil.", {"expect": "text", "contains": ["lamp burns"]}),
    "b.txt": (b"  ", {"expect": "empty", "contains": []}),
    "c.pdf": (b"%PDF-1.7 torn", {"expect": "error:malformed", "contains": []}),
    "d.bin": (bytes(range(256)), {"expect": "text", "contains": ["x"], "optional": True}),
    "e.pdf": (
        locked("oil"),
        {
            "expect": "error:encrypted",
            "contains": [],
            "password": "oil",
            "contains_with_password": ["lamp burns"],
            "pages": 1,
        },
    ),
}


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    def examine(**changes):
        lines = []
        for name, (content, entry) in FILES.items():
            (tmp_path / name).write_bytes(content)
            kind = name.rpartition(".")[2]
            lines.append({"file": name, "type": kind, **entry, **changes.get(name[0], {})})
        manifest = "\n".join(map(json.dumps, lines))
        (tmp_path / "manifest.jsonl").write_text(manifest, encoding="utf8")
        table = tmp_path / "table.md"
        arguments = ["documents", str(tmp_path), "--ocr", "off", "--markdown", str(table)]
        monkeypatch.setattr(sys, "argv", arguments)
        code = documents.main()
        return code, capsys.readouterr().out, table.read_text(encoding="utf8")

    return examine


def test_everything_as_the_manifest_says(run):
    code, summary, table = run()
    assert code == 0
    # a, b, c and d once, e without a password, with a wrong one and with the right one.
    assert "7 attempts, without OCR" in summary
    (everything,) = [line for line in summary.splitlines() if line.startswith("| all")]
    assert everything.split(" | ")[1:4] == ["7", "7", "2"]
    assert "| e.pdf (password) | pdf | text | text |  | 1 |" in table
    assert "| d.bin | bin | text | unsupported |" in table


def test_what_differs_is_told(run):
    code, summary, _ = run(
        a={"contains": ["no lamp"]}, b={"expect": "text"}, e={"contains_with_password": ["gas"]}
    )
    assert code == 1
    assert "a.txt: wanted text, got text: 'no lamp' is missing" in summary
    assert "b.txt: wanted text, got empty" in summary
    assert "e.pdf (password): wanted text, got text: 'gas' is missing" in summary
