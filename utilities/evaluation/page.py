"""One page about an evaluation: how good, how sure, compared with what, wrong in which way."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from utilities import errors
from utilities.pages import html
from utilities.pages.charts import interval_chart
from utilities.scores import error_analysis, table_columns
from utilities.scores.metrics import RANGES, SHARES

if TYPE_CHECKING:
    from utilities.evaluation.result import Evaluation
    from utilities.evaluation.settings import EvaluationConfig


MOST_ANSWERS, MOST_FLIPS = 100, 50


def write_report(evaluation: "Evaluation", path: Path, config: "EvaluationConfig") -> Path:
    """Write the page of an evaluation.

    Args:
        evaluation: what `evaluation.run_evaluation` returned.
        path: of the file.
        config: what was asked for.
    """
    table = evaluation.predictions
    own = table[table["system"] == "model"]
    sections = {
        "How good is it?": _scores(evaluation.scores),
        "Is that better than the others?": _comparisons(evaluation.comparisons),
        "In parts": _parts(evaluation.scores, config.group_by),
        "What kind of wrong?": _errors(evaluation.errors),
        "Where is it wrong most often?": _slices(own, config.group_by),
        "Which errors are alike?": html.frame(error_analysis.clusters(own)),
        "What changed from the base model?": _flips(table),
        "Is it sure when it is right?": _calibration(own),
        "What has training cost?": _forgetting(evaluation),
        "Answers": _answers(table),
        "Models": _models(evaluation.record),
        "Settings": html.pairs(html.flat(evaluation.record["config"])),
        "Made with": html.pairs(evaluation.record["versions"]),
    }
    cards, footer = _cards(evaluation), "Made from the prediction table beside this page."
    return html.write_page(path, "Evaluation", path.parent.name, cards, sections, footer)


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _within(metric: str, value: float, low: float, high: float) -> str:
    """Write a value with its interval."""
    if metric in SHARES or metric.startswith("refusal"):
        return f"{_percent(value)} ({_percent(low)} to {_percent(high)})"
    return f"{value:.3g} ({low:.3g} to {high:.3g})"


def _name(metric: str) -> str:
    return metric.replace("_", " ")


def _whole(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the scores over all rows, without those of groups."""
    return scores.drop_duplicates(["system", "metric"])


def _cards(evaluation: "Evaluation") -> str:
    whole = _whole(evaluation.scores).set_index(["system", "metric"])
    cards = []
    for system, metric in (("model", "normalized_exact_match"), ("model", "exact_match")):
        one = whole.loc[(system, metric)]
        told = f"95 % interval {_percent(one['low'])} to {_percent(one['high'])}"
        cards.append((_name(metric), _percent(one["value"]), told))
    rival = whole.xs("normalized_exact_match", level="metric")["value"].drop("model")
    if len(rival):
        cards.append(("best of the others", _percent(rival.max()), rival.idxmax()))
    failed = sum(evaluation.record["failed"].values())
    cards.append(("questions", html.number(evaluation.record["rows"]), f"{failed} answers failed"))
    return html.cards(cards)


def _scores(scores: pd.DataFrame) -> str:
    whole = _whole(scores)
    systems = list(whole["system"].unique())
    known = whole.set_index(["metric", "system"])
    lines = []
    for metric in (name for name in known.index.unique("metric")):
        line = [_name(metric)]
        for system in systems:
            one = known.loc[(metric, system)] if (metric, system) in known.index else None
            shown = "–" if one is None else _within(metric, one["value"], one["low"], one["high"])
            line.append(shown)
        low, high = RANGES.get(metric, (0, 1))
        lines.append([*line, f"{low} to {high:g}".replace("inf", "∞")])
    chosen = whole[whole["metric"] == "normalized_exact_match"]
    chart = interval_chart(
        "Answers that equal the reference, case and punctuation aside; with 95 % intervals",
        [(row.system, row.value, row.low, row.high) for row in chosen.itertuples()],
    )
    note = "<p>Value and 95 % interval. Of repetition and perplexity less is better.</p>"
    return chart + note + html.table(["metric", *systems, "range"], lines)


def _comparisons(comparisons: pd.DataFrame) -> str:
    if not len(comparisons):
        return ""
    others = list(comparisons["against"].unique())
    lines = []
    for metric, rows in comparisons.groupby("metric", sort=False):
        known = {row["against"]: row for row in rows.to_dict(orient="records")}
        shown = [_difference(known[name]) if name in known else "–" for name in others]
        lines.append([_name(metric), *shown])
    note = (
        "<p>The model minus the other, on the same rows, with the 95 % interval. p says how often "
        "two equal systems would differ at least as much; of twenty such lines one is below 0.05 "
        "by chance. Of shares also: rows gained and lost, and the smallest difference that so many "
        "rows find four times in five.</p>"
    )
    return note + html.table(["metric", *(f"against {name}" for name in others)], lines)


def _difference(row: dict[str, Any]) -> html.Html:
    p = "p < 0.001" if row["p"] < 0.001 else f"p = {row['p']:.3f}"
    more = [p]
    if row["metric"] in SHARES:
        more.append(f"+{row['gained']:.0f} −{row['lost']:.0f}")
        if pd.notna(row.get("smallest")):
            more.append(f"to be seen: {_percent(row['smallest'])}")
    value = _within(row["metric"], row["difference"], row["low"], row["high"])
    return html.Html(f"{value}<br><small>{escape('; '.join(more))}</small>")


def _parts(scores: pd.DataFrame, group_by: Sequence[str]) -> str:
    tables = ""
    for column in group_by:
        rows = scores[scores[column].notna() & scores["metric"].isin(SHARES)]
        systems, lines = list(rows["system"].unique()), []
        for (part, metric, n), cells in rows.groupby([column, "metric", "n"], sort=False):
            known = {row["system"]: row for row in cells.to_dict(orient="records")}
            values = [[known[name][k] for k in ("value", "low", "high")] for name in systems]
            # pandas 2 gives keys of several columns as numpy numbers, which JSON does not know.
            lines.append([part, _name(metric), int(n), *(_within(metric, *v) for v in values)])
        tables += html.table([column, "metric", "n", *systems], lines)
    return tables


def _errors(counts: pd.DataFrame) -> str:
    own = counts[counts["system"] == "model"]
    lines = []
    for row in own.itertuples():
        share = _within("exact_match", row.value, row.low, row.high)
        name = _name(row.error_class)
        lines.append([name, row.count, share, html.block(row.example), row.advice])
    heads = ["class", "count", "share", "example", "what to try"]
    return f'<div class="samples">{html.table(heads, lines)}</div>'


def _slices(own: pd.DataFrame, group_by: Sequence[str]) -> str:
    found = error_analysis.slices(own, group_by)
    if not len(found):
        return ""
    enough = found["count"] >= 3  # of fewer, nothing can be said
    standing_out = found[enough & (found["low"] > found["elsewhere"])]
    note = (
        "<p>Parts in which a class of errors is more frequent than elsewhere, by more than the "
        "interval allows. With many parts, some stand out by chance.</p>"
    )
    if not len(standing_out):
        return "<p>No part stands out by more than its interval.</p>"
    lines = []
    for row in standing_out.itertuples():
        share = _within("exact_match", row.value, row.low, row.high)
        place = [_name(row.error_class), _name(row.column), row.slice, f"{row.count} of {row.n}"]
        lines.append([*place, share, _percent(row.elsewhere)])
    return note + html.table(["class", "by", "part", "count", "share", "elsewhere"], lines)


def _flips(table: pd.DataFrame) -> str:
    if "base model" not in table["system"].unique():
        return ""
    changed = error_analysis.flips(table, "base model", "model")
    counts = changed["change"].value_counts()
    note = "; ".join(f"{count} {name}" for name, count in counts.items()) or "None."
    heads = {"first": "base model", "second": "model"}
    shown = changed.drop(columns="prompt" if "question" in changed else []).rename(columns=heads)
    return f"<p>{note}</p><div class='samples'>{html.frame(shown.head(MOST_FLIPS))}</div>"


def _calibration(own: pd.DataFrame) -> str:
    try:
        groups, auc = error_analysis.calibration(own)
    except errors.AnalysisError:  # an endpoint that does not tell
        return ""
    lines = [
        [_percent(row.confidence), _within("exact_match", row.value, row.low, row.high), row.n]
        for row in groups.itertuples()
    ]
    told = (
        f"Of a right and a wrong answer, the right one is the more confident in {_percent(auc)} of "
        "cases; 50 % is chance."
    )
    told = "All are right, or all wrong." if pd.isna(auc) else told
    heads = ["confidence (probability per token)", "right", "n"]
    return f"<p>{told}</p>" + html.table(heads, lines)


def _forgetting(evaluation: "Evaluation") -> str:
    if not evaluation.forgetting:
        return ""
    ratio = _within("ratio", *evaluation.forgetting)
    return (
        f"<p>Perplexity on neutral text, tuned by base model: {ratio}. "
        "Above 1 the model has become worse at it.</p>"
    )


def _answers(table: pd.DataFrame) -> str:
    asked = table_columns.question_column(table)
    systems = list(table["system"].unique())
    lines: list[list[Any]] = []
    for _, rows in list(table.groupby("row", sort=True))[:MOST_ANSWERS]:
        first, by_system = rows.iloc[0], rows.set_index("system")
        line = [html.block(first[asked]), html.block(first["reference"])]
        for system in systems:
            one = by_system.loc[system]
            mark = '<p class="good">✓</p>' if one["normalized_exact_match"] else ""
            told = one["error"] or one["prediction"]
            kind = "" if mark else f"<p>{_name(one['error_class'])}</p>"
            line.append(html.Html(html.block(told) + mark + kind))
        lines.append(line)
    heads = [asked, "reference", *systems]
    left = table["row"].nunique() - len(lines)
    note = f"<p>{left} more are in predictions.jsonl.</p>" if left else ""
    return f'<div class="samples">{html.table(heads, lines)}</div>{note}'


def _models(record: dict[str, Any]) -> str:
    lines = [[name, m["name"], m["source"], m["reason"]] for name, m in record["models"].items()]
    used = record["prompt_format"]
    told = f"<p>Prompt format: {used['name']}, because {used['from']}.</p>"
    return told + html.table(["system", "model", "from", "because"], lines)
