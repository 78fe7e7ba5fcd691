"""Leakage (contamination): how much of a test or a benchmark is in the training rows."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from utilities.audit.audited_rows import Row, comparable_rows, read_for_checks
from utilities.audit.row_checks import Finding
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
    """Measure leakage: how much of a test a model can know by heart.

    Args:
        train_rows: the training rows.
        test_rows: the test rows.
        prompt_format: says which columns are prompt and response.
        near_duplicate: word overlap (Jaccard), 0 to 1, from which a test row counts as leaked.

    Returns:
        One row per measure: `measure`, `rows` (test rows that it holds for), `n` (test rows),
        `share` (0 to 1) and its 95 % Wilson interval, `low` and `high`.

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

    test_index = {comparable(row.prompt): index for index, row in enumerate(test)}
    train_prompts = {comparable(row.prompt) for row in train}
    responses = {row.response for row in train if row.response}
    pairs = near_duplicate_pairs(
        [row.prompt for row in train],
        [row.prompt for row in test],
        threshold=min(threshold, 0.6),
    )
    overlap = np.zeros(len(test))  # of each test row with its nearest training row
    best: dict[int, tuple[float, int]] = {}  # for each training row: overlap, nearest test row
    for row_index, index, similarity in zip(*(part.tolist() for part in pairs), strict=True):
        overlap[index] = max(overlap[index], similarity)
        best[row_index] = max(best.get(row_index, (0.0, 0)), (similarity, index))
    same = np.array([comparable(row.prompt) in train_prompts for row in test])
    leaked = same | (overlap >= threshold - 1e-9)
    lines = [
        ("prompt stands in training", same),
        *(
            (f"word overlap of {t} or more with a training prompt", overlap >= t - 1e-9)
            for t in (0.6, 0.7, 0.8)
        ),
    ]
    if responses and any(row.prompt for row in train):
        known_answers = np.array([row.response in responses for row in test])
        lines.append(("response stands in training, word for word", known_answers))
        # The bare texts are in the rows' fields `prompt` and `response` already.
        bare = TemplateFormat(template="{prompt}", response="{response}")
        copies = nearest_question_answers(
            [row._asdict() for row in train], [row._asdict() for row in test], bare
        )
        answered = zip(copies, test, strict=True)
        right = np.array([is_exact_match(copy, row.response) for copy, row in answered])
        lines.append(("copying the response of the most similar training prompt is right", right))
        if 0 < leaked.sum() < len(test):
            lines.append(("the same, without the leaked test rows", right[~leaked]))
    findings = []
    for index, row in enumerate(train):
        nearest_overlap, nearest = best.get(index, (0.0, 0))
        if (exact := test_index.get(comparable(row.prompt))) is not None:
            nearest_overlap, nearest = 1.0, exact
        if nearest_overlap >= threshold - 1e-9:
            detail = f"word overlap {nearest_overlap:.2f} with {test[nearest].place}"
            findings.append(Finding.of(row, "leaks_into_test", detail, row.prompt))
    return _measured(lines), findings


def _measured(lines: Sequence[tuple[str, np.ndarray]]) -> pd.DataFrame:
    """Return the table of `leakage`; each measure has a boolean per test row."""
    columns = ["measure", "rows", "n", "share", "low", "high"]
    values = [(name, int(sum(hits)), len(hits), *share_of(hits.tolist())) for name, hits in lines]
    return pd.DataFrame(values, columns=columns)


def find_benchmark_leaks(
    rows: Sequence[Row], questions: Sequence[str], threshold: float
) -> tuple[pd.DataFrame, list[Finding]]:
    """Find rows that contain a benchmark question.

    That is a near duplicate of it as prompt, or a quotation of its first 13 words anywhere in the
    row; of a question of 6 to 12 words, of all of them.
    """
    prompts = [row.prompt for row in rows]
    left, right, _ = near_duplicate_pairs(prompts, questions, threshold)
    leaks = set(zip(left.tolist(), right.tolist(), strict=True))  # (row, question)
    beginnings = [tuple(comparable(question).split()[:13]) for question in questions]
    question_of = {words: index for index, words in enumerate(beginnings) if len(words) >= 6}
    sizes = {len(words) for words in question_of}
    for index, row in enumerate(rows):
        words = comparable(f"{row.prompt}\n{row.response}").split()
        ngrams = (tuple(words[i : i + n]) for n in sizes for i in range(len(words) - n + 1))
        leaks |= {(index, question_of[ngram]) for ngram in ngrams if ngram in question_of}
    findings = [
        Finding.of(
            rows[index], "leaks_into_benchmark", f"question {question + 1}", questions[question]
        )
        for index, question in sorted(leaks)
    ]
    hits = np.isin(np.arange(len(questions)), [question for _, question in leaks])
    return _measured([("benchmark question stands in training", hits)]), findings
