"""The plots of a report, each as inline SVG whose colours are the page's. Pure.

Drawn in colours that only stand for a name: the page's style sheet says what they are in the light
and in the dark. Text stays text, so that it can be searched and takes the page's font.
"""

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

NAMES = ("ink", "muted", "grid", "page", "better", "worse", *(f"line{n}" for n in range(6)))
COLOURS = {name: f"#{n:06x}" for n, name in enumerate(NAMES, start=0xABC001)}
NAME_OF = {code: name for name, code in COLOURS.items()}
SVG = "{http://www.w3.org/2000/svg}"
ET.register_namespace("", "http://www.w3.org/2000/svg")
ET.register_namespace("xlink", "http://www.w3.org/1999/xlink")
DASHES = ("solid", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)), (0, (3, 1)), (0, (8, 2)))
INCHES = (5.0, 3.5)
NUMBER = 12.0  # points that a number in a plot takes
RC = {
    "axes.axisbelow": True,
    "axes.edgecolor": COLOURS["muted"],
    "axes.grid": True,
    "axes.labelcolor": COLOURS["ink"],
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 0.6,
    "svg.fonttype": "none",
    "text.color": COLOURS["ink"],
    "text.parse_math": False,  # a system's name may hold a $
    "xtick.color": COLOURS["muted"],
    "xtick.labelcolor": COLOURS["ink"],
    "ytick.color": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["ink"],
}


@dataclass(frozen=True, slots=True)
class Point:
    """A system: its number in the table, quality with its interval, ms of a question, by stage."""

    number: int
    name: str
    mean: float
    low: float
    high: float
    ms: float
    stages: Mapping[str, float] = field(default_factory=dict)


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which (cost, quality) no other beats: cheaper or as cheap, and better or as good, not both
    equal. Indexes by rising cost; of equal points all are kept.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    front: list[int] = []
    for at in order:
        if not front or points[at][1] > points[front[-1]][1] or points[at] == points[front[-1]]:
            front.append(at)
    return front


def quality_and_latency(points: Sequence[Point], measure: str) -> str:
    """Each system by what a question takes and how good it is, and the front of the best."""
    front = pareto([(point.ms, point.mean) for point in points])

    def draw(axes: Axes) -> None:
        costs = [point.ms for point in points]
        axes.step(
            [points[i].ms for i in front], [points[i].mean for i in front], where="post",
            color=COLOURS["better"], linewidth=1.4,
        )  # fmt: skip
        for at, point in enumerate(points):
            _dot(axes, point, at in front)
        if min(costs) > 0 and max(costs) / min(costs) > 10:
            _logarithmic(axes)
        axes.margins(x=0.12, y=0.15)
        axes.set(xlabel="ms of a question", ylabel=measure)
        _number(axes, points)

    return _svg(draw, "quality", f"{measure} against milliseconds of a question")


def recall_at_depth(lines: Mapping[str, NDArray[np.float64]]) -> str:
    """Of each system the share of relevant documents among its first 1, 2, ... (depths,)."""

    def draw(axes: Axes) -> None:
        for n, (name, recall) in enumerate(lines.items()):
            axes.plot(
                range(1, len(recall) + 1), recall, label=name, linewidth=1.6,
                color=COLOURS[f"line{n % 6}"], linestyle=DASHES[n % 6],
            )  # fmt: skip
        _logarithmic(axes)
        axes.set(xlabel="depth", ylabel="recall", ylim=(0, None))
        axes.legend(frameon=False, fontsize=9, loc="lower right")

    return _svg(draw, "recall", "Recall by depth")


def deltas(change: NDArray[np.float64], measure: str) -> str:
    """What each question won or lost, most won first."""
    ordered = np.sort(change)[::-1]

    def draw(axes: Axes) -> None:
        edges = np.arange(len(ordered) + 1)
        for kind, held in (("better", np.maximum(ordered, 0)), ("worse", np.minimum(ordered, 0))):
            axes.stairs(held, edges, fill=True, color=COLOURS[kind], linewidth=0)
        axes.axhline(0, color=COLOURS["muted"], linewidth=0.8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.set(xlabel="questions, most won first", ylabel=f"change of {measure}")
        axes.set_xlim(0, len(ordered))

    return _svg(draw, "deltas", f"Change of {measure} by question")


def waterfall(points: Sequence[Point]) -> str:
    """Milliseconds of each stage, one starting where the one before it ended; a row per system."""
    stages = list(dict.fromkeys(stage for point in points for stage in point.stages))

    def draw(axes: Axes) -> None:
        for row, point in enumerate(points):
            left = 0.0
            for stage, ms in point.stages.items():
                colour = COLOURS[f"line{stages.index(stage) % 6}"]
                axes.barh(row, ms, left=left, height=0.42, color=colour, linewidth=0)
                left += ms
            axes.text(0, row - 0.28, f"{point.number} {point.name}", va="bottom", fontsize=9)
            axes.text(left, row, f" {left:.1f}", va="center", fontsize=9)
        for n, stage in enumerate(stages):
            axes.barh(0, 0, color=COLOURS[f"line{n % 6}"], label=stage)
        axes.set(xlabel="ms of a question", yticks=[], ylim=(len(points) - 0.5, -0.75))
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.14)
        axes.legend(
            frameon=False,
            fontsize=9,
            ncols=min(max(len(stages), 1), 4),
            loc="lower left",
            bbox_to_anchor=(0, 1),
        )

    height = max(INCHES[1], 0.9 + 0.46 * len(points))
    return _svg(draw, "stages", "Milliseconds by stage", (INCHES[0], height))


def risk_and_coverage(curve: Sequence[tuple[float, float]]) -> str:
    """How often answers are wrong when only the surest share of the questions is answered."""

    def draw(axes: Axes) -> None:
        coverage, risk = zip(*sorted(curve), strict=True)
        axes.plot(coverage, risk, color=COLOURS["line0"], linewidth=1.6)
        axes.fill_between(coverage, risk, color=COLOURS["line0"], alpha=0.15, linewidth=0)
        percent = FuncFormatter(lambda value, _: f"{value:.0%}")
        axes.xaxis.set_major_formatter(percent)
        axes.yaxis.set_major_formatter(percent)
        axes.set(xlabel="answered, the surest first", ylabel="wrong among them")
        axes.set(xlim=(0, 1), ylim=(0, None))

    return _svg(draw, "risk", "Risk by coverage")


def _dot(axes: Axes, point: Point, on_front: bool) -> None:
    colour = COLOURS["better"] if on_front else COLOURS["muted"]
    axes.vlines(point.ms, point.low, point.high, color=colour, linewidth=0.8, alpha=0.55)
    axes.plot(
        point.ms, point.mean, "o", markersize=6, markeredgecolor=colour,
        markerfacecolor=colour if on_front else COLOURS["page"],
    )  # fmt: skip


def _number(axes: Axes, points: Sequence[Point]) -> None:
    """The systems' numbers right of their dots, those of one place above each other."""
    axes.figure.canvas.draw()  # fixes the limits
    to_points = 72 / axes.figure.dpi
    dots = axes.transData.transform([(point.ms, point.mean) for point in points]) * to_points
    places = [(float(x), float(y)) for x, y in dots]
    line = {"arrowstyle": "-", "color": COLOURS["muted"], "linewidth": 0.5, "shrinkB": 3}
    for point, (_, y), height in zip(points, places, spread(places), strict=True):
        number = axes.annotate(
            str(point.number), (point.ms, point.mean), (NUMBER - 2, height - y + 7),
            textcoords="offset points", ha="center", va="center", fontsize=9,
            arrowprops=line if height - y > 7 else None,
        )  # fmt: skip
        number.set_in_layout(False)


def spread(places: Sequence[tuple[float, float]], apart: float = NUMBER) -> list[float]:
    """Heights like those of (x, height), yet `apart` wherever two are less than that apart in x.

    Each is moved up as far as those below it ask for.
    """
    heights = [y for _, y in places]
    done: list[int] = []
    for at in sorted(range(len(places)), key=lambda i: (places[i][1], i)):
        near = [heights[i] for i in done if abs(places[i][0] - places[at][0]) < apart]
        for height in sorted(near):
            if abs(height - heights[at]) < apart:
                heights[at] = height + apart
        done.append(at)
    return heights


def _logarithmic(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _svg(
    draw: Callable[[Axes], None], name: str, title: str, inches: tuple[float, float] = INCHES
) -> str:
    """The drawing as an element for a page: no header, no size of its own, ids of its own."""
    with mpl.rc_context({**RC, "svg.hashsalt": name}):
        figure = Figure(figsize=inches, layout="constrained")
        draw(figure.add_subplot())
        held = io.StringIO()
        figure.savefig(held, format="svg", transparent=True, metadata={"Date": None})
    root = ET.fromstring(held.getvalue())  # written here: nothing of anybody else's
    root.remove(root.find(f"{SVG}metadata"))
    for size in ("width", "height"):
        del root.attrib[size]
    root.attrib |= {"role": "img", "aria-label": title}
    for element in root.iter():
        element.attrib.update({key: _own(value, key, name) for key, value in element.items()})
    return ET.tostring(root, encoding="unicode")


def _own(value: str, attribute: str, name: str) -> str:
    """An attribute with the page's colours and font, and with ids that no other drawing has."""
    if attribute == "id":
        return f"{name}-{value}"
    if attribute == "aria-label":
        return value
    value = re.sub(r"^#|(?<=url\(#)", lambda at: f"{at[0]}{name}-", value)
    value = re.sub(r"font-family: [^;]*;?", "", value)
    return re.sub(r"#abc0[0-9a-f]{2}", lambda code: f"var(--{NAME_OF[code[0]]})", value)
