"""Drawing of the explanatory figures: a canvas in inches, boxes, token cells, arrows.

No meaning rests on color alone: what is learned or changed has a thick border, what is only read
has none, padding is hatched, an alternative is dashed.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Polygon, Rectangle

from utilities.plots import STYLE

BLUE, ORANGE, GREEN, INK, DIM = "#0072b2", "#d55e00", "#009e73", "#222222", "#5a5a5a"
LOOKS = {
    "plain": {"facecolor": "white", "edgecolor": INK, "linewidth": 1.4},
    "read": {"facecolor": "#ececec", "edgecolor": "#b8b8b8", "linewidth": 1},
    "learned": {"facecolor": "#cfe6f5", "edgecolor": BLUE, "linewidth": 3},
    "padding": {"facecolor": "white", "edgecolor": "#8a8a8a", "linewidth": 1, "hatch": "///"},
    "rival": {"facecolor": "white", "edgecolor": INK, "linewidth": 1.6, "linestyle": "--"},
    "wrong": {"facecolor": "#fbe3d3", "edgecolor": ORANGE, "linewidth": 2},
}
SMALLEST = 12  # points; smaller text is unreadable from the back of a class room


def style():
    """Return the style context of the figures: the course's style, independent of the user's."""
    fixed = {"svg.hashsalt": "finetuning-lab", "svg.fonttype": "path", "hatch.linewidth": 0.8}
    return mpl.style.context(["default", str(STYLE), fixed])


def save(figure: Figure, path: Path, title: str) -> None:
    """Write a figure as SVG, reproducible byte by byte, with its question as the title."""
    blank = dict.fromkeys(["Date", "Creator", "Format", "Type"])
    figure.savefig(path, facecolor="white", metadata=blank | {"Title": title})


class Canvas:
    """An empty canvas; x and y are inches from its lower left corner."""

    def __init__(self, width: float, height: float):
        self.figure = Figure(figsize=(width, height), layout="none")
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(0, height))
        self.axes.set_axis_off()

    def text(self, x: float, y: float, words: str, size: float = 13, **options) -> None:
        """Write lines of text, by default centered on a point."""
        options = {"ha": "center", "va": "baseline", "color": INK} | options
        lines, height = words.split("\n"), 1.35 * size / 72
        for number, line in enumerate(lines):
            # matplotlib centers the ink, so a comma would be higher than the letters beside it.
            low = 0.36 * size / 72 if options["va"] == "baseline" else 0
            baseline = y - low + height * ((len(lines) - 1) / 2 - number)
            self.axes.text(x, baseline, line, fontsize=size, **options)

    def mono(self, x: float, y: float, words: str, size: float = 13, **options) -> None:
        """Write the input or output of a program, in a monospaced font."""
        self.text(x, y, words, size, family="DejaVu Sans Mono", **options)

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        words: str = "",
        look: str = "plain",
        size: float = 14,
    ) -> None:
        """Draw a box; the first line of its words is bold."""
        shape = f"round,pad=0,rounding_size={min(0.1, height / 4)}"
        self.axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=shape, **LOOKS[look]))
        name, _, rest = words.partition("\n")
        line_height, middle = 0.235, x + width / 2
        top = y + height / 2 + line_height * rest.count("\n") / 2
        if rest:
            top += line_height / 2
        self.text(middle, top, name, size, weight="bold")
        for number, line in enumerate(rest.split("\n") if rest else [], start=1):
            self.text(middle, top - 0.02 - number * line_height, line, SMALLEST)

    def cell(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        words: str = "",
        look: str = "plain",
        size: float = SMALLEST,
        tint: str | None = None,
    ) -> None:
        """Draw a cell with a value; learned cells are underlined too."""
        options = LOOKS[look] | {"linewidth": 1, "edgecolor": "#8a8a8a"}
        if tint:
            options["facecolor"] = tint
        self.axes.add_patch(Rectangle((x, y), width, height, **options))
        if look == "learned":
            self.axes.add_patch(Rectangle((x, y), width, 0.06, facecolor=BLUE, edgecolor="none"))
        if words:
            ground = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
            extra = {"bbox": ground} if look == "padding" else {}
            self.mono(x + width / 2, y + height / 2 + 0.01, words, size, **extra)

    def cells(
        self, x: float, y: float, width: float, words: Sequence, looks: Sequence[str]
    ) -> None:
        """Draw a row of cells of one width."""
        for column, (word, look) in enumerate(zip(words, looks, strict=True)):
            self.cell(x + column * width, y, width, 0.36, str(word), look)

    def arrow(self, *points: tuple[float, float], color: str = INK, look: str = "-") -> None:
        """Draw an arrow along points, with a head at the last."""
        (x0, y0), (x1, y1) = points[-2:]
        length = math.hypot(x1 - x0, y1 - y0)
        ux, uy = 0.2 * (x1 - x0) / length, 0.2 * (y1 - y0) / length
        base = (x1 - ux, y1 - uy)
        self.line(*points[:-1], base, color=color, look=look)
        side = (0.45 * uy, -0.45 * ux)
        corners = [(base[0] + k * side[0], base[1] + k * side[1]) for k in (-1, 1)]
        self.axes.add_patch(Polygon([(x1, y1), *corners], facecolor=color, edgecolor="none"))

    def panel(self, x: float, y: float, width: float, height: float) -> None:
        """Draw a pale background behind a group."""
        look = {"facecolor": "#f4f4f4", "edgecolor": "none", "zorder": 0}
        self.axes.add_patch(Rectangle((x, y), width, height, **look))

    def line(self, *points: tuple[float, float], color: str = INK, look: str = "-") -> None:
        """Draw a line along points."""
        self.axes.plot(
            *zip(*points, strict=True),
            color=color,
            linestyle=look,
            linewidth=2.2,
            solid_capstyle="butt",
        )
