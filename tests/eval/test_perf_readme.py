"""The README's table is what was measured."""

import pytest

from eval.perf import readme, report
from eval.perf.figures import Figure, Section


@pytest.fixture
def results(tmp_path):
    section = Section("embed", ["ours", "ours int8"])
    section.figures = [
        Figure("bge", "throughput", "passages/s", "ours", (30.0, 20.0, 50.0)),
        Figure("bge", "throughput", "passages/s", "ours int8", (60.0, 60.0, 60.0)),
        Figure("bge", "throughput", "passages/s", "peer", (10.0, 10.0, 10.0)),
        Figure("bge", "cosine", "", "ours", (0.99999,), compared=False),
    ]
    limits = Section("limits", ["ours"])
    limits.figures = [Figure("memory", "read", "GB/s", "the machine", (20.0,), compared=False)]
    for each in (section, limits):
        report.write(report.document(each, {"rounds": "3"}), each, tmp_path)
    return tmp_path


def test_a_row_has_the_medians_and_how_many_times_better(results):
    lines = readme.table(results).splitlines()
    assert "| bge | throughput | 30, 60 passages/s | peer 3, 6 |" in lines
    assert "| bge | cosine | 0.99999  |  |" in lines
    assert "| memory | read | 20 GB/s |  |" in lines  # no side of ours: what the machine can do


def test_a_section_names_its_command(results):
    (head,) = [line for line in readme.table(results).splitlines() if "**embed**" in line]
    assert "`python -m eval.perf embed --rounds 3`" in head
    assert "ours, ours int8" in head


def test_the_readme_keeps_what_stands_around_the_table(results, tmp_path):
    page = tmp_path / "README.md"
    page.write_text(f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n", "utf8")
    readme.update(page, results)
    readme.update(page, results)
    begin, end = f"before\n{readme.BEGIN}\n", f"{readme.END}\nafter\n"
    assert page.read_text("utf8") == begin + readme.table(results) + end


def test_a_readme_without_marks_is_refused_and_kept(results, tmp_path):
    page = tmp_path / "README.md"
    page.write_text("nothing here", "utf8")
    with pytest.raises(ValueError, match="has no <!--"):
        readme.update(page, results)
    assert page.read_text("utf8") == "nothing here"


def test_this_readme_shows_the_results_that_are_kept():
    text = readme.README.read_text("utf8")
    shown = text.partition(readme.BEGIN + "\n")[2].partition(readme.END)[0]
    assert shown == readme.table(readme.RESULTS)
