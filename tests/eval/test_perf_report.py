"""What people and programs read of a run."""

import io
import json

import pytest
from rich.console import Console

from eval.perf import report
from eval.perf.figures import Absent, Figure, Section


@pytest.fixture
def section():
    made = Section("embed", ["ours", "ours int8"])
    made.figures = [
        Figure("bge", "throughput", "passages/s", "ours", (30.0, 20.0, 50.0)),
        Figure("bge", "throughput", "passages/s", "sentence-transformers", (10.0, 10.0, 10.0)),
        Figure("bge", "cosine", "", "ours", (0.999,), compared=False),
        Figure("bge", "cosine", "", "fastembed", (0.9999,), compared=False),
    ]
    made.absent = [Absent("FlagReranker", "does not install: ERROR: no [such] version")]
    made.notes = ["32 passages"]
    return made


def shown(section):
    console = Console(file=io.StringIO(), width=160)
    report.show(console, section)
    return console.file.getvalue()


def test_the_table_has_median_spread_and_ratio(section):
    (row,) = [line for line in shown(section).splitlines() if "sentence-transformers" in line]
    assert "10 passages/s" in row
    assert "3.00x (2.00-5.00)" in row
    (ours,) = [line for line in shown(section).splitlines() if "30 passages/s" in line]
    assert "20-50" in ours
    assert "x (" not in ours  # ours is not compared with itself


def test_agreement_is_shown_and_not_compared(section):
    (row,) = [line for line in shown(section).splitlines() if "fastembed" in line]
    assert "x (" not in row
    assert len(report.document(section, {})["section"]["ratios"]) == 1


def test_what_did_not_run_is_said_with_its_reason(section):
    assert "not measured: FlagReranker: does not install: ERROR: no [such] version" in shown(
        section
    )


def test_json_holds_values_ratios_machine_and_versions(section, tmp_path):
    written = report.write(report.document(section, {"rounds": "3"}), section, tmp_path)
    assert [path.name for path in written] == ["perf-embed.json", "perf-embed.png"]
    read = json.loads(written[0].read_text())
    assert read["section"]["figures"][0]["values"] == [30, 20, 50]
    assert read["section"]["absent"] == [
        {"side": "FlagReranker", "why": "does not install: ERROR: no [such] version"}
    ]
    assert read["section"]["ratios"] == [
        {
            "workload": "bge",
            "measure": "throughput",
            "ours": "ours",
            "peer": "sentence-transformers",
            "ratio": 3,
            "low": 2,
            "high": 5,
        }
    ]
    assert read["machine"]["cores"] >= 1
    assert read["versions"]["ours"]["torch"]
    assert any(pin.startswith("fastembed==") for pin in read["versions"]["fastembed"])


def test_the_plot_is_a_picture(section, tmp_path):
    report.write(report.document(section, {}), section, tmp_path)
    assert (tmp_path / "perf-embed.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_to_compare_makes_no_plot(tmp_path):
    alone = Section("limits", ["ours"])
    alone.figures = [Figure("memory", "read", "GB/s", "the machine", (20.0,), compared=False)]
    written = report.write(report.document(alone, {}), alone, tmp_path)
    assert [path.name for path in written] == ["perf-limits.json"]
