"""Judging answers by a model: with a rubric, or in pairs; how far it agrees with people.

    from utilities.evaluation import judging
    from utilities.inference.endpoint import Endpoint

    large = Endpoint(base_url="http://127.0.0.1:8000/v1", model="large")
    rated = judging.judge(large, table)

A model that judges likes long answers, its own, and the one shown first (L. Zheng et al., "Judging
LLM-as-a-judge with MT-Bench and Chatbot Arena", 2023). Let people rate some of the same answers
(`ratings`), and believe the model as far as `agreement` goes. `ranking` makes one order of many
pairs.
"""

import math
import re
from collections.abc import Collection, Sequence
from string import Formatter
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pydantic import field_validator
from scipy import stats

from utilities.config import StrictModel
from utilities.errors import JudgingError, nearest
from utilities.inference.answers import Answer, Answerer
from utilities.inference.generation import Generation
from utilities.scores.statistics import Estimate, bootstrap, share_of
from utilities.scores.table_columns import paired_rows

SETTINGS = Generation(max_new_tokens=60)


# Ranges such as "1 to 5", and the ends of "4/5" and "4 out of 5".
_NO_RATING = re.compile(
    r"\d[\d.]* *(?:[-–]|\bto\b|\band\b) *\d[\d.]*|(?:/|\bout of\b) *\d[\d.]*", re.I
)


_NUMBER = r"(?<![\w.,-])(\d+(?:\.\d+)?)(?![.,]?\d|[\w%])"


_RATING = re.compile(rf"\brating\W*(?:(?:is|of|as|would|be|given)\W+)*{_NUMBER}", re.I)


_VERDICT = re.compile(r"(?i:\bverdict)\W*(?:(?i:is|answer)\W+)*(A|B|(?i:tie))\b")


_TURNED = {"A": "B", "B": "A", "tie": "tie"}


def _with_fields(template: str, known: Collection[str], needed: Collection[str]) -> str:
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
    """How a model rates one answer."""

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
    Where it ends in `Rating:`, a reply may begin with the number.
    """

    @field_validator("scale")
    @classmethod
    def _goes_up(cls, scale: tuple[int, int]) -> tuple[int, int]:
        if not 0 <= scale[0] < scale[1]:
            raise ValueError(f"a scale goes up, from 0 or more, such as 1 to 5; found {scale}")
        return scale

    @field_validator("template")
    @classmethod
    def _has_fields(cls, template: str) -> str:
        known = ("criteria", "low", "high", "question", "reference", "prediction")
        return _with_fields(template, known, ["prediction"])


class PairRubric(StrictModel):
    """How a model compares two answers."""

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
    """The prompt, with the fields {criteria} {question} {reference} {a} {b}. Where it ends in
    `Verdict:`, a reply may begin with A, B or tie.
    """

    @field_validator("template")
    @classmethod
    def _has_fields(cls, template: str) -> str:
        return _with_fields(template, ("criteria", "question", "reference", "a", "b"), ["a", "b"])


RUBRIC, PAIR_RUBRIC = Rubric(), PairRubric()


def judge(
    answerer: Answerer,
    table: pd.DataFrame,
    rubric: Rubric = RUBRIC,
    settings: Generation = SETTINGS,
) -> pd.DataFrame:
    """Let a model rate each answer by itself.

    Args:
        answerer: the model that judges.
        table: `prediction`, `reference`, and `question` or `prompt`.
        rubric: what it is told, and the scale.
        settings: how it writes.

    Returns:
        The table, every row of it, with `rating` (NaN where the reply holds none), `judgement` (the
        reply) and `judge_error` (why there is no rating; None where there is one). A rating is the
        number after "rating", or else the only number of the reply.

    Raises:
        JudgingError: the table is empty, or lacks a column.
    """
    asked = asked_in(table, {"prediction", "reference"})
    low, high = rubric.scale
    rows = zip(table[asked], table["reference"], table["prediction"], strict=True)
    same = {"criteria": rubric.criteria, "low": low, "high": high}
    prompts = [
        rubric.template.format(question=q, reference=r, prediction=p, **same) for q, r, p in rows
    ]
    answers = _answers(answerer, prompts, settings)
    ratings = [_rating(answer.text, rubric) for answer in answers]
    wanted = f"rating from {low} to {high}"
    errors = [_why(each, rating, wanted) for each, rating in zip(answers, ratings, strict=True)]
    return table.assign(
        rating=np.array(ratings, dtype=np.float64),
        judgement=[answer.text for answer in answers],
        judge_error=pd.Series(errors, index=table.index, dtype=object),
    )


def asked_in(table: pd.DataFrame, columns: Collection[str]) -> str:
    """Return the name of the column that holds the questions."""
    asked = "question" if "question" in table else "prompt"
    if missing := sorted({asked, *columns} - set(table)):
        raise JudgingError(f"the table lacks the columns {missing}")
    if not len(table):
        raise JudgingError("the table is empty")
    return asked


def _answers(answerer: Answerer, prompts: Sequence[str], settings: Generation) -> list[Answer]:
    found = dict(answerer.answers(prompts, settings))
    return [found[place] for place in range(len(prompts))]


def _why(answer: Answer, found: Any, wanted: str) -> str | None:
    """Say why nothing was found in an answer; None when something was."""
    return answer.error or (f"no {wanted} in: {answer.text!r:.80}" if found is None else None)


def _rating(reply: str, rubric: Rubric) -> float | None:
    low, high = rubric.scale
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
    """Let a model say which of two systems answered each question better.

    It is asked twice, with the answers in both orders; it must name the same answer twice.

    Args:
        answerer: the model that judges.
        table: `row` (which question), `system`, `prediction`, `reference`, and `question` or
            `prompt`.
        first: a system of the table, which is A at first.
        second: another, which is A when swapped.
        rubric: what the judge is told.
        settings: how it writes.

    Returns:
        One row per question: `row`, `first`, `second` (the systems), `winner` (one of them; "tie"
        when the orders disagree or the judge says so; None when a reply is unreadable), `as_shown`
        and `swapped` (the replies: "A", "B", "tie" or None), `judge_error` (None, or why).

    Raises:
        LabError: a column or a system is missing, or the two answered other rows.
    """
    asked = asked_in(table, {"row", "system", "prediction", "reference"})
    one, other = paired_rows(table, first, second)
    prompts = [
        rubric.template.format(criteria=rubric.criteria, question=q, reference=r, a=a, b=b)
        for left, right in ((one, other), (other, one))
        for q, r, a, b in zip(
            one[asked], one["reference"], left["prediction"], right["prediction"], strict=True
        )
    ]
    answers = _answers(answerer, prompts, settings)
    verdicts = [_verdict(answer.text, rubric) for answer in answers]
    whys = [_why(each, it, "verdict") for each, it in zip(answers, verdicts, strict=True)]
    names, lines = {"A": first, "B": second, "tie": "tie"}, []
    for place, row in enumerate(one.index):
        shown, swapped = verdicts[place :: len(one)]
        why = "; ".join(filter(None, whys[place :: len(one)])) or None
        winner = names[shown] if shown and shown == _TURNED.get(swapped) else "tie"
        lines.append([row, first, second, None if why else winner, shown, swapped, why])
    columns = ["row", "first", "second", "winner", "as_shown", "swapped", "judge_error"]
    return pd.DataFrame(lines, columns=columns, dtype=object).astype({"row": one.index.dtype})


def _verdict(reply: str, rubric: PairRubric) -> str | None:
    lead = "verdict: " if re.search(r"\bverdict\W*$", rubric.template, re.I) else ""
    if named := _VERDICT.search(lead + reply):
        said = {named[1]}
    else:
        said = set(re.findall(r"\b(A|B|(?i:tie))\b", reply))
    verdict = said.pop() if len(said) == 1 else None
    return verdict.lower() if verdict and len(verdict) > 1 else verdict


class PositionBias(NamedTuple):
    """What the order of two answers does to a judge.

    Attributes:
        first_shown: of all verdicts for A or B, the share for the answer that was shown first; 0.5
            is no bias. Both verdicts of a pair count.
        consistent: of the pairs with two readable verdicts, the share in which both name the same
            answer, or both say tie.
    """

    first_shown: Estimate
    consistent: Estimate


def position_bias(pairs: pd.DataFrame) -> PositionBias:
    """Return how much a judge goes by the order, with 95 % Wilson intervals.

    Args:
        pairs: as from `judge_pairs`.

    Raises:
        JudgingError: no pair has two readable verdicts.
    """
    turned = pairs["swapped"].map(_TURNED)
    readable = pairs["as_shown"].isin(_TURNED) & turned.notna()
    if not readable.any():
        raise JudgingError("no pair has two verdicts that can be read")
    verdicts = pd.concat([pairs["as_shown"], pairs["swapped"]])
    of_two = verdicts[verdicts.isin(["A", "B"])]
    shown = share_of(of_two == "A") if len(of_two) else Estimate(math.nan, math.nan, math.nan)
    return PositionBias(shown, share_of((pairs["as_shown"] == turned)[readable]))


class Agreement(NamedTuple):
    """How far a judge and people agree.

    Attributes:
        n: answers that both rated.
        equal: share with equal ratings.
        kappa: Cohen's, with quadratic weights: 1 is full agreement, 0 what chance would do. NaN
            when all ratings are the same one.
        spearman: correlation of the ranks, -1 to 1; NaN when either gave one rating only.
    """

    n: int
    equal: Estimate
    kappa: Estimate
    spearman: float


def agreement(judge: Sequence[float], people: Sequence[float]) -> Agreement:
    """Compare the ratings of a judge with those of people, or any two raters.

    Args:
        judge: one rating per answer; NaN where there is none.
        people: as many, in the same order.

    Raises:
        JudgingError: the two have different lengths, or no answer has both ratings.

    Source:
        J. Cohen, "Weighted kappa", Psychological Bulletin 70 (1968). With quadratic weights it is
        1 - mean (x - y)² over its mean under chance, var x + var y + (mean x - mean y)². The
        interval is a bootstrap over answers; a draw in which all ratings are the same one says
        nothing, and counts as 0.

    Example:
        >>> agreement([1, 3, 5, 5], [1, 3, 5, 4]).equal.value
        0.75
    """
    if len(judge) != len(people):
        raise JudgingError(f"expected ratings in pairs, found {len(judge)} and {len(people)}")
    ratings = np.array([judge, people], dtype=np.float64)
    x, y = ratings[:, np.isfinite(ratings).all(axis=0)]
    if not len(x):
        raise JudgingError("no answer was rated by both")

    def kappa(means: np.ndarray) -> np.ndarray:
        of_x, of_y, squares, products = np.moveaxis(means, -1, 0)
        by_chance = squares - 2 * of_x * of_y
        is_defined = by_chance > 1e-9
        found = 1 - (squares - 2 * products) / np.where(is_defined, by_chance, 1)
        return np.where(is_defined, found, 0)[..., None]

    weighted = Estimate(math.nan, math.nan, math.nan)
    if np.ptp([x, y]):
        (weighted,) = bootstrap(np.stack([x, y, x**2 + y**2, x * y], axis=1), kappa)
    ranks = stats.spearmanr(x, y).statistic if np.ptp(x) and np.ptp(y) else math.nan
    return Agreement(len(x), share_of(x == y), weighted, float(ranks))
