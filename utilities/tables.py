"""Prediction tables: answers beside references, scored; baselines; two systems compared.

One row per question and system. Whatever comes after generation reads such a table and nothing
else.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer

from utilities import scoring
from utilities.config import LabError
from utilities.error_classes import turns_down
from utilities.errors import both, classify
from utilities.inference import Answer, LocalModel
from utilities.intervals import Estimate, bootstrap, mcnemar, paired_bootstrap, smallest_difference
from utilities.metrics import RANGES, SHARES, score_rows, summarize
from utilities.prompts import PromptFormat

OWN_COLUMNS = {"row", "prompt", "reference", "prediction", "system", "error_class", *RANGES}
OWN_COLUMNS |= {"stopped", "tokens", "log_probability", "error"}
OWN_COLUMNS |= {"reference_log_probability", "reference_tokens"}
"""What a prediction table has beside the columns of the data."""


class EvaluationError(LabError):
    """An evaluation that cannot be done as asked."""


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
        answers: one per row, in the same order: texts, or what an `Answerer` gave.
        prompt_format: makes prompt and reference from a row.
        system: who answered, e.g. `tuned`, `base` or `nearest question`.
        refusal: text that marks an answer as turning the question down; adds `turned_down`.

    Returns:
        A table with the rows' columns (`data_` before names that are taken), then `row` (int, from
        0), `prompt`, `reference`, `prediction`, `system` (str), `stopped`, `tokens`,
        `log_probability` (nats), `error` (see `inference.Answer`; None where answers are mere
        texts), the columns of `metrics.score_rows`, perhaps `turned_down` (bool), `error_class`.

    Raises:
        EvaluationError: the two have different lengths, or there are none.
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
        metrics: which of `metrics.RANGES`; all that the table has by default.

    Returns:
        One row per group and metric: the group's columns, `metric`, `value`, `low`, `high` (the
        95 % interval, in the range of the metric), and `n`.

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
        for metric, estimate in summarize(rows).items():
            place = dict(zip(by, group, strict=True))
            lines.append({**place, "metric": metric, **estimate._asdict(), "n": len(rows)})
    return pd.DataFrame(lines)


def compare(table: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """Compare two systems that answered the same rows.

    Args:
        table: a prediction table that holds both.
        first: a system, such as `base model`.
        second: a system, such as `model`.

    Returns:
        One row per metric: `metric`, `first`, `second` (values), `difference` (second minus
        first), `low`, `high` (its 95 % interval, by the paired bootstrap), `p` (how often two equal
        systems would differ at least as much; McNemar's test for shares, a permutation test for
        others), `gained`, `lost` (rows, for shares), `smallest` (the difference between shares
        that so many rows can be expected to show). BLEU is compared by its mean over sentences.
        One p of 0.05 in twenty is to be expected by chance.

    Raises:
        AnalysisError: a system is missing, or they answered other rows.
    """
    before, after = both(table, first, second)
    known = before.notna().all() & after.notna().all()
    metrics = [name for name in RANGES if name in table and known[name] and name != "perplexity"]
    values = [rows[metrics].to_numpy(dtype=float) for rows in (before, after)]
    lines = []
    for place, difference in enumerate(paired_bootstrap(*values)):
        line = {"metric": metrics[place]}
        line |= {"first": values[0][:, place].mean(), "second": values[1][:, place].mean()}
        line |= {"difference": difference.value, **difference._asdict()}
        del line["value"]
        if metrics[place] in SHARES:
            flips = mcnemar(values[0][:, place], values[1][:, place])
            line |= flips._asdict()
            if flips.gained + flips.lost:
                disagreement = (flips.gained + flips.lost) / len(before)
                line["smallest"] = smallest_difference(len(before), disagreement)
        lines.append(line)
    return pd.DataFrame(lines)


def nearest_question_answers(
    train_rows: Sequence[dict[str, Any]],
    test_rows: Sequence[dict[str, Any]],
    prompt_format: PromptFormat,
) -> list[str]:
    """Answer each test row with the response of the most similar training prompt.

    This rival knows no language. A model that does not beat it has learned to look up.

    Similarity is the cosine of TF-IDF vectors over character n-grams of 2 to 5 within words, which
    forgives typos. Prompts are compared as the format makes them; what they share cancels out.
    """
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    known = vectorizer.fit_transform([prompt_format.prompt(row) for row in train_rows]).T.tocsc()
    asked = vectorizer.transform([prompt_format.prompt(row) for row in test_rows])
    nearest: list[int] = []
    for start in range(0, asked.shape[0], 256):  # a dense block at a time
        nearest += (asked[start : start + 256] @ known).toarray().argmax(axis=1).tolist()
    return [prompt_format.reference(train_rows[index]) for index in nearest]


def most_frequent_answer(train_rows: Sequence[dict[str, Any]], prompt_format: PromptFormat) -> str:
    """Return the most frequent response of the training rows, the first of equals.

    A system that answers every question with it has understood nothing.
    """
    return Counter(map(prompt_format.reference, train_rows)).most_common(1)[0][0]


def forgetting(
    before: LocalModel, after: LocalModel, texts: Sequence[str]
) -> tuple[pd.DataFrame, Estimate]:
    """Say what training has cost: perplexity on texts that it was not about.

    Args:
        before: the base model.
        after: the tuned one, with the same tokenizer.
        texts: neutral texts.

    Returns:
        (`text`, `tokens`, `before`, `after` (perplexity of each text), and the ratio of the
        perplexities of all tokens, after by before, with its 95 % interval: above 1 it is worse).

    Raises:
        EvaluationError: there is no text, or one does not fit the context.
    """
    if not texts:
        raise EvaluationError("there is no neutral text")
    empty = [""] * len(texts)
    found = []
    for each in (before, after):
        found.append(scoring.log_probabilities(each.model, each.tokenizer, empty, texts))
    (old, tokens), (new, others) = found
    if not np.array_equal(tokens, others):
        raise EvaluationError("the two models cut text into other tokens; they cannot be compared")
    if not np.isfinite([old, new]).all():
        raise EvaluationError("a neutral text does not fit the context of the model")
    columns = {"before": np.exp(-old / tokens), "after": np.exp(-new / tokens)}
    losses = np.stack([old - new, tokens], axis=1)
    (ratio,) = bootstrap(losses, lambda means: np.exp(means[..., :1] / means[..., 1:]))
    return pd.DataFrame({"text": list(texts), "tokens": tokens, **columns}), ratio
