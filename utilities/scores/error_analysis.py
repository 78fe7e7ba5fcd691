"""Error analysis of prediction tables: which errors occur where, and what to change.

Counts of the classes of `error_classes` with advice, slices, clusters of errors, flips between two
systems, calibration of a model's confidence, and precision and recall of refusals.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from utilities.errors import AnalysisError
from utilities.scores.error_classes import ADVICE, error_class, turns_down
from utilities.scores.metrics import words
from utilities.scores.statistics import share_of, wilson_interval
from utilities.scores.table_columns import need_columns, paired_rows, question_column


def classify(table: pd.DataFrame, refusal: str | None = None) -> pd.Series:
    """Return the error class of each row of a prediction table.

    Args:
        table: `prediction`, `reference`, and `question` or `prompt`; perhaps `stopped`.
        refusal: see `error_class`.

    Raises:
        AnalysisError: a column is missing.
    """
    question = question_column(table)
    need_columns(table, {question, "prediction", "reference"})
    texts = [*table[question], *table["reference"]]
    vocabulary = {word for text in texts for word in words(text)}
    stopped = table["stopped"] if "stopped" in table else ["end_of_text"] * len(table)
    rows = zip(table[question], table["prediction"], table["reference"], stopped, strict=True)
    classes = [error_class(*row, refusal, vocabulary) for row in rows]
    return pd.Series(classes, index=table.index, name="error_class", dtype=object)


def error_counts(table: pd.DataFrame) -> pd.DataFrame:
    """Count the error classes of each system's predictions, the most frequent first.

    Args:
        table: `system`, `error_class`, `prediction`; `question` or `prompt`.

    Returns:
        Columns `system`, `error_class`, `count`, `value`, `low`, `high` (share of the system's
        rows with its 95 % interval, 0 to 1), `example` (question and prediction), `advice`.

    Raises:
        AnalysisError: a column is missing.
    """
    need_columns(table, {"system", "error_class", "prediction"})
    question = question_column(table)
    lines = []
    for system, rows in table.groupby("system", sort=False):
        for name, count in rows["error_class"].value_counts().items():
            first = rows[rows["error_class"] == name].iloc[0]
            share = wilson_interval(count, len(rows))._asdict()
            example = f"{first[question].strip()} → {first['prediction']}"
            line = {"system": system, "error_class": name, "count": count, **share}
            lines.append({**line, "example": example, "advice": ADVICE[name]})
    return pd.DataFrame(lines)


def slices(table: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """Find the slice of the rows in which each error class is most frequent.

    Args:
        table: `system`, `error_class`, `prompt`, and the columns to slice by.
        by: columns such as `topic`; the quartiles of the prompt's length in words are added.

    Returns:
        One row per system, class and column, for the slice with the largest share: `system`,
        `error_class`, `column`, `slice`, `count`, `n`, `value`, `low`, `high`, `elsewhere` (the
        share in all other slices; NaN if there is none). With many slices, the largest share is
        large by chance alone; look at its interval.

    Raises:
        AnalysisError: a column is missing.
    """
    need_columns(table, {"system", "error_class", "prompt", *by})
    table = table.assign(prompt_words=[len(words(text)) for text in table["prompt"]])
    quarters = pd.qcut(table["prompt_words"], 4, duplicates="drop")
    table["prompt_words"] = [
        f"{int(np.floor(q.left)) + 1} to {int(q.right)}" if isinstance(q, pd.Interval) else "all"
        for q in quarters
    ]
    lines = []
    for system, rows in table.groupby("system", sort=False):
        for name in rows["error_class"].unique():
            is_one = rows["error_class"] == name
            if name == "right":
                continue
            for column in ("prompt_words", *by):
                shares = is_one.groupby(rows[column], sort=True).agg(["sum", "size"])
                worst = (shares["sum"] / shares["size"]).idxmax()
                count, n = map(int, shares.loc[worst])
                worst = worst.item() if isinstance(worst, np.generic) else worst
                other = len(rows) - n
                line = {"system": system, "error_class": name, "column": column, "slice": worst}
                line |= {"count": count, "n": n, **wilson_interval(count, n)._asdict()}
                elsewhere = (is_one.sum() - count) / other if other else np.nan
                lines.append({**line, "elsewhere": elsewhere})
    return pd.DataFrame(lines)


def clusters(table: pd.DataFrame, count: int = 5, seed: int = 42) -> pd.DataFrame:
    """Cluster wrong predictions by their words (k-means), to find errors that no class names.

    Args:
        table: `error_class`, `prediction`, and `question` or `prompt`.
        count: maximum number of clusters.
        seed: seed of k-means.

    Returns:
        One row per cluster, the largest first: `size`, `words` (the most characteristic),
        `classes` (the most frequent), `example`. Empty if no prediction is wrong.

    Raises:
        AnalysisError: a column is missing.
    """
    from sklearn.cluster import KMeans
    from sklearn.feature_extraction.text import TfidfVectorizer

    question = question_column(table)
    need_columns(table, {"error_class", "prediction", question})
    wrong = table[table["error_class"] != "right"]
    texts = [f"{q} {p}" for q, p in zip(wrong[question], wrong["prediction"], strict=True)]
    columns = ["size", "words", "classes", "example"]
    if not any(map(words, texts)):
        return pd.DataFrame(columns=columns)
    vectorizer = TfidfVectorizer(analyzer=words)
    vectors = vectorizer.fit_transform(texts)
    distinct = len({tuple(row.indices) for row in vectors})  # k-means needs as many at least
    means = KMeans(min(count, distinct), n_init=4, random_state=seed).fit(vectors)
    names, lines = vectorizer.get_feature_names_out(), []
    mean_of_all = np.asarray(vectors.mean(axis=0)).ravel()
    for group, center in enumerate(means.cluster_centers_):
        rows = wrong[means.labels_ == group]
        common = rows["error_class"].value_counts().index[:2]
        # Words that weigh more here than in all texts, by how much more.
        characteristic = ", ".join(names[(center - mean_of_all).argsort()[::-1][:5]])
        example = f"{rows[question].iloc[0].strip()} → {rows['prediction'].iloc[0]}"
        lines.append([len(rows), characteristic, ", ".join(common), example])
    return pd.DataFrame(lines, columns=columns).sort_values(
        "size", ascending=False, ignore_index=True
    )


def flips(
    table: pd.DataFrame, first: str, second: str, metric: str = "normalized_exact_match"
) -> pd.DataFrame:
    """Return the rows on which one system is right and the other is wrong.

    Args:
        table: `row` (number of the question), `system`, `prediction`, `reference` and the metric.
        first: the system before a change.
        second: the system after it.
        metric: a column of booleans.

    Returns:
        `change` (`wrong → right` or `right → wrong`), the row's columns, `first` and `second`
        (their answers), indexed by `row`.

    Raises:
        AnalysisError: a column or system is missing, or the two answered different rows.
    """
    before, after = paired_rows(table, first, second, {metric})
    marks = pd.DataFrame({"first": before[metric], "second": after[metric]}).astype(bool)
    changed = marks[marks["first"] != marks["second"]]
    change = changed["second"].map({True: "wrong → right", False: "right → wrong"})
    result = pd.DataFrame({"change": change})
    for name in ("question", "prompt", "reference"):
        if name in before:
            result[name] = before[name]
    result["first"], result["second"] = before["prediction"], after["prediction"]
    return result.sort_values("change", kind="stable", ascending=False)


def calibration(
    table: pd.DataFrame, metric: str = "normalized_exact_match", bins: int = 5
) -> tuple[pd.DataFrame, float]:
    """Return a reliability table of a model's confidence, and its ROC AUC.

    Confidence is the probability of the answer per token: exp(log-probability / tokens).

    Args:
        table: `log_probability`, `tokens` and the metric, of one system; rows without a
            log-probability are left out.
        metric: a column of booleans.
        bins: number of groups of equal size.

    Returns:
        (a table with `confidence` (mean, 0 to 1), `value`, `low`, `high` (share of right answers
        with its interval) and `n` per group; the AUC: how often the right one of a right and a
        wrong answer has the higher confidence, 0 to 1. 0.5 is chance; NaN if all are right or all
        wrong).

    Raises:
        AnalysisError: a column is missing, or no row has a log-probability.
    """
    from sklearn.metrics import roc_auc_score

    need_columns(table, {"log_probability", "tokens", metric})
    numbers = table[["log_probability", "tokens"]].apply(pd.to_numeric, errors="coerce")
    known = np.isfinite(numbers).all(axis=1) & (numbers["tokens"] > 0)
    if not known.any():
        raise AnalysisError("no row has a finite log-probability, so confidence is not known")
    confidence = np.exp(numbers["log_probability"] / numbers["tokens"])[known]
    hits = table[metric][known].astype(bool)
    # By rank, since many equal confidences would leave qcut without distinct edges.
    ranks = confidence.rank(method="first")
    groups = pd.qcut(ranks, min(bins, len(confidence)), labels=False)
    lines = []
    for _, group in confidence.groupby(groups):
        right = hits[group.index]
        line = {"confidence": group.mean(), **share_of(right)._asdict(), "n": len(right)}
        lines.append(line)
    auc = float(roc_auc_score(hits, confidence)) if hits.nunique() == 2 else float("nan")
    return pd.DataFrame(lines), auc


def refusals(table: pd.DataFrame, refusal: str) -> pd.DataFrame:
    """Return precision and recall of each system's refusals of off-topic questions.

    Args:
        table: `system`, `prediction`, `reference`.
        refusal: text of an answer that turns a question down.

    Returns:
        Two rows per system: `metric` is `precision` (share of the refused questions that are
        off-topic) or `recall` (share of the off-topic questions that are refused); `value`, `low`,
        `high` (0 to 1), `n`. Left out where n is 0.

    Raises:
        AnalysisError: a column is missing.
    """
    need_columns(table, {"system", "prediction", "reference"})
    refused = np.array([turns_down(text, refusal) for text in table["prediction"]], dtype=bool)
    off_topic = np.array([turns_down(text, refusal) for text in table["reference"]], dtype=bool)
    lines = []
    for system in table["system"].unique():
        own = (table["system"] == system).to_numpy()
        for metric, base in (("precision", own & refused), ("recall", own & off_topic)):
            if base.any():
                share = share_of((refused & off_topic)[base])._asdict()
                lines.append({"system": system, "metric": metric, **share, "n": int(base.sum())})
    return pd.DataFrame(lines, columns=["system", "metric", "value", "low", "high", "n"])
