"""HTML page of an evaluation: how good, how sure, compared with what, wrong in which way.

Its words are in `page.html.jinja`; the functions here prepare the numbers and tables.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from utilities import errors
from utilities.evaluation.result import Evaluation
from utilities.evaluation.settings import EvaluationConfig
from utilities.pages.html import flatten, format_number, write_page
from utilities.scores import error_analysis, table_columns
from utilities.scores.metrics import RANGES, SHARES

MAX_ANSWERS, MAX_FLIPS = 100, 50


def write_report(evaluation: Evaluation, path: Path, config: EvaluationConfig) -> Path:
    """Write the page of an evaluation.

    Args:
        evaluation: what `evaluation.run_evaluation` returned.
        path: of the file.
        config: the settings of the evaluation.

    Returns:
        The file.
    """
    table, record = evaluation.predictions, evaluation.record
    own = table[table["system"] == "model"]
    overall = evaluation.scores.drop_duplicates(["system", "metric"])  # without those of groups
    exact = overall[overall["metric"] == "normalized_exact_match"]
    answers = _answers(table)
    models = [(name, m["name"], m["source"], m["reason"]) for name, m in record["models"].items()]
    return write_page(
        path,
        "evaluation/page.html.jinja",
        title=path.parent.name,
        cards=_cards(overall, record),
        chart=exact[["system", "value", "low", "high"]].to_numpy().tolist(),
        scores=_scores(overall),
        comparisons=_comparisons(evaluation.comparisons),
        parts=[_part(evaluation.scores, column) for column in config.group_by],
        error_classes=_error_classes(evaluation.errors),
        slices=_slices(own, config.group_by),
        clusters=error_analysis.clusters(own),
        flips=_flips(table),
        calibration=_calibration(own),
        forgetting=evaluation.forgetting,
        answers=answers,
        answers_left=table["row"].nunique() - len(answers),
        models=pd.DataFrame(models, columns=["system", "model", "from", "because"]),
        settings=flatten(record["config"]),
        record=record,
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _with_intervals(rows: pd.DataFrame) -> list[str]:
    """Format `value`, `low` and `high` of each row; without a `metric`, they are shares."""
    texts = []
    for row in rows.itertuples():
        metric = getattr(row, "metric", "exact_match")
        is_share = metric in SHARES or metric.startswith("refusal")
        write = _percent if is_share else "{:.3g}".format
        texts.append(f"{write(row.value)} ({write(row.low)} to {write(row.high)})")
    return texts


def _cards(overall: pd.DataFrame, record: dict[str, Any]) -> list[tuple[str, str, str]]:
    scores = overall.set_index(["system", "metric"])
    cards = []
    for metric in ("normalized_exact_match", "exact_match"):
        own = scores.loc[("model", metric)]
        interval = f"95 % interval {_percent(own['low'])} to {_percent(own['high'])}"
        cards.append((metric.replace("_", " "), _percent(own["value"]), interval))
    others = scores.xs("normalized_exact_match", level="metric")["value"].drop("model")
    if len(others):
        cards.append(("best of the others", _percent(others.max()), others.idxmax()))
    failed = sum(record["failed"].values())
    return [*cards, ("questions", format_number(record["rows"]), f"{failed} answers failed")]


def _side_by_side(rows: pd.DataFrame, cells: Sequence[Any], by: list[str]) -> pd.DataFrame:
    """Pivot cells, one per row, in the order of the rows: a column for each of `by` and system."""
    cells = pd.Series(cells, index=rows.index)
    systems = list(rows["system"].unique())
    lines = []
    rows = rows.assign(metric=rows["metric"].str.replace("_", " "))
    for key, group in rows.groupby(by, sort=False):
        shown = dict(zip(group["system"], cells[group.index], strict=True))
        lines.append([*key, *(shown.get(system, "–") for system in systems)])
    return pd.DataFrame(lines, columns=[*by, *systems])


def _scores(overall: pd.DataFrame) -> pd.DataFrame:
    table = _side_by_side(overall, _with_intervals(overall), ["metric"])
    limits = [RANGES.get(metric, (0, 1)) for metric in overall["metric"].unique()]
    ranges = [f"{low} to {high:g}".replace("inf", "∞") for low, high in limits]
    table.insert(table.shape[1], "range", ranges, allow_duplicates=True)  # a system may be "range"
    return table


def _comparisons(comparisons: pd.DataFrame) -> pd.DataFrame:
    if not len(comparisons):
        return comparisons
    system = "against " + comparisons["against"]
    comparisons = comparisons.assign(system=system, value=comparisons["difference"])
    notes = map(_test_result, comparisons.to_dict(orient="records"))
    cells = list(zip(_with_intervals(comparisons), notes, strict=True))
    return _side_by_side(comparisons, cells, ["metric"])


def _test_result(line: dict[str, Any]) -> str:
    notes = ["p < 0.001" if line["p"] < 0.001 else f"p = {line['p']:.3f}"]
    if line["metric"] in SHARES:
        notes.append(f"+{line['gained']:.0f} −{line['lost']:.0f}")
        if pd.notna(line.get("smallest")):
            notes.append(f"to be seen: {_percent(line['smallest'])}")
    return "; ".join(notes)


def _part(scores: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the shares within each value of a column."""
    scores = scores[scores[column].notna() & scores["metric"].isin(SHARES)]
    return _side_by_side(scores, _with_intervals(scores), [column, "metric", "n"])


def _error_classes(counts: pd.DataFrame) -> pd.DataFrame:
    own = counts[counts["system"] == "model"]
    own = own.rename(columns={"advice": "what to try"}).assign(share=_with_intervals(own))
    own["class"] = own["error_class"].str.replace("_", " ")
    return own[["class", "count", "share", "example", "what to try"]]


def _slices(own: pd.DataFrame, group_by: Sequence[str]) -> pd.DataFrame | None:
    """Return the slices with clearly more errors than elsewhere; None when there are no slices."""
    slices = error_analysis.slices(own, group_by)
    if not len(slices):
        return None
    # Of fewer than three errors, nothing can be said.
    slices = slices[(slices["count"] >= 3) & (slices["low"] > slices["elsewhere"])]
    columns = {
        "class": slices["error_class"].str.replace("_", " "),
        "by": slices["column"].str.replace("_", " "),
        "part": slices["slice"],
        "count": [f"{row.count} of {row.n}" for row in slices.itertuples()],
        "share": _with_intervals(slices),
        "elsewhere": slices["elsewhere"].map(_percent),
    }
    return pd.DataFrame(columns)


def _flips(table: pd.DataFrame) -> dict[str, Any]:
    if "base model" not in table["system"].unique():
        return {}
    flips = error_analysis.flips(table, "base model", "model")
    counts = "; ".join(f"{count} {name}" for name, count in flips["change"].value_counts().items())
    shown = flips.drop(columns="prompt" if "question" in flips else [])
    shown = shown.rename(columns={"first": "base model", "second": "model"})
    return {"counts": counts, "table": shown.head(MAX_FLIPS)}


def _calibration(own: pd.DataFrame) -> dict[str, Any]:
    try:
        groups, auc = error_analysis.calibration(own)
    except errors.AnalysisError:  # an endpoint that returns no log-probabilities
        return {}
    confidences = groups["confidence"].map(_percent)
    columns = {"confidence (probability per token)": confidences, "right": _with_intervals(groups)}
    table = pd.DataFrame({**columns, "n": groups["n"]})
    return {"auc": None if pd.isna(auc) else _percent(auc), "table": table}


def _answers(table: pd.DataFrame) -> pd.DataFrame:
    question = table_columns.question_column(table)
    systems = list(table["system"].unique())
    rows = []
    for _, group in list(table.groupby("row", sort=True))[:MAX_ANSWERS]:
        by_system = group.set_index("system").to_dict(orient="index")
        answers = [by_system[system] for system in systems]
        rows.append([answers[0][question], answers[0]["reference"], *answers])
    return pd.DataFrame(rows, columns=[question, "reference", *systems])
