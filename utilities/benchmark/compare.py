"""Two models on the same items, and published scores."""

from typing import Literal

import numpy as np
import pandas as pd

from utilities.benchmark.result import Benchmark
from utilities.config import bundled
from utilities.errors import BenchmarkError
from utilities.scores.statistics import Flips, mcnemar


def compare_items(
    before: Benchmark, after: Benchmark, *, metric: Literal["acc", "acc_norm"] = "acc"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare two models on the same items, with McNemar's test.

    Args:
        before: of one model, such as the base model.
        after: of another, with the same tasks, limit and seed.
        metric: which score.

    Returns:
        (one row per task: `task`, `n`, `before`, `after` (shares), `gained`, `lost`, `p` of
        McNemar's test; the items that changed: `task`, `question`, `right`, `before`, `after` (the
        choices in words), `change`).

    Raises:
        BenchmarkError: the two answered other items.
    """
    keys = ["task", "item"]
    first, second = before.samples.set_index(keys), after.samples.set_index(keys)
    if first[metric].isna().any():
        raise BenchmarkError(f"not every task has {metric}; compare by acc")
    if not first.index.equals(second.index):
        raise BenchmarkError("the two were not asked the same items; use one limit and one seed")
    lines = []
    for task in first.index.unique("task"):
        old, new = first.loc[task][metric], second.loc[task][metric]
        flips: Flips = mcnemar(old, new)
        line = {"task": task, "n": len(old), "before": old.mean(), "after": new.mean()}
        lines.append({**line, **flips._asdict()})
    changed = first[metric] != second[metric]
    picked = "picked" if metric == "acc" else "picked_norm"
    flipped = pd.DataFrame(
        {
            "question": first["question"],
            "right": [
                None if pd.isna(r) else c[int(r)]
                for c, r in zip(first["choices"], first["right"], strict=True)
            ],
            "before": [c[p] for c, p in zip(first["choices"], first[picked], strict=True)],
            "after": [c[p] for c, p in zip(second["choices"], second[picked], strict=True)],
            "change": np.where(second[metric], "wrong → right", "right → wrong"),
        },
        index=first.index,
    )[changed]
    return pd.DataFrame(lines), flipped.reset_index("task")


def published(task: Literal["arc_easy", "arc_challenge"]) -> pd.DataFrame:
    """Return the published scores of the Pythia models on ARC; see `data/README.md`.

    Columns: `model`, `step`, `acc`, `acc_stderr`, `acc_norm`, `acc_norm_stderr`.
    """
    table = pd.read_csv(bundled("data/pythia_arc.csv"))
    return table[table["task"] == task].drop(columns=["task", "harness_task_version"])
