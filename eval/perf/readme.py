"""The README's performance table, made from the results: python -m eval.perf readme"""

import json
from pathlib import Path
from typing import Any

from eval.perf.figures import Figure, Section, ratio
from eval.perf.places import REPOSITORY, RESULTS

README = REPOSITORY / "README.md"
BEGIN, END = "<!-- python -m eval.perf readme -->", "<!-- end -->"
HEAD = "| | | Ragstone | times better than |\n| --- | --- | --- | --- |\n"


def update(readme: Path = README, results: Path = RESULTS) -> None:
    """Write the table of all results between the README's two marks."""
    text = readme.read_text("utf8")
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{readme} has no {BEGIN} ... {END}")
    readme.write_text(f"{before}{BEGIN}\n{table(results)}{END}{after}", "utf8")


def table(results: Path) -> str:
    """Markdown: a head per section with its command, a row per workload and measure."""
    found = [json.loads(path.read_text("utf8")) for path in sorted(results.glob("perf-*.json"))]
    return HEAD + "".join(line + "\n" for run in found for line in _lines(run, run["section"]))


def _lines(run: dict[str, Any], stored: dict[str, Any]) -> list[str]:
    figures = [Figure(**{**one, "values": tuple(one["values"])}) for one in stored["figures"]]
    section = Section(stored["name"], stored["ours"], figures)
    options = run["options"]
    command = options.get("command") or (
        f"python -m eval.perf {section.name} --rounds {options['rounds']}"
    )
    named = len(section.ours) > 1  # values stand in this order
    head = f"| **{section.name}** | {run['when'][:10]} | {', '.join(section.ours) if named else ''}"
    lines = [f"{head} | `{command}` |"]
    for (workload, measure), sides in section.rows().items():
        ours = [figure for figure in sides if figure.side in section.ours]
        if not ours:  # what the machine can do
            ours = sides
        values = ", ".join(f"{figure.middle:.{3 if figure.compared else 5}g}" for figure in ours)
        lines.append(
            f"| {workload} | {measure} | {values} {ours[0].unit} | {_against(ours, sides)} |"
        )
    return lines


def _against(ours: list[Figure], sides: list[Figure]) -> str:
    peers = [figure for figure in sides if figure not in ours and figure.compared]
    return "; ".join(
        f"{peer.side} {', '.join(f'{ratio(one, peer).middle:.2g}' for one in ours)}"
        for peer in peers
    )
