"""HTML page of a training run: what was trained, on what, how it went, and what it answers.

The page reads only the run folder; its words are in `run_page.html.jinja`.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from utilities.files import atomic_write
from utilities.pages import html
from utilities.pages.charts import Line, LineChart, history_charts, line_charts, series, thinned
from utilities.scores.metrics import is_exact_match
from utilities.training.run_folder import Run, compare_runs

RUN_PAGE = "dashboard.html"


Record = Mapping[str, Any]


def write_dashboard(run: Run, others: Sequence[Run] = ()) -> Path:
    """Write `dashboard.html` into a run folder; it replaces an older one.

    What a run has not recorded is left out of the page.

    Args:
        run: the run that the page is about.
        others: runs to compare it with, by their losses, times and settings.

    Returns:
        The file.

    Example:
        `write_dashboard(Run.load("runs/course_assistant"))`
    """
    recorded = {key: value for key, value in run.record.items() if value is not None}
    record = defaultdict(dict, recorded)  # a missing block reads as an empty one
    runs = [run, *others] if others else []
    preflight = pd.DataFrame(record["preflight"], columns=["check", "value", "verdict"])
    path = run.folder / RUN_PAGE
    with atomic_write(path) as file:
        html.write_page(
            file,
            "training/run_page.html.jinja",
            title=run.folder.name,
            cards=_cards(record, run.history),
            record=record,
            weights=_weights(record),
            preflight=preflight.rename(columns={"value": "found"}),
            charts=history_charts(run.history, record["best"].get("step")),
            history=thinned(run.history.dropna(axis="columns", how="all")),
            samples=_samples(run.samples),
            runs=compare_runs(runs),
            runs_charts=_losses(runs),
            data=_data(record),
            speed=_speed(record),
            settings=html.flatten(record["settings"]),
        )
    return path


def _cards(record: Record, history: pd.DataFrame) -> list[tuple[str, str, str]]:
    cards = []
    if record["weights"]:
        total = record["weights"][-1]
        remark = f"of {html.with_prefix(total['weights'])} ({total['share']:.1%})"
        cards.append(("trained weights", html.with_prefix(total["trained"]), remark))
    rows = {part: html.format_value(data["kept"]) for part, data in record["data"].items()}
    if rows:
        remark = " · ".join(f"{count} {part}" for part, count in rows.items() if part != "train")
        cards.append(("training rows", rows["train"], remark))
    for column, name in {"loss": "loss", "eval_loss": "validation loss"}.items():
        if len(values := series(history, column)):
            remark = f"from {values.iloc[0]:.3f}, nats per learned token"
            cards.append((name, f"{values.iloc[-1]:.3f}", remark))
    if record["seconds"]:
        cards.append(("time", html.format_duration(record["seconds"]), _speed(record)))
    return cards


def _speed(record: Record) -> str:
    speed = record["totals"].get("tokens_per_second")
    return f"{speed:,.0f} tokens/s" if speed else ""


def _weights(record: Record) -> pd.DataFrame:
    table = pd.DataFrame(record["weights"], columns=["group", "weights", "trained", "share"])
    table = table[table["weights"] > 0]
    names, shares = table["group"].str.replace("_", " "), table["share"].map("{:.1%}".format)
    table = table.assign(group=names, share=shares)
    return table.rename(columns={"weights": "number", "group": "weights"})


def _data(record: Record) -> pd.DataFrame:
    counts = pd.DataFrame(record["data"], dtype=object)  # by name and part
    counts.index = [name.replace("_", " ") for name in counts.index]
    return counts.reset_index(names="rows and tokens")


def _samples(samples: pd.DataFrame) -> pd.DataFrame:
    """Return a row per prompt, with its reference and its answer at each evaluation."""
    steps = sorted(samples["step"].unique())
    rows = []
    for (prompt, reference), group in samples.groupby(["prompt", "reference"], sort=False):
        answers = dict(zip(group["step"], group["prediction"], strict=True))
        cells = [
            {"answer": text, "right": text is not None and is_exact_match(text, reference)}
            for text in map(answers.get, steps)
        ]
        rows.append([prompt, reference, *cells])
    columns = ["prompt", "reference", *(f"step {step:,}" for step in steps)]
    return pd.DataFrame(rows, columns=columns)


def _losses(runs: Sequence[Run]) -> list[LineChart]:
    has_all = all(len(series(run.history, "eval_loss")) for run in runs)
    column, title = ("eval_loss", "Validation") if has_all else ("loss", "Training")
    lines = [Line(run.folder.name, series(run.history, column)) for run in runs]
    return line_charts(f"{title} loss of each run", lines)
