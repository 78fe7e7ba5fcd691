"""Curves over steps, and values with intervals, as SVG text; `pages.css` has the colors."""

from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 560, 260, 62, 12, 10, 40


MOST_POINTS = 400  # of a line; more cannot be told apart on a screen


MOST_MARKS = 40  # a line of more points has no circles


Table = TypeVar("Table", pd.Series, pd.DataFrame)


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


def history_charts(history: pd.DataFrame, kept: int | None) -> str:
    """Return a figure for each of `CURVES` that a history has; `kept` is a step to point out."""
    figures = ""
    for title, columns in CURVES.items():
        lines = [Line(name, series(history, column)) for column, name in columns.items()]
        figures += line_chart(title, lines, kept if "loss" in columns else None)
    return figures


def series(history: pd.DataFrame, column: str) -> pd.Series:
    """Return a column over the steps, without gaps; empty where the history has none."""
    values = history.set_index("step").get(column, pd.Series(dtype=float))
    values = pd.to_numeric(values, errors="coerce")
    return values[np.isfinite(values)]


def thinned(table: Table) -> Table:
    """Return at most `MOST_POINTS` of the rows, evenly spread, first and last among them."""
    count = len(table)
    return table.iloc[np.linspace(0, count - 1, min(count, MOST_POINTS)).round().astype(int)]


def line_chart(title: str, lines: Sequence[Line], mark: int | None = None) -> str:
    """Return a figure with lines over the steps, from zero up, and the same in words.

    Args:
        title: what the values are.
        lines: those without values are left out; without any other there is no figure.
        mark: a step to point out.
    """
    lines = [line for line in lines if len(line.values)]
    if not lines:
        return ""
    plane = _Plane(lines)
    parts = [*plane.axes(), *(part for i, line in enumerate(lines) for part in plane.line(i, line))]
    if mark is not None:
        x = plane.x(mark)
        parts.append(f'<path class="mark" d="M{x} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{x - 5}" y="{TOP + 12}" text-anchor="end">kept</text>')
    label = escape(f"{title}. {'; '.join(map(_in_words, lines))}.")
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>{_legend(lines)}"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg></figure>"
    )


def interval_chart(title: str, rows: Sequence[tuple[str, float, float, float]]) -> str:
    """Return a figure with a dot and its interval for each name, on a scale from 0 to 1.

    Args:
        title: what the values are.
        rows: (name, value, low, high), each number between 0 and 1.
    """
    left, step = 170, 34
    bottom = TOP + step * len(rows)

    def x(value: float) -> float:
        return round(left + value * (WIDTH - left - 60), 1)

    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<path class="grid" d="M{x(tick)} {TOP}V{bottom}"/>')
        label = f'<text x="{x(tick)}" y="{bottom + 18}" text-anchor="middle">{tick:.0%}</text>'
        parts.append(label)
    for place, (name, value, low, high) in enumerate(rows):
        y, look = TOP + step * (place + 0.5), f'class="line{place % 6}"'
        parts.append(f'<text x="{left - 10}" y="{y + 4}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<polyline {look} points="{x(low)},{y} {x(high)},{y}"/>')
        told = f"{escape(name)}: {value:.1%}, {low:.1%} to {high:.1%}"
        parts.append(
            f'<circle {look} cx="{x(value)}" cy="{y}" r="5"><title>{told}</title></circle>'
        )
        parts.append(f'<text x="{x(high) + 10}" y="{y + 4}">{value:.0%}</text>')
    words = "; ".join(f"{n}: {v:.0%}, from {a:.0%} to {b:.0%}" for n, v, a, b in rows)
    label = escape(f"{title}. {words}.")
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {bottom + 26}" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg></figure>"
    )


def _in_words(line: Line) -> str:
    steps, values = line.values.index, line.values.to_numpy()
    return (
        f"{line.name}: from {values[0]:.3g} at step {steps[0]:,} "
        f"to {values[-1]:.3g} at {steps[-1]:,}"
    )


def _legend(lines: Sequence[Line]) -> str:
    keys = (
        '<span><svg viewBox="0 0 28 8" width="28" height="8" aria-hidden="true">'
        f'<polyline class="line{i % 6}" points="0,4 28,4"/></svg>{escape(line.name)}</span>'
        for i, line in enumerate(lines)
    )
    return f'<div class="legend">{"".join(keys)}</div>' if len(lines) > 1 else ""


def _ticks(low: float, high: float, integer: bool = False) -> list[float]:
    locator = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=integer)
    return [tick for tick in locator.tick_values(low, high) if low <= tick <= high]


class _Plane:
    """Where steps and values are on the picture."""

    def __init__(self, lines: Sequence[Line]):
        steps = [step for line in lines for step in line.values.index]
        self.low, self.high = min(steps), max(*steps, min(steps) + 1)
        self.top = max(line.values.max() for line in lines) * 1.05 or 1.0

    def x(self, step: float) -> float:
        share = (step - self.low) / (self.high - self.low)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        return round(HEIGHT - BOTTOM - value / self.top * (HEIGHT - TOP - BOTTOM), 1)

    def axes(self) -> Iterator[str]:
        for value in _ticks(0, self.top):
            y = self.y(value)
            yield f'<path class="grid" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>'
            yield f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{value:.3g}</text>'
        middle, y = 'text-anchor="middle"', HEIGHT - BOTTOM + 18
        for step in _ticks(self.low, self.high, integer=True):
            yield f'<text x="{self.x(step)}" y="{y}" {middle}>{step:,.0f}</text>'
        yield f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" {middle}>step</text>'

    def line(self, number: int, line: Line) -> Iterator[str]:
        look, points = f'class="line{number % 6}"', thinned(line.values)
        path = " ".join(f"{self.x(step)},{self.y(value)}" for step, value in points.items())
        yield f'<polyline {look} points="{path}"/>'
        if len(points) <= MOST_MARKS:
            for step, value in points.items():
                told = f"{escape(line.name)}, step {step:,}: {value:.4g}"
                place = f'cx="{self.x(step)}" cy="{self.y(value)}" r="3"'
                yield f"<circle {look} {place}><title>{told}</title></circle>"
