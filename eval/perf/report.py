"""Tables for people, JSON for programs, a plot for both."""

import json
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
from matplotlib.figure import Figure as Plot
from rich.console import Console
from rich.table import Table

from eval.perf import peers
from eval.perf.figures import Figure, Section, ratio

OUR_PACKAGES = ("ragstone", "openvino", "openvino-genai", "torch", "transformers", "tokenizers")


def show(console: Console, section: Section) -> None:
    """A table: each side's median and spread, and how many times better ours is."""
    table = Table("", "", "side", "median", "spread", *(f"{name} is" for name in section.ours))
    for (workload, measure), figures in section.rows().items():
        for n, figure in enumerate(figures):
            unit = f" {figure.unit}" if figure.unit else ""
            digits = 3 if figure.compared else 5  # cosines crowd below 1
            spread = f"{min(figure.values):.{digits}g}-{max(figure.values):.{digits}g}"
            heads = (workload, measure) if n == 0 else ("", "")
            ratios = _ratios(section, figure, figures)
            table.add_row(*heads, figure.side, f"{figure.middle:.{digits}g}{unit}", spread, *ratios)
        table.add_section()
    console.print(f"\n[bold]{section.name}[/]", table)
    for note in section.notes:
        console.print(f"  {note}", markup=False)
    for absent in section.absent:
        console.print(f"  not measured: {absent.side}: {absent.why}", markup=False, style="yellow")


def document(section: Section, options: dict[str, Any]) -> dict[str, Any]:
    """All that was measured and on what, ready for JSON."""
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "options": options,
        "section": asdict(section) | {"ratios": _all_ratios(section)},
    }


def write(found: dict[str, Any], section: Section, folder: Path) -> list[Path]:
    """`perf-SECTION.json`, and a plot of that name where there is something to compare."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / f"perf-{section.name}.json"]
    written[0].write_text(json.dumps(found, indent=2) + "\n", "utf8")
    if rows := _all_ratios(section):
        written.append(written[0].with_suffix(".png"))
        plot(rows, f"{section.name}: how many times better than what else users run", written[1])
    return written


def plot(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """A bar for each ratio with its worst and best round; the line at 1 is a draw."""
    figure = Plot(figsize=(10, 1.2 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots()
    labels = [
        f"{r['workload']}, {r['measure']}: {r['ours']} to {r['peer']}" for r in reversed(rows)
    ]
    middles = [r["ratio"] for r in reversed(rows)]
    spread = [
        [r["ratio"] - r["low"] for r in reversed(rows)],
        [r["high"] - r["ratio"] for r in reversed(rows)],
    ]
    colours = ["tab:blue" if middle >= 1 else "tab:red" for middle in middles]
    widths = [middle - 1 for middle in middles]  # a bar runs from a draw to its ratio
    axes.barh(range(len(rows)), widths, left=1, xerr=spread, color=colours, capsize=2)
    axes.set_yticks(range(len(rows)), labels, fontsize=7)
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel("ratio, logarithmic; above 1 ours is better")
    axes.set_title(title, fontsize=10)
    figure.savefig(path, dpi=120)


def machine() -> dict[str, Any]:
    """What it ran on."""
    return {
        "processor": _processor(),
        "cores": psutil.cpu_count(logical=True),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_at_end": psutil.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def versions() -> dict[str, Any]:
    """Ours as installed, the peers' as pinned."""
    return {
        "ours": {name: _version(name) for name in OUR_PACKAGES},
        **{name: peers.requirements(name) for name in peers.NAMES},
    }


def _ratios(section: Section, figure: Figure, beside: list[Figure]) -> list[str]:
    """For a peer's row, what each of our sides is to it; blank where nothing compares."""
    if figure.side in section.ours or not figure.compared:
        return [""] * len(section.ours)
    ours = {other.side: other for other in beside}
    return [str(ratio(ours[name], figure)) if name in ours else "" for name in section.ours]


def _all_ratios(section: Section) -> list[dict[str, Any]]:
    found = []
    for (workload, measure), figures in section.rows().items():
        ours = [f for f in figures if f.side in section.ours and f.compared]
        peers_here = [f for f in figures if f.side not in section.ours and f.compared]
        for mine in ours:
            for peer in peers_here:
                times = ratio(mine, peer)
                found.append({
                    "workload": workload, "measure": measure, "ours": mine.side,
                    "peer": peer.side, "ratio": times.middle, "low": times.low,
                    "high": times.high,
                })  # fmt: skip
    return found


def _processor() -> str:
    """Linux tells it in /proc/cpuinfo; elsewhere `platform` knows."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text("utf8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
