"""Figures and colored views, each for one question. They read tables, never models.

Colors are from Okabe and Ito's palette, which color-blind readers can tell apart, and color never
carries meaning alone.
"""

import html
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


def length_histogram(lengths: dict[str, Sequence[int]], limit: int | None = None) -> Figure:
    """How long are the rows? One outline per name, in tokens.

    Args:
        lengths: for each name, the token counts of its rows.
        limit: a length limit to mark.
    """
    with plt.style.context(STYLE):
        figure, axes = plt.subplots()
        longest = max(max(values) for values in lengths.values())
        bins = np.linspace(0, longest, min(longest, 40) + 1)
        for (name, values), line in zip(lengths.items(), ["-", "--", ":", "-."], strict=False):
            axes.hist(values, bins, histtype="step", linewidth=2, linestyle=line, label=name)
        if limit:
            axes.axvline(limit, color="black", linestyle=":", label=f"limit {limit}")
        axes.set(xlabel="tokens", ylabel="rows")
        axes.legend()
        plt.close(figure)
    return figure


class MaskView:
    """A row of features made visible: gray is read only, blue and underlined is learned.

    Shows itself as HTML in a notebook. As plain text, `str(view)`, supervised tokens stand in
    square brackets.
    """

    def __init__(self, tokens: Sequence[str], supervised: Sequence[bool]):
        """Take one piece of text per token, and whether it carries a label."""
        self.tokens = list(tokens)
        self.supervised = list(supervised)

    def __str__(self) -> str:
        pairs = zip(self.tokens, self.supervised, strict=True)
        return "".join(f"[{text}]" if learned else text for text, learned in pairs)

    def _repr_html_(self) -> str:
        looks = {
            True: "background:#b3d9f2;color:#000;border-bottom:3px solid #0072b2",
            False: "background:#ececec;color:#555",
        }
        spans = [
            f'<span style="{looks[learned]};margin:1px;padding:0 2px;white-space:pre">'
            f"{html.escape(text).replace(chr(10), '⏎<br>')}</span>"
            for text, learned in zip(self.tokens, self.supervised, strict=True)
        ]
        note = f"underlined: learned ({sum(self.supervised)} of {len(self.tokens)} tokens)"
        return f'<div style="font-family:monospace;line-height:1.9">{"".join(spans)}</div>{note}'


def mask_view(features: dict, tokenizer) -> MaskView:
    """What does the model see, and what does it learn? One row, token by token.

    Args:
        features: a row with `input_ids` and `labels`; −100 marks what is not learned.
        tokenizer: the one that made the ids.
    """
    tokens = [tokenizer.decode([token]) for token in features["input_ids"]]
    return MaskView(tokens, [label != -100 for label in features["labels"]])
