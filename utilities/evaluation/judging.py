"""LLM as a judge: rating answers by a rubric or comparing pairs; its agreement with people.

    from utilities.evaluation import judge
    from utilities.inference import Endpoint

    large = Endpoint(base_url="http://127.0.0.1:8000/v1", model="large")
    rated = judge(large, table)

A judge prefers long answers, its own, and the one shown first (L. Zheng et al., "Judging
LLM-as-a-judge with MT-Bench and Chatbot Arena", 2023). Let people rate some of the same answers
(`ratings`), and trust the judge as far as `agreement` goes.
"""

import math
import re
from collections.abc import Collection, Sequence
from string import Formatter
from typing import NamedTuple

import numpy as np
import pandas as pd
from pydantic import field_validator
from scipy import stats

from utilities.config import StrictModel
from utilities.errors import JudgingError, nearest
from utilities.inference.answers import Answer, Answerer
from utilities.inference.generation import Generation
from utilities.scores.statistics import Estimate, bootstrap, share_of
from utilities.scores.table_columns import need_columns, paired_rows, question_column

SETTINGS = Generation(max_new_tokens=60)
"""How a judge writes its reply."""


# Numbers that are not the rating: ranges such as "1 to 5", and the ends of "4/5" and "4 out of 5".
_NO_RATING = re.compile(
    r"\d[\d.]* *(?:[-–]|\bto\b|\band\b) *\d[\d.]*|(?:/|\bout of\b) *\d[\d.]*", re.I
)


# A number by itself: not part of a word, a date or a percentage.
_NUMBER = r"(?<![\w.,-])(\d+(?:\.\d+)?)(?![.,]?\d|[\w%])"


_RATING = re.compile(rf"\brating\W*(?:(?:is|of|as|would|be|given)\W+)*{_NUMBER}", re.I)


_VERDICT = re.compile(r"(?i:\bverdict)\W*(?:(?i:is|answer)\W+)*(A|B|(?i:tie))\b")


# What a verdict is when the answers are shown in the other order.
_SWAPPED = {"A": "B", "B": "A", "tie": "tie"}


def _check_fields(template: str, known: Collection[str], needed: Collection[str]) -> str:
    """Return the template; raise a ValueError when a field is unknown or missing."""
    names = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
    for name in sorted(names - set(known)):
        raise ValueError(
            f"unknown template field {{{name}}}{nearest(name, known)} It may have "
            f"{', '.join(f'{{{field}}}' for field in known)}; a brace itself is doubled"
        )
    if missing := sorted(set(needed) - names):
        raise ValueError(f"the template lacks the field {{{missing[0]}}}")
    return template


class Rubric(StrictModel):
    """The instructions for rating one answer."""

    criteria: str = (
        "A good answer says the same as the reference, in any words. Each fact that is wrong or "
        "missing makes it worse; length and style do not count."
    )
    """What a good answer is."""
    scale: tuple[int, int] = (1, 5)
    """The worst and the best rating, whole numbers from 0."""
    template: str = (
        "Rate an answer from {low} (worst) to {high} (best). {criteria}\n\n"
        "### Question:\n{question}\n\n### Reference:\n{reference}\n\n### Answer:\n{prediction}\n\n"
        "Reply with `Rating:` and one number from {low} to {high}.\n\nRating:"
    )
    """The prompt, with the fields {criteria} {low} {high} {question} {reference} {prediction}.
    If it ends in `Rating:`, a reply may begin with the number.
    """

    @field_validator("scale")
    @classmethod
    def _goes_up(cls, scale: tuple[int, int]) -> tuple[int, int]:
        if not 0 <= scale[0] < scale[1]:
            raise ValueError(f"a scale goes up, from 0 or more, such as 1 to 5; got {scale}")
        return scale

    @field_validator("template")
    @classmethod
    def _has_fields(cls, template: str) -> str:
        known = ("criteria", "low", "high", "question", "reference", "prediction")
        return _check_fields(template, known, ["prediction"])


class PairRubric(StrictModel):
    """The instructions for comparing two answers."""

    criteria: str = (
        "The better answer is closer to what the reference says, in any words; length, style and "
        "order do not count."
    )
    """What makes an answer the better one."""
    template: str = (
        "Compare two answers. {criteria}\n\n"
        "### Question:\n{question}\n\n### Reference:\n{reference}\n\n"
        "### Answer A:\n{a}\n\n### Answer B:\n{b}\n\n"
        "Reply with `Verdict:` and the better one: A, B or tie.\n\nVerdict:"
    )
    """The prompt, with the fields {criteria} {question} {reference} {a} {b}. If it ends in
    `Verdict:`, a reply may begin with A, B or tie.
    """

    @field_validator("template")
    @classmethod
    def _has_fields(cls, template: str) -> str:
        known = ("criteria", "question", "reference", "a", "b")
        return _check_fields(template, known, ["a", "b"])


RUBRIC, PAIR_RUBRIC = Rubric(), PairRubric()


def judge(
    answerer: Answerer,
    table: pd.DataFrame,
    rubric: Rubric = RUBRIC,
    settings: Generation = SETTINGS,
) -> pd.DataFrame:
    """Have a model rate each answer by itself.

    Args:
        answerer: the judge.
        table: `prediction`, `reference`, and `question` or `prompt`.
        rubric: the judge's instructions, and the scale.
        settings: how it writes.

    Returns:
        All rows of the table, with `rating` (float64; NaN where the reply has none), `judgement`
        (the reply) and `judge_error` (why there is no rating; None where there is one). The rating
        is the number after "rating", or else the only number of the reply.

    Raises:
        JudgingError: the table is empty, or lacks a column.
    """
    question = question_column(table)
    need_columns(table, {question, "prediction", "reference"}, JudgingError)
    low, high = rubric.scale
    rows = zip(table[question], table["reference"], table["prediction"], strict=True)
    same = {"criteria": rubric.criteria, "low": low, "high": high}
    prompts = [
        rubric.template.format(question=q, reference=r, prediction=p, **same) for q, r, p in rows
    ]
    replies = _replies(answerer, prompts, settings)
    ratings = [_rating(reply.text, rubric) for reply in replies]
    expected = f"rating from {low} to {high}"
    errors = [_error(*pair, expected) for pair in zip(replies, ratings, strict=True)]
    return table.assign(
        rating=np.array(ratings, dtype=np.float64),
        judgement=[reply.text for reply in replies],
        judge_error=pd.Series(errors, index=table.index, dtype=object),
    )


def _replies(answerer: Answerer, prompts: Sequence[str], settings: Generation) -> list[Answer]:
    """Return the replies in the order of the prompts; they arrive in any order."""
    replies = dict(answerer.answers(prompts, settings))
    return [replies[index] for index in range(len(prompts))]


def _error(reply: Answer, value: float | str | None, expected: str) -> str | None:
    """Return why a reply gave no value; None when it gave one."""
    if reply.error:
        return reply.error
    return f"no {expected} in: {reply.text!r:.80}" if value is None else None


def _rating(reply: str, rubric: Rubric) -> float | None:
    """Return the rating in a reply: the number after "rating", or else the only number."""
    low, high = rubric.scale
    # A template that ends in "Rating:" has said the word already.
    lead = "rating: " if re.search(r"\brating\W*$", rubric.template, re.I) else ""
    text = _NO_RATING.sub(" ", lead + reply)
    named, numbers = _RATING.search(text), re.findall(_NUMBER, text)
    if not named and len(numbers) != 1:
        return None
    rating = float(named[1] if named else numbers[0])
    return rating if low <= rating <= high else None


def judge_pairs(
    answerer: Answerer,
    table: pd.DataFrame,
    first: str,
    second: str,
    rubric: PairRubric = PAIR_RUBRIC,
    settings: Generation = SETTINGS,
) -> pd.DataFrame:
    """Pairwise comparison: have a model decide which of two systems answered each question better.

    Each pair is shown twice, in both orders, since judges prefer the answer in one position. Only
    an answer that is preferred both times wins.

    Args:
        answerer: the judge.
        table: `row` (index of the question), `system`, `prediction`, `reference`, and `question` or
            `prompt`.
        first: a system of the table; A in the first order.
        second: another; A in the swapped order.
        rubric: the judge's instructions.
        settings: how it writes.

    Returns:
        One row per question: `row`, `first`, `second` (the systems), `winner` (one of them; "tie"
        when the orders disagree or the judge says so; None when a reply is unreadable), `as_shown`
        and `swapped` (the verdicts: "A", "B", "tie" or None), `judge_error` (None, or why a verdict
        is missing).

    Raises:
        LabError: a column or a system is missing, or the two answered different rows.
    """
    question = question_column(table)
    need_columns(table, {question, "row", "system", "prediction", "reference"}, JudgingError)
    one, other = paired_rows(table, first, second)
    prompts = [
        rubric.template.format(criteria=rubric.criteria, question=q, reference=r, a=a, b=b)
        for left, right in ((one, other), (other, one))
        for q, r, a, b in zip(
            one[question], one["reference"], left["prediction"], right["prediction"], strict=True
        )
    ]
    replies = _replies(answerer, prompts, settings)
    verdicts = [_verdict(reply.text, rubric) for reply in replies]
    errors = [_error(*pair, "verdict") for pair in zip(replies, verdicts, strict=True)]
    names, lines = {"A": first, "B": second, "tie": "tie"}, []
    for index, row in enumerate(one.index):
        again = len(one) + index  # the same pair in the swapped order
        shown, swapped = verdicts[index], verdicts[again]
        error = "; ".join(filter(None, (errors[index], errors[again]))) or None
        winner: str | None = "tie"
        if error:
            winner = None
        elif shown and swapped and shown == _SWAPPED[swapped]:
            winner = names[shown]
        lines.append([row, first, second, winner, shown, swapped, error])
    columns = ["row", "first", "second", "winner", "as_shown", "swapped", "judge_error"]
    return pd.DataFrame(lines, columns=columns, dtype=object).astype({"row": one.index.dtype})


def _verdict(reply: str, rubric: PairRubric) -> str | None:
    """Return the verdict in a reply, "A", "B" or "tie": after "verdict", or else the only one."""
    lead = "verdict: " if re.search(r"\bverdict\W*$", rubric.template, re.I) else ""
    if named := _VERDICT.search(lead + reply):
        verdict = named[1]
    else:
        verdicts = set(re.findall(r"\b(A|B|(?i:tie))\b", reply))
        if len(verdicts) != 1:
            return None
        verdict = verdicts.pop()
    return verdict if verdict in ("A", "B") else "tie"


class PositionBias(NamedTuple):
    """Position bias: how far a judge goes by the order of two answers.

    Attributes:
        first_shown: of all verdicts for A or B, the share for the answer that was shown first; 0.5
            is no bias. Both verdicts of a pair count.
        consistent: of the pairs with two readable verdicts, the share in which both name the same
            answer, or both are tie.
    """

    first_shown: Estimate
    consistent: Estimate


def position_bias(pairs: pd.DataFrame) -> PositionBias:
    """Return a judge's position bias, with 95 % Wilson intervals.

    Args:
        pairs: as from `judge_pairs`.

    Raises:
        JudgingError: no pair has two readable verdicts.
    """
    swapped_back = pairs["swapped"].map(_SWAPPED)
    readable = pairs["as_shown"].isin(_SWAPPED) & swapped_back.notna()
    if not readable.any():
        raise JudgingError("no pair has two verdicts that can be read")
    verdicts = pd.concat([pairs["as_shown"], pairs["swapped"]])
    decided = verdicts[verdicts.isin(["A", "B"])]
    first = share_of(decided == "A") if len(decided) else Estimate(math.nan, math.nan, math.nan)
    return PositionBias(first, share_of((pairs["as_shown"] == swapped_back)[readable]))


class Agreement(NamedTuple):
    """Inter-rater agreement.

    Attributes:
        n: answers that both rated.
        equal: share with equal ratings.
        kappa: Cohen's kappa with quadratic weights: 1 is full agreement, 0 is that of chance. NaN
            when all ratings are equal.
        spearman: rank correlation, -1 to 1; NaN when all ratings of either are equal.
    """

    n: int
    equal: Estimate
    kappa: Estimate
    spearman: float


def agreement(judge: Sequence[float], people: Sequence[float]) -> Agreement:
    """Return the agreement between a judge and people, or any two raters.

    Args:
        judge: one rating per answer; NaN where there is none.
        people: as many, in the same order.

    Raises:
        JudgingError: the two have different lengths, or no answer has both ratings.

    Source:
        J. Cohen, "Weighted kappa", Psychological Bulletin 70 (1968). With quadratic weights it is
        1 - mean (x - y)² over its mean under chance, var x + var y + (mean x - mean y)². The
        interval is a bootstrap over answers; in a resample in which all ratings are equal, kappa
        is undefined and counts as 0.

    Example:
        >>> agreement([1, 3, 5, 5], [1, 3, 5, 4]).equal.value
        0.75
    """
    if len(judge) != len(people):
        raise JudgingError(f"expected ratings in pairs, got {len(judge)} and {len(people)}")
    ratings = np.array([judge, people], dtype=np.float64)
    x, y = ratings[:, np.isfinite(ratings).all(axis=0)]
    if not len(x):
        raise JudgingError("no answer was rated by both")

    def kappa(means: np.ndarray) -> np.ndarray:
        mean_x, mean_y, squares, products = np.moveaxis(means, -1, 0)
        # With the mean of x² + y² at hand, both fractions' parts follow by expanding the squares.
        by_chance = squares - 2 * mean_x * mean_y
        observed = squares - 2 * products
        is_defined = by_chance > 1e-9
        values = 1 - observed / np.where(is_defined, by_chance, 1)
        return np.where(is_defined, values, 0)[..., None]

    weighted = Estimate(math.nan, math.nan, math.nan)
    if np.ptp([x, y]):
        (weighted,) = bootstrap(np.stack([x, y, x**2 + y**2, x * y], axis=1), kappa)
    ranks = stats.spearmanr(x, y).statistic if np.ptp(x) and np.ptp(y) else math.nan
    return Agreement(len(x), share_of(x == y), weighted, float(ranks))
