"""Leakage: how much of a test or a benchmark a model can know by heart from its training rows."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from utilities.audit.row_checks import Finding, Row, comparable_rows, read_for_checks
from utilities.audit.text_checks import comparable
from utilities.prompts.base import PromptFormat
from utilities.prompts.built_in import QUESTION_ANSWER
from utilities.prompts.template import TemplateFormat
from utilities.rows.near_duplicates import near_duplicate_pairs
from utilities.rows.sources import AnySource
from utilities.scores.metrics import is_exact_match
from utilities.scores.statistics import share_of


def leakage(
    train_rows: AnySource,
    test_rows: AnySource,
    prompt_format: PromptFormat = QUESTION_ANSWER,
    near_duplicate: float = 0.8,
) -> pd.DataFrame:
    """Tell how much of a test a model can know by heart.

    Args:
        train_rows: what is trained on.
        test_rows: what is tested on.
        prompt_format: says which columns are compared.
        near_duplicate: word overlap (Jaccard) from which a test row counts as leaked.

    Returns:
        One line per measure: `measure`, `rows` of the test, `n`, `share` (0 to 1) and its 95 %
        Wilson interval, `low` and `high`.

    Raises:
        DataError: rows cannot be read, or none fits the format.

    Example:
        `leakage("train.jsonl", "test.jsonl").query("measure.str.startswith('copying')")`
    """
    train, test = (
        comparable_rows(read_for_checks(rows, prompt_format)[0]) for rows in (train_rows, test_rows)
    )
    return find_leaks(train, test, near_duplicate)[0]


def find_leaks(
    train: Sequence[Row], test: Sequence[Row], threshold: float
) -> tuple[pd.DataFrame, list[Finding]]:
    """Return the table of `leakage`, and the training rows that leak."""
    from utilities.scores.baselines import nearest_question_answers

    asked = {comparable(row.prompt): index for index, row in enumerate(test)}
    known = {comparable(row.prompt) for row in train}
    responses = {row.response for row in train if row.response}
    prompts = [[row.prompt for row in rows] for rows in (train, test)]
    pairs = near_duplicate_pairs(*prompts, threshold=min(threshold, 0.6))
    overlap, best = np.zeros(len(test)), {}
    for row, index, similarity in zip(*(part.tolist() for part in pairs), strict=True):
        overlap[index] = max(overlap[index], similarity)
        best[row] = max(best.get(row, (0.0, 0)), (similarity, index))
    same = np.array([comparable(row.prompt) in known for row in test])
    leaked = same | (overlap >= threshold - 1e-9)
    lines = [
        ("prompt stands in training", same),
        *(
            (f"word overlap of {t} or more with a training prompt", overlap >= t - 1e-9)
            for t in (0.6, 0.7, 0.8)
        ),
    ]
    if responses and any(row.prompt for row in train):
        known_answers = [row.response in responses for row in test]
        lines.append(("response stands in training, word for word", known_answers))
        simple = TemplateFormat(template="{prompt}", response="{response}")
        texts = [[row._asdict() for row in rows] for rows in (train, test)]
        pairs = zip(nearest_question_answers(*texts, simple), test, strict=True)
        right = np.array([is_exact_match(copy, row.response) for copy, row in pairs])
        lines.append(("copying the response of the most similar training prompt is right", right))
        if 0 < leaked.sum() < len(test):
            lines.append(("the same, without the leaked test rows", right[~leaked]))
    findings = []
    for index, row in enumerate(train):
        overlapping, twin = best.get(index, (0.0, 0))
        if (exact := asked.get(comparable(row.prompt))) is not None:
            overlapping, twin = 1.0, exact
        if overlapping >= threshold - 1e-9:
            detail = f"word overlap {overlapping:.2f} with {test[twin].place}"
            findings.append(Finding.of(row, "leaks_into_test", detail, row.prompt))
    return _measured(lines), findings


def _measured(lines: Sequence[tuple[str, Sequence[bool]]]) -> pd.DataFrame:
    columns = ["measure", "rows", "n", "share", "low", "high"]
    told = [(name, int(sum(hits)), len(hits), *share_of(hits)) for name, hits in lines]
    return pd.DataFrame(told, columns=columns)


def find_benchmark_leaks(
    rows: Sequence[Row], questions: Sequence[str], threshold: float
) -> tuple[pd.DataFrame, list[Finding]]:
    """Find rows that ask a benchmark question, or quote its first 13 words (or all of 6 to 12)."""
    asked = [row.prompt for row in rows]
    left, right, _ = near_duplicate_pairs(asked, questions, threshold)
    held = set(zip(left.tolist(), right.tolist(), strict=True))
    runs = [tuple(comparable(question).split()[:13]) for question in questions]
    known = {run: index for index, run in enumerate(runs) if len(run) >= 6}
    sizes = {len(run) for run in known}
    for index, row in enumerate(rows):
        words = comparable(f"{row.prompt}\n{row.response}").split()
        quoted = (tuple(words[i : i + n]) for n in sizes for i in range(len(words) - n + 1))
        held |= {(index, known[run]) for run in quoted if run in known}
    findings = [
        Finding.of(
            rows[index], "leaks_into_benchmark", f"question {question + 1}", questions[question]
        )
        for index, question in sorted(held)
    ]
    hits = np.isin(np.arange(len(questions)), [question for _, question in held])
    return _measured([("benchmark question stands in training", hits)]), findings
