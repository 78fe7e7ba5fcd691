"""Figures and colored views, each for one question. They read tables, never models.

Colors are from Okabe and Ito's palette, which color-blind readers can tell apart, and color never
carries meaning alone.
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

STYLE = Path(__file__).with_name("figures.mplstyle")


def loss_curve(history: pd.DataFrame) -> Figure:
    """Is it learning? Training and validation loss over the steps.

    Args:
        history: `step`, `loss`, and `eval_loss` when there was an evaluation; NaN where a step has
            no such figure.
    """
    with plt.style.context(STYLE):
        figure, axes = plt.subplots()
        training = history.dropna(subset=["loss"])
        axes.plot(training["step"], training["loss"], label="training")
        if "eval_loss" in history:
            validation = history.dropna(subset=["eval_loss"])
            axes.plot(validation["step"], validation["eval_loss"], "s--", label="validation")
        axes.set(xlabel="step", ylabel="loss per response token", ylim=(0, None))
        axes.legend()
        plt.close(figure)  # or a notebook shows it twice
    return figure


def curves(lines: dict[str, Sequence[float]], xlabel: str, ylabel: str) -> Figure:
    """How do several runs compare? One line per name, over 1, 2, 3 …

    Args:
        lines: for each name, its values in order; values that are not finite leave a gap.
        xlabel: what is counted.
        ylabel: what the values are.
    """
    with plt.style.context(STYLE):
        figure, axes = plt.subplots()
        for (name, values), mark in zip(lines.items(), "osD^vPX", strict=False):
            axes.plot(range(1, len(values) + 1), values, marker=mark, label=name)
        axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, None))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
        plt.close(figure)
    return figure


def score_bars(scores: pd.DataFrame, metric: str, label: str = "system") -> Figure:
    """Which is better, and could it be luck? One bar a row, with its interval.

    Args:
        scores: rows with `metric`, `value`, `low`, `high` (0 to 1), `n`, and the label column.
        metric: which metric to show.
        label: the column that names the bars.
    """
    rows = scores[scores["metric"] == metric].iloc[::-1]
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(figsize=(8, 1 + 0.6 * len(rows)))
        spread = np.clip([rows["value"] - rows["low"], rows["high"] - rows["value"]], 0, None)
        names = [f"{name} (n = {n})" for name, n in zip(rows[label], rows["n"], strict=True)]
        axes.barh(names, rows["value"], xerr=spread)
        for place, (value, high) in enumerate(zip(rows["value"], rows["high"], strict=True)):
            axes.text(high + 0.02, place, f"{value:.0%}", va="center")
        axes.set(xlim=(0, 1.15), xlabel=metric.replace("_", " "))
        axes.set_xticks(np.linspace(0, 1, 6), [f"{tick:.0%}" for tick in np.linspace(0, 1, 6)])
        plt.close(figure)
    return figure


def arc_figures(figures: pd.DataFrame, curve_of: str = "pythia-70m") -> Figure:
    """What do models of this family reach? Accuracy over size, and over training, with chance.

    Args:
        figures: `model`, `step`, `acc`, `acc_stderr` of one task, from `benchmark.published`.
        curve_of: the model whose training is shown, from step 0 on.
    """
    with plt.style.context(STYLE):
        figure, (by_size, by_step) = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True)
        last = figures[figures["step"] == figures["step"].max()]
        for deduplicated, name, mark in (
            (False, "the Pile", "o-"),
            (True, "the Pile, deduplicated", "s--"),
        ):
            rows = last[last["model"].str.endswith("-deduped") == deduplicated]
            sizes = rows["model"].map(_weights_of)
            rows = rows.assign(size=sizes).sort_values("size")
            spread = 1.96 * rows["acc_stderr"]
            by_size.errorbar(rows["size"], rows["acc"], spread, fmt=mark, label=name)
        by_size.set(xscale="log", xlabel="weights", ylabel="acc", ylim=(0, 1))
        one = figures[figures["model"] == curve_of].sort_values("step")
        by_step.errorbar(one["step"], one["acc"], 1.96 * one["acc_stderr"], fmt="o-")
        by_step.set_xscale("symlog", linthresh=1)  # a logarithm with a place for 0
        by_step.set(xlabel="training step (0 is untrained)", title=curve_of)
        for axes in (by_size, by_step):
            axes.axhline(0.25, linestyle=":", color="0.4")
            axes.annotate("chance", (0.86, 0.26), xycoords=("axes fraction", "data"))
        by_size.set_title("at the end of training")
        by_size.legend()
        plt.close(figure)
    return figure


def _weights_of(model: str) -> float:
    """Return the number of weights in a name such as `pythia-1.4b-deduped`."""
    size = model.split("-")[1]
    return float(size[:-1]) * {"m": 1e6, "b": 1e9}[size[-1]]


def length_histogram(lengths: dict[str, Sequence[int]], limit: int | None = None) -> Figure:
    """How long are the rows? One outline per name, in tokens.

    Args:
        lengths: for each name, the token counts of its rows.
        limit: a length limit to mark.
    """
    with plt.style.context(STYLE):
        figure, axes = plt.subplots()
        longest = max(max(values) for values in lengths.values())
        width = -(-longest // 40)  # whole numbers, or some bins would hold more lengths than others
        bins = np.arange(0, longest + width + 1, width) - 0.5
        for (name, values), line in zip(lengths.items(), ["-", "--", ":", "-."], strict=False):
            axes.hist(values, bins, histtype="step", linewidth=2, linestyle=line, label=name)
        if limit:
            axes.axvline(limit, color="black", linestyle=":", label=f"limit {limit}")
        axes.set(xlabel="tokens", ylabel="rows")
        axes.legend()
        plt.close(figure)
    return figure


def packing_picture(lengths: Sequence[int], bins: Sequence[Sequence[int]], capacity: int) -> Figure:
    """Where is the padding, and who sees whom? Padded rows, packed rows, and attention in one.

    Args:
        lengths: of the examples, in tokens.
        bins: which examples share a row, as `packing.best_fit` returns them.
        capacity: tokens a packed row holds.
    """
    with plt.style.context(STYLE):
        figure, (padded, packed, attention) = plt.subplots(1, 3, figsize=(13, 5))
        longest = max(lengths)
        _draw_rows(padded, [[index] for index in range(len(lengths))], lengths, longest)
        _draw_rows(packed, bins, lengths, capacity)
        waste = [
            1 - sum(lengths) / (len(lengths) * longest),
            1 - sum(lengths) / (len(bins) * capacity),
        ]
        padded.set_title(f"padded: {waste[0]:.0%} is padding")
        packed.set_title(f"packed: {waste[1]:.0%} is padding")
        owner = np.repeat(np.arange(len(bins[0])), [lengths[index] for index in bins[0]])
        allowed = np.tril(owner[:, None] == owner[None, :])
        attention.imshow(allowed, cmap="Blues", vmin=0, vmax=1.3, interpolation="nearest")
        attention.set_title("first row: who sees whom")
        attention.set(xlabel="token that is seen", ylabel="token that looks")
        attention.grid(False)
        plt.close(figure)
    return figure


def _draw_rows(axes, rows: Sequence[Sequence[int]], lengths: Sequence[int], width: int) -> None:
    colors = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    for place, members in enumerate(rows):
        start = 0
        for index in members:
            color = colors[index % len(colors)]
            axes.barh(place, lengths[index], left=start, color=color, edgecolor="white")
            middle = start + lengths[index] / 2
            label = axes.text(middle, place, index + 1, ha="center", va="center", fontsize=12)
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})
            start += lengths[index]
        axes.barh(place, width - start, left=start, color="white", edgecolor="gray", hatch="///")
    axes.invert_yaxis()
    axes.set(xlabel="tokens", ylabel="row", yticks=[], xlim=(0, width))
    axes.grid(False)


def audit_chart(summary: pd.DataFrame, budget: pd.DataFrame) -> Figure:
    """What is wrong with my data, and how much of it? Rows per problem, and what lengths cost.

    Args:
        summary: `code`, `rows`, `share` (0 to 1) and `mended`, as `Audit.summary` has them.
        budget: `limit`, `cut`, `waste_in_batches` and `packed_fill`, as `Audit.budget` has them;
            without rows, there is no second panel.
    """
    found = summary[summary["rows"] > 0].iloc[::-1]
    with plt.style.context(STYLE):
        width, panels = (13, 2) if len(budget) else (8, 1)
        size = (width, max(4, 1.5 + 0.42 * len(found)))
        figure, grid = plt.subplots(1, panels, figsize=size, squeeze=False)
        axes = grid[0, 0]
        names = found["code"].str.replace("_", " ")
        rest = found["rows"] - found["mended"]
        axes.barh(names, found["mended"], color="C2", hatch="//", label="the patch mends it")
        axes.barh(names, rest, left=found["mended"], color="C0", label="for you to judge")
        for place, (rows, share) in enumerate(zip(found["rows"], found["share"], strict=True)):
            axes.text(rows, place, f" {rows:,} ({share:.1%})", va="center")
        if found.empty:
            axes.text(0.5, 0.5, "nothing found", ha="center", transform=axes.transAxes)
        # One leaked row matters as much as a thousand repeated answers: it must be seen.
        axes.set_xscale("symlog", linthresh=1)
        axes.set(xlabel="rows (log scale)", xlim=(0, 60 * max([*found["rows"], 1])))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.grid(axis="y", visible=False)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=2)
        if len(budget):
            _draw_budget(grid[0, 1], budget)
        plt.close(figure)
    return figure


def _draw_budget(axes, budget: pd.DataFrame) -> None:
    shares = {
        "cut": ("rows cut", "o-"),
        "waste_in_batches": ("padding, batches of 8", "s--"),
        "packed_fill": ("packed rows filled", "^:"),
    }
    places = range(len(budget))
    for column, (name, look) in shares.items():
        axes.plot(places, budget[column], look, markersize=8, label=name)
    axes.set(xlabel="length limit in tokens", ylim=(-0.03, 1.03))
    axes.set_xticks(places, budget["limit"])
    axes.set_yticks(np.linspace(0, 1, 6), [f"{tick:.0%}" for tick in np.linspace(0, 1, 6)])
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, columnspacing=0.8)


def learning_curve(
    runs: pd.DataFrame, untrained: float | None = None, chance: float = 0.5
) -> Figure:
    """Do more rows still help? The score over the number of rows, with each seed's own score.

    Args:
        runs: one row a run: `rows` (trained on), `score` (0 to 1); several runs of each size.
        untrained: the score before any training, drawn as a line.
        chance: what guessing gets.
    """
    groups = runs.groupby("rows")["score"]
    mean, low, high = groups.mean(), groups.min(), groups.max()
    with plt.style.context(STYLE):
        figure, axes = plt.subplots()
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
        plt.close(figure)
    return figure
