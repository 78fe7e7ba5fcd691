"""Error analysis: where each kind of wrong is most frequent, and what to change.

All of it reads prediction tables: the classes of `error_classes` and the change each one asks for,
clusters of errors, flips between two systems, how much a model's confidence says, and how well
off-topic questions are told from others.
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
    """Return the class of every row of a prediction table.

    Args:
        table: `prediction`, `reference`, and `question` or `prompt`; perhaps `stopped`.
        refusal: see `error_class`.

    Raises:
        AnalysisError: a column is missing.
    """
    asked = question_column(table)
    need_columns(table, {asked, "prediction", "reference"})
    vocabulary = {w for name in (asked, "reference") for text in table[name] for w in words(text)}
    stopped = table["stopped"] if "stopped" in table else ["end_of_text"] * len(table)
    rows = zip(table[asked], table["prediction"], table["reference"], stopped, strict=True)
    found = [error_class(*row, refusal, vocabulary) for row in rows]
    return pd.Series(found, index=table.index, name="error_class", dtype=object)


def error_counts(table: pd.DataFrame) -> pd.DataFrame:
    """Count the classes of each system's predictions, the most frequent first.

    Args:
        table: `system`, `error_class`, `prediction`; `question` or `prompt`.

    Returns:
        Columns `system`, `error_class`, `count`, `value`, `low`, `high` (share of the system's
        rows with its 95 % interval, 0 to 1), `example` (question and prediction), `advice`.

    Raises:
        AnalysisError: a column is missing.
    """
    need_columns(table, {"system", "error_class", "prediction"})
    asked = question_column(table)
    lines = []
    for system, rows in table.groupby("system", sort=False):
        for name, count in rows["error_class"].value_counts().items():
            first = rows[rows["error_class"] == name].iloc[0]
            share = wilson_interval(count, len(rows))._asdict()
            example = f"{first[asked].strip()} → {first['prediction']}"
            line = {"system": system, "error_class": name, "count": count, **share}
            lines.append({**line, "example": example, "advice": ADVICE[name]})
    return pd.DataFrame(lines)


def slices(table: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """Say where each class of errors is most frequent.

    Args:
        table: `system`, `error_class`, `prompt`, and the columns to slice by.
        by: columns such as `topic`; the prompt's length in words, in quarters, always comes too.

    Returns:
        One row per system, class and column, for the slice with the largest share: `system`,
        `error_class`, `column`, `slice`, `count`, `n`, `value`, `low`, `high`, `elsewhere` (the
        share in all other slices; NaN when there is none). With many slices, the largest share is
        large by luck alone; look at its interval.

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
    """Group wrong predictions that have words in common, to find what the classes do not name.

    Args:
        table: `error_class`, `prediction`, and `question` or `prompt`.
        count: groups at most.
        seed: of k-means.

    Returns:
        One row per group, the largest first: `size`, `words` (those that stand out), `classes`
        (the most frequent), `example`. Empty when nothing is wrong.

    Raises:
        AnalysisError: a column is missing.
    """
    from sklearn.cluster import KMeans
    from sklearn.feature_extraction.text import TfidfVectorizer

    asked = question_column(table)
    need_columns(table, {"error_class", "prediction", asked})
    wrong = table[table["error_class"] != "right"]
    texts = [f"{q} {p}" for q, p in zip(wrong[asked], wrong["prediction"], strict=True)]
    columns = ["size", "words", "classes", "example"]
    if not any(map(words, texts)):
        return pd.DataFrame(columns=columns)
    vectorizer = TfidfVectorizer(analyzer=words)
    vectors = vectorizer.fit_transform(texts)
    distinct = len({tuple(row.indices) for row in vectors})
    means = KMeans(min(count, distinct), n_init=4, random_state=seed).fit(vectors)
    names, lines = vectorizer.get_feature_names_out(), []
    everywhere = np.asarray(vectors.mean(axis=0)).ravel()
    for group, center in enumerate(means.cluster_centers_):
        rows = wrong[means.labels_ == group]
        common = rows["error_class"].value_counts().index[:2]
        standing_out = ", ".join(names[(center - everywhere).argsort()[::-1][:5]])
        example = f"{rows[asked].iloc[0].strip()} → {rows['prediction'].iloc[0]}"
        lines.append([len(rows), standing_out, ", ".join(common), example])
    return pd.DataFrame(lines, columns=columns).sort_values(
        "size", ascending=False, ignore_index=True
    )


def flips(
    table: pd.DataFrame, first: str, second: str, metric: str = "normalized_exact_match"
) -> pd.DataFrame:
    """Return the rows that one system has right and another wrong.

    Args:
        table: `row` (which question), `system`, `prediction`, `reference` and the metric.
        first: a system, before.
        second: a system, after.
        metric: a column of true and false.

    Returns:
        `change` (`wrong → right` or `right → wrong`), the row's columns, `first` and `second`
        (what each answered), indexed by `row`.

    Raises:
        AnalysisError: a column or system is missing, or the two answered other rows.
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
    """Say whether a model's confidence tells if it is right.

    Confidence is the probability of the answer per token: exp(log-probability / tokens).

    Args:
        table: `log_probability`, `tokens` and the metric, of one system; rows without a
            log-probability are left out.
        metric: a column of true and false.
        bins: groups of like size.

    Returns:
        (`confidence` (mean, 0 to 1), `value`, `low`, `high` (share right, with its interval), `n`
        per group; how often a right answer is the more confident of a right and a wrong one, 0 to
        1: 0.5 is chance, NaN when all are right or all wrong).

    Raises:
        AnalysisError: a column is missing, or no row has a log-probability.
    """
    from sklearn.metrics import roc_auc_score

    need_columns(table, {"log_probability", "tokens", metric})
    numbers = table[["log_probability", "tokens"]].apply(pd.to_numeric, errors="coerce")
    known = np.isfinite(numbers).all(axis=1) & (numbers["tokens"] > 0)
    if not known.any():
        raise AnalysisError("no row has a finite log-probability, so confidence is not known")
    sure = np.exp(numbers["log_probability"] / numbers["tokens"])[known]
    hits = table[metric][known].astype(bool)
    groups = pd.qcut(sure.rank(method="first"), min(bins, len(sure)), labels=False)
    lines = []
    for _, places in sure.groupby(groups):
        right = hits[places.index]
        line = {"confidence": places.mean(), **share_of(right)._asdict(), "n": len(right)}
        lines.append(line)
    auc = float(roc_auc_score(hits, sure)) if hits.nunique() == 2 else float("nan")
    return pd.DataFrame(lines), auc


def refusals(table: pd.DataFrame, refusal: str) -> pd.DataFrame:
    """Say how well each system turns off-topic questions down, and only these.

    Args:
        table: `system`, `prediction`, `reference`.
        refusal: what an answer says that turns the question down.

    Returns:
        Two rows a system: `metric` `precision` (of what it turned down, how much was off-topic) and
        `recall` (of what was off-topic, how much it turned down); `value`, `low`, `high` (0 to 1),
        `n`. Left out where n is 0.

    Raises:
        AnalysisError: a column is missing.
    """
    need_columns(table, {"system", "prediction", "reference"})
    said = np.array([turns_down(text, refusal) for text in table["prediction"]], dtype=bool)
    meant = np.array([turns_down(text, refusal) for text in table["reference"]], dtype=bool)
    lines = []
    for system in table["system"].unique():
        own = (table["system"] == system).to_numpy()
        for metric, of in (("precision", own & said), ("recall", own & meant)):
            if of.any():
                share = share_of((said & meant)[of])._asdict()
                lines.append({"system": system, "metric": metric, **share, "n": int(of.sum())})
    return pd.DataFrame(lines, columns=["system", "metric", "value", "low", "high", "n"])
