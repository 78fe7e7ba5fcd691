"""Layout of line charts; the macros in `parts.html.jinja` draw, and `pages.css` has the colors."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

MAX_POINTS = 400  # of a line; more cannot be told apart on a screen


Rows = TypeVar("Rows", pd.Series, pd.DataFrame)


class Line(NamedTuple):
    """A line to draw: its name, and its values over the steps, without gaps."""

    name: str
    values: pd.Series


CURVES = {
    "Loss per learned token": {"loss": "training", "eval_loss": "validation"},
    "Loss, by what is learned": {
        "loss_response": "response, training",
        "eval_loss_response": "response, validation",
        "loss_end": "end of text, training",
        "eval_loss_end": "end of text, validation",
        "eval_loss_prompt": "prompt, validation",
    },
    "Samples answered exactly": {"eval_exact_match": "share"},
    "Learning rate": {"learning_rate": "learning rate"},
    "Gradient norm": {"grad_norm": "gradient norm"},
}


class LineChart:
    """A chart of lines over the steps, from zero up, with a description in words.

    Attributes:
        title: what the values are.
        lines: a name and points, each (step, value, x, y), per line.
        mark: the x of a step to mark, or None.
        x_ticks, y_ticks: positions with their labels.
        label: the description for screen readers.
    """

    left, right, top, bottom = 62, 548, 10, 220

    def __init__(self, title: str, lines: Sequence[Line], mark: int | None = None):
        """Lay out lines that have at least one value each; `mark` is a step."""
        steps = [step for line in lines for step in line.values.index]
        self.first, self.last = min(steps), max(*steps, min(steps) + 1)
        self.highest = max(line.values.max() for line in lines) * 1.05 or 1.0
        self.title, self.mark = title, None if mark is None else self.x(mark)
        self.label = f"{title}. {'; '.join(map(_in_words, lines))}."
        ticks = _ticks(self.first, self.last, integer=True)
        self.x_ticks = [(self.x(step), f"{step:,.0f}") for step in ticks]
        self.y_ticks = [(self.y(value), f"{value:.3g}") for value in _ticks(0, self.highest)]
        self.lines = [(name, self._points(thinned(values))) for name, values in lines]

    def _points(self, values: pd.Series) -> list[tuple[float, float, float, float]]:
        return [(step, value, self.x(step), self.y(value)) for step, value in values.items()]

    def x(self, step: float) -> float:
        """Return the position of a step."""
        share = (step - self.first) / (self.last - self.first)
        return round(self.left + share * (self.right - self.left), 1)

    def y(self, value: float) -> float:
        """Return the position of a value."""
        return round(self.bottom - value / self.highest * (self.bottom - self.top), 1)


def line_charts(title: str, lines: Sequence[Line], mark: int | None = None) -> list[LineChart]:
    """Return a chart of the lines that have values, or none when no line has."""
    lines = [line for line in lines if len(line.values)]
    return [LineChart(title, lines, mark)] if lines else []


def history_charts(history: pd.DataFrame, kept: int | None) -> list[LineChart]:
    """Return a chart for each of `CURVES` that a history has; `kept` is a step to mark."""
    charts = []
    for title, columns in CURVES.items():
        lines = [Line(name, series(history, column)) for column, name in columns.items()]
        charts += line_charts(title, lines, kept if "loss" in columns else None)
    return charts


def series(history: pd.DataFrame, column: str) -> pd.Series:
    """Return a column over the steps, without gaps; empty when the history lacks it."""
    values = history.set_index("step").get(column, pd.Series(dtype=float))
    values = pd.to_numeric(values, errors="coerce")
    return values[np.isfinite(values)]


def thinned(rows: Rows) -> Rows:
    """Return at most `MAX_POINTS` of the rows, evenly spaced, with the first and the last."""
    count = len(rows)
    return rows.iloc[np.linspace(0, count - 1, min(count, MAX_POINTS)).round().astype(int)]


def _in_words(line: Line) -> str:
    steps, values = line.values.index, line.values.to_numpy()
    return (
        f"{line.name}: from {values[0]:.3g} at step {steps[0]:,} "
        f"to {values[-1]:.3g} at {steps[-1]:,}"
    )


def _ticks(low: float, high: float, integer: bool = False) -> list[float]:
    locator = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=integer)
    return [tick for tick in locator.tick_values(low, high) if low <= tick <= high]
