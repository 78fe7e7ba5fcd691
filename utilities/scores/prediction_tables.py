"""Prediction tables: answers beside their references, scored, summarized and compared."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from utilities.errors import EvaluationError
from utilities.inference.answers import Answer
from utilities.prompts.base import PromptFormat
from utilities.scores.error_analysis import classify
from utilities.scores.error_classes import turns_down
from utilities.scores.metrics import RANGES, SHARES, score_rows, summarize
from utilities.scores.statistics import mcnemar, paired_bootstrap, smallest_difference
from utilities.scores.table_columns import OWN_COLUMNS, paired_rows


def prediction_table(
    rows: Sequence[dict[str, Any]],
    answers: Sequence[str | Answer],
    prompt_format: PromptFormat,
    system: str,
    refusal: str | None = None,
) -> pd.DataFrame:
    """Put answers beside their references, and score each row.

    Args:
        rows: the data rows.
        answers: one per row, in the same order: texts, or `Answer`s.
        prompt_format: makes prompt and reference from a row.
        system: name of what answered, e.g. `tuned`, `base` or `nearest question`.
        refusal: text that marks an answer as a refusal, see `turns_down`; adds `turned_down`.

    Returns:
        A table with the rows' columns (prefixed by `data_` if the name is one of the following),
        then `row` (int, from 0), `prompt`, `reference`, `prediction`, `system` (str), `stopped`,
        `tokens`, `log_probability` (nats), `error` (see `inference.answers.Answer`; None if the
        answers are texts), the columns of `metrics.score_rows`, `turned_down` (bool, with
        `refusal`), `error_class`.

    Raises:
        EvaluationError: the two have different lengths, or there are no rows.
    """
    if len(rows) != len(answers) or not rows:
        raise EvaluationError(
            f"expected one prediction a row, found {len(answers)} for {len(rows)} rows"
        )
    table = pd.DataFrame(list(rows))
    table = table.rename(columns={name: f"data_{name}" for name in OWN_COLUMNS & set(table)})
    table["row"] = range(len(rows))
    table["prompt"] = [str(prompt_format.prompt(row)) for row in rows]
    table["reference"] = [prompt_format.reference(row) for row in rows]
    table["prediction"] = [a.text if isinstance(a, Answer) else a for a in answers]
    table["system"] = system
    for name in ("stopped", "tokens", "log_probability", "error"):
        table[name] = pd.Series([getattr(answer, name, None) for answer in answers], dtype=object)
    table = table.join(score_rows(table["prediction"], table["reference"]))
    if refusal:
        table["turned_down"] = [turns_down(text, refusal) for text in table["prediction"]]
    table["error_class"] = classify(table, refusal)
    return table


def score(
    table: pd.DataFrame, by: Sequence[str] = ("system",), metrics: Sequence[str] | None = None
) -> pd.DataFrame:
    """Summarize a prediction table.

    Args:
        table: what `prediction_table` returned; several may be concatenated.
        by: the columns to group by.
        metrics: names in `metrics.RANGES`; by default all that the table has.

    Returns:
        One row per group and metric: the columns of `by`, `metric`, `value`, `low`, `high` (the
        95 % interval, in the unit of the metric), and `n`.

    Raises:
        EvaluationError: the table is empty or lacks a column.
    """
    missing = {*by, "prediction", "reference", *(metrics or ["exact_match"])} - set(table)
    if missing or not len(table):
        lack = f"lacks the columns {sorted(missing)}" if missing else "is empty"
        raise EvaluationError(f"the prediction table {lack}")
    unwanted = [name for name in RANGES if name in table and metrics and name not in metrics]
    lines = []
    for group, rows in table.drop(columns=unwanted).groupby(list(by), sort=False):
        keys = dict(zip(by, group, strict=True))
        for metric, estimate in summarize(rows).items():
            lines.append({**keys, "metric": metric, **estimate._asdict(), "n": len(rows)})
    return pd.DataFrame(lines)


def compare(table: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """Compare two systems that answered the same rows.

    Args:
        table: a prediction table with both.
        first: name of a system, such as `base model`.
        second: name of the other system, such as `model`.

    Returns:
        One row per metric: `metric`, `first`, `second` (values), `difference` (second minus
        first), `low`, `high` (its 95 % interval, by the paired bootstrap), `p` (how often two equal
        systems would differ at least as much; McNemar's test for shares, a permutation test for
        others), `gained`, `lost` (rows, for shares), `smallest` (the difference between shares
        that so many rows can be expected to show). BLEU is compared by its mean over sentences.
        One p of 0.05 in twenty is to be expected by chance.

    Raises:
        AnalysisError: a system is missing, or they answered different rows.
    """
    before, after = paired_rows(table, first, second)
    known = before.notna().all() & after.notna().all()
    metrics = [name for name in RANGES if name in table and known[name] and name != "perplexity"]
    values = [rows[metrics].to_numpy(dtype=float) for rows in (before, after)]
    lines = []
    for column, (metric, difference) in enumerate(
        zip(metrics, paired_bootstrap(*values), strict=True)
    ):
        old, new = (array[:, column] for array in values)
        line: dict[str, Any] = {
            "metric": metric,
            "first": old.mean(),
            "second": new.mean(),
            "difference": difference.value,
            "low": difference.low,
            "high": difference.high,
            "p": difference.p,
        }
        if metric in SHARES:
            flips = mcnemar(old, new)
            line |= flips._asdict()  # its p, in place of the permutation test's
            if flips.gained + flips.lost:
                disagreement = (flips.gained + flips.lost) / len(before)
                line["smallest"] = smallest_difference(len(before), disagreement)
        lines.append(line)
    return pd.DataFrame(lines)
