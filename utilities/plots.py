"""matplotlib figures, one per question. They are drawn from tables, never from models.

Colors are from Okabe and Ito's palette, which color-blind readers can tell apart, and color never
carries meaning alone.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

STYLE = Path(__file__).with_name("figures.mplstyle")


@contextmanager
def _new_figure(*shape: int, **options: Any) -> Iterator[tuple[Figure, Any]]:
    """Open a figure and its axes in the course's style, by the arguments of `plt.subplots`."""
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(*shape, **options)
        yield figure, axes
        plt.close(figure)  # or a notebook shows it twice


def loss_curve(history: pd.DataFrame) -> Figure:
    """Loss curve of training and validation over the steps: is it learning?

    Args:
        history: `step`, `loss`, and `eval_loss` when there was an evaluation; NaN where a step has
            no value.
    """
    with _new_figure() as (figure, axes):
        training = history.dropna(subset=["loss"])
        axes.plot(training["step"], training["loss"], label="training")
        if "eval_loss" in history:
            validation = history.dropna(subset=["eval_loss"])
            axes.plot(validation["step"], validation["eval_loss"], "s--", label="validation")
        axes.set(xlabel="step", ylabel="loss per response token", ylim=(0, None))
        axes.legend()
    return figure


def curves(lines: dict[str, Sequence[float]], xlabel: str, ylabel: str) -> Figure:
    """Line chart with a line per name, over 1, 2, 3 …: how do several runs compare?

    Args:
        lines: for each name, its values in order; values that are not finite leave a gap.
        xlabel: what is counted.
        ylabel: what the values are.
    """
    with _new_figure() as (figure, axes):
        for (name, values), marker in zip(lines.items(), "osD^vPX", strict=False):
            axes.plot(range(1, len(values) + 1), values, marker=marker, label=name)
        axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))
        axes.legend()
    return figure


def score_bars(scores: pd.DataFrame, metric: str, label: str = "system") -> Figure:
    """Bar chart of scores with intervals: which is better, and could it be luck?

    Args:
        scores: rows with `metric`, `value`, `low`, `high` (0 to 1), `n`, and the label column.
        metric: which metric to show.
        label: the column that names the bars.
    """
    rows = scores[scores["metric"] == metric].iloc[::-1]
    with _new_figure(figsize=(8, 1 + 0.6 * len(rows))) as (figure, axes):
        spread = np.clip([rows["value"] - rows["low"], rows["high"] - rows["value"]], 0, None)
        names = [f"{name} (n = {n})" for name, n in zip(rows[label], rows["n"], strict=True)]
        axes.barh(names, rows["value"], xerr=spread)
        for y, (value, high) in enumerate(zip(rows["value"], rows["high"], strict=True)):
            axes.text(high + 0.02, y, f"{value:.0%}", va="center")
        axes.set(xlim=(0, 1.15), xlabel=metric.replace("_", " "))
        axes.set_xticks(np.linspace(0, 1, 6), [f"{tick:.0%}" for tick in np.linspace(0, 1, 6)])
    return figure


def arc_figures(figures: pd.DataFrame, curve_of: str = "pythia-70m") -> Figure:
    """Accuracy over size, and over training, with chance: what do models of this family reach?

    Args:
        figures: `model`, `step`, `acc`, `acc_stderr` of one task, from `benchmark.published`.
        curve_of: the model whose training is shown, from step 0 on.
    """
    with _new_figure(1, 2, figsize=(11, 4.2), sharey=True) as (figure, (by_size, by_step)):
        last = figures[figures["step"] == figures["step"].max()]
        for deduplicated, name, line_format in (
            (False, "the Pile", "o-"),
            (True, "the Pile, deduplicated", "s--"),
        ):
            rows = last[last["model"].str.endswith("-deduped") == deduplicated]
            sizes = rows["model"].map(_weights_of)
            rows = rows.assign(size=sizes).sort_values("size")
            spread = 1.96 * rows["acc_stderr"]  # half of a 95 % interval
            by_size.errorbar(rows["size"], rows["acc"], spread, fmt=line_format, label=name)
        by_size.set(xscale="log", xlabel="weights", ylabel="acc", ylim=(0, 1))
        curve = figures[figures["model"] == curve_of].sort_values("step")
        by_step.errorbar(curve["step"], curve["acc"], 1.96 * curve["acc_stderr"], fmt="o-")
        by_step.set_xscale("symlog", linthresh=1)  # linear below 1: step 0 has no logarithm
        by_step.set(xlabel="training step (0 is untrained)", title=curve_of)
        for axes in (by_size, by_step):
            axes.axhline(0.25, linestyle=":", color="0.4")
            axes.annotate("chance", (0.86, 0.26), xycoords=("axes fraction", "data"))
        by_size.set_title("at the end of training")
        by_size.legend()
    return figure


def _weights_of(model: str) -> float:
    """Return the number of weights in a name such as `pythia-1.4b-deduped`."""
    size = model.split("-")[1]
    return float(size[:-1]) * {"m": 1e6, "b": 1e9}[size[-1]]


def length_histogram(lengths: dict[str, Sequence[int]], limit: int | None = None) -> Figure:
    """Histogram of lengths in tokens, an outline per name: how long are the rows?

    Args:
        lengths: for each name, the token counts of its rows.
        limit: a length limit to mark.
    """
    with _new_figure() as (figure, axes):
        longest = max(max(values) for values in lengths.values())
        # At most 41 bins. Their width is an integer, or some would hold more lengths than others.
        width = math.ceil(longest / 40)
        bins = (np.arange(0, longest + width + 1, width) - 0.5).tolist()
        for (name, values), style in zip(lengths.items(), ["-", "--", ":", "-."], strict=False):
            axes.hist(values, bins, histtype="step", linewidth=2, linestyle=style, label=name)
        if limit:
            axes.axvline(limit, color="black", linestyle=":", label=f"limit {limit}")
        axes.set(xlabel="tokens", ylabel="rows")
        axes.legend()
    return figure


def packing_picture(lengths: Sequence[int], bins: Sequence[Sequence[int]], capacity: int) -> Figure:
    """Padded rows, packed rows, and a row's attention mask: where is padding, who sees whom?

    Args:
        lengths: of the examples, in tokens.
        bins: which examples share a row, as `packing.best_fit` returns them.
        capacity: tokens a packed row holds.
    """
    with _new_figure(1, 3, figsize=(13, 5)) as (figure, (padded, packed, attention)):
        longest = max(lengths)
        _draw_rows(padded, [[index] for index in range(len(lengths))], lengths, longest)
        _draw_rows(packed, bins, lengths, capacity)
        filled = sum(lengths) / (len(lengths) * longest), sum(lengths) / (len(bins) * capacity)
        padded.set_title(f"padded: {1 - filled[0]:.0%} is padding")
        packed.set_title(f"packed: {1 - filled[1]:.0%} is padding")
        # Block-diagonal causal mask: a token attends to earlier tokens of its own example.
        example = np.repeat(np.arange(len(bins[0])), [lengths[index] for index in bins[0]])
        allowed = np.tril(example[:, None] == example[None, :])
        attention.imshow(allowed, cmap="Blues", vmin=0, vmax=1.3, interpolation="nearest")
        attention.set_title("first row: who sees whom")
        attention.set(xlabel="token that is seen", ylabel="token that looks")
        attention.grid(False)
    return figure


def _draw_rows(
    axes: Axes, rows: Sequence[Sequence[int]], lengths: Sequence[int], width: int
) -> None:
    colors = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    for y, members in enumerate(rows):
        start = 0
        for index in members:
            color = colors[index % len(colors)]
            axes.barh(y, lengths[index], left=start, color=color, edgecolor="white")
            middle = start + lengths[index] / 2
            label = axes.text(middle, y, str(index + 1), ha="center", va="center", fontsize=12)
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})
            start += lengths[index]
        axes.barh(y, width - start, left=start, color="white", edgecolor="gray", hatch="///")
    axes.invert_yaxis()
    axes.set(xlabel="tokens", ylabel="row", yticks=[], xlim=(0, width))
    axes.grid(False)


def audit_chart(summary: pd.DataFrame, budget: pd.DataFrame) -> Figure:
    """Bar chart of rows per problem, and what length limits cost: what is wrong with my data?

    Args:
        summary: `code`, `rows`, `share` (0 to 1) and `mended`, as `Audit.summary` has them.
        budget: `limit`, `cut`, `waste_in_batches` and `packed_fill`, as `Audit.budget` has them;
            without rows, there is no second panel.
    """
    problems = summary[summary["rows"] > 0].iloc[::-1]
    width, panels = (13, 2) if len(budget) else (8, 1)
    size = (width, max(4, 1.5 + 0.42 * len(problems)))
    with _new_figure(1, panels, figsize=size, squeeze=False) as (figure, grid):
        axes, mended = grid[0, 0], problems["mended"]
        names = problems["code"].str.replace("_", " ")
        rest = problems["rows"] - mended
        axes.barh(names, mended, color="C2", hatch="//", label="the patch mends it")
        axes.barh(names, rest, left=mended, color="C0", label="for you to judge")
        for y, (rows, share) in enumerate(zip(problems["rows"], problems["share"], strict=True)):
            axes.text(rows, y, f" {rows:,} ({share:.1%})", va="center")
        if problems.empty:
            axes.text(0.5, 0.5, "nothing found", ha="center", transform=axes.transAxes)
        # On a logarithmic scale one leaked row is visible beside a thousand repeated answers.
        axes.set_xscale("symlog", linthresh=1)
        axes.set(xlabel="rows (log scale)", xlim=(0, 60 * max([*problems["rows"], 1])))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.grid(axis="y", visible=False)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=2)
        if len(budget):
            _draw_budget(grid[0, 1], budget)
    return figure


def _draw_budget(axes: Axes, budget: pd.DataFrame) -> None:
    shares = {
        "cut": ("rows cut", "o-"),
        "waste_in_batches": ("padding, batches of 8", "s--"),
        "packed_fill": ("packed rows filled", "^:"),
    }
    positions = range(len(budget))
    for column, (name, line_format) in shares.items():
        axes.plot(positions, budget[column], line_format, markersize=8, label=name)
    axes.set(xlabel="length limit in tokens", ylim=(-0.03, 1.03))
    axes.set_xticks(positions, budget["limit"])
    axes.set_yticks(np.linspace(0, 1, 6), [f"{tick:.0%}" for tick in np.linspace(0, 1, 6)])
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, columnspacing=0.8)


def learning_curve(
    runs: pd.DataFrame, untrained: float | None = None, chance: float = 0.5
) -> Figure:
    """Learning curve: score over number of rows, with each seed's: do more rows still help?

    Args:
        runs: one row a run: `rows` (trained on), `score` (0 to 1); several runs of each size.
        untrained: the score before any training, drawn as a line.
        chance: what guessing gets.
    """
    groups = runs.groupby("rows")["score"]
    mean, low, high = groups.mean(), groups.min(), groups.max()
    with _new_figure() as (figure, axes):
        spread = np.clip([mean - low, high - mean], 0, None)
        axes.errorbar(
            mean.index, mean, spread, fmt="o-", label="mean; bars: lowest to highest seed"
        )
        axes.plot(runs["rows"], runs["score"], "x", color="0.3", label="one run")
        if untrained is not None:
            axes.axhline(untrained, color="#d55e00", linestyle="--", label="before training")
        axes.axhline(chance, color="0.4", linestyle=":", label="chance")
        axes.set_xscale("log", base=2)
        axes.set_xticks(mean.index, [str(size) for size in mean.index])
        axes.set(xlabel="training rows (log scale)", ylabel="share right", ylim=(0, 1.05))
        axes.legend(loc="lower right")
    return figure
