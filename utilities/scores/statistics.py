"""How sure is a score? Intervals, two systems compared on the same rows, and what n can show."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

RESAMPLES, SEED = 2000, 42


class Estimate(NamedTuple):
    """A value with its interval, in the value's own unit."""

    value: float
    low: float
    high: float


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> Estimate:
    """Return a share with Wilson's score interval.

    Unlike the usual plus-or-minus it stays between 0 and 1 and has a width even at 0 of n, where
    the usual one claims certainty.

    Args:
        successes: from 0 to n.
        n: trials, 1 or more.
        confidence: of the interval, between 0 and 1.

    Raises:
        ValueError: the numbers are out of range.

    Source:
        E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
        JASA 22 (1927).

    Example:
        >>> [round(x, 3) for x in wilson_interval(8, 10)]
        [0.8, 0.49, 0.943]
    """
    return _share(successes, n, confidence, "wilson")


def clopper_pearson_interval(successes: int, n: int, confidence: float = 0.95) -> Estimate:
    """Return a share with the exact interval, which covers at least as often as it says.

    It is wider than Wilson's, which covers so often on average. Arguments and errors are the same.

    Source:
        C. J. Clopper and E. S. Pearson, Biometrika 26 (1934).

    Example:
        >>> [round(x, 3) for x in clopper_pearson_interval(0, 11)]
        [0.0, 0.0, 0.285]
    """
    return _share(successes, n, confidence, "exact")


def _share(successes: int, n: int, confidence: float, method: str) -> Estimate:
    if not (n >= 1 and 0 <= successes <= n and 0 < confidence < 1):
        raise ValueError(
            f"expected 0 ≤ successes ≤ n, n ≥ 1 and 0 < confidence < 1, "
            f"found {successes}, {n} and {confidence}"
        )
    test = stats.binomtest(int(successes), int(n))
    return Estimate(successes / n, *map(float, test.proportion_ci(confidence, method)))


def share_of(hits: Sequence[bool]) -> Estimate:
    """Return the share of true values with its 95 % Wilson interval."""
    return wilson_interval(sum(map(bool, hits)), len(hits))


def bootstrap(
    values: np.ndarray | Sequence[float],
    statistic: Callable[[np.ndarray], np.ndarray] | None = None,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> list[Estimate]:
    """Return figures over rows with their bootstrap intervals.

    Rows are drawn with replacement, as many as there are, again and again; the interval holds the
    middle of what comes out. It is made a little wider, as Student's t is wider than the normal
    curve, or it would cover too seldom with few rows; below ten it still does.

    Args:
        values: of shape (n,) or (n, columns), n 1 or more, all finite.
        statistic: turns column means of shape (…, columns) into figures of shape (…, figures);
            the means themselves by default.
        confidence: of the intervals, between 0 and 1.
        resamples: how often rows are drawn.
        seed: of the drawing; the same for every column, so that figures can be compared.

    Returns:
        One estimate per figure.

    Raises:
        ValueError: there is no row, or a value that is not finite.

    Source:
        B. Efron (1979); the widening: T. Hesterberg, "What teachers should know about the
        bootstrap", The American Statistician 69 (2015), section 4.

    Example:
        >>> bootstrap([0.5, 0.5, 0.5])
        [Estimate(value=0.5, low=0.5, high=0.5)]
    """
    table = np.asarray(values, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    n = len(table)
    if not n or not np.isfinite(table).all():
        raise ValueError(f"expected one finite value a row at least, found {n} rows")
    compute = statistic or (lambda means: means)
    draws = np.random.default_rng(seed)
    counts = (np.bincount(draws.integers(n, size=n), minlength=n) for _ in range(resamples))
    found = compute(np.array([count @ table for count in counts]) / n)
    tail = (1 - confidence) / 2
    if n > 1:
        tail = stats.norm.cdf(stats.t.ppf(tail, n - 1) * math.sqrt(n / (n - 1)))
    low, high = np.quantile(found, [tail, 1 - tail], axis=0)
    value = compute(table.mean(axis=0))
    # Rounding may put the ends of equal values a hair to the wrong side.
    ends = zip(value, np.minimum(low, value), np.maximum(high, value), strict=True)
    return [Estimate(*map(float, each)) for each in ends]


class Difference(NamedTuple):
    """The second system's figure minus the first's, with its interval and what chance would do.

    Attributes:
        value: the difference, in the metric's own unit.
        low: the lower end of its 95 % interval.
        high: the upper end.
        p: how often two equal systems would differ at least as much.
    """

    value: float
    low: float
    high: float
    p: float


def paired_bootstrap(
    first: np.ndarray | Sequence[float],
    second: np.ndarray | Sequence[float],
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> list[Difference]:
    """Compare two systems by scores on the same rows.

    Args:
        first: of shape (n,) or (n, columns): a row's scores.
        second: the same of the other system, in the same order.
        resamples: how often rows are drawn.
        seed: of the drawing.

    Returns:
        One difference per column.

    Raises:
        ValueError: the two have different shapes, or hold no finite values.

    Source:
        P. Koehn, "Statistical significance tests for machine translation evaluation" (2004).
        p is that of a permutation test: each row's differences keep or change their sign.
    """
    if np.shape(first) != np.shape(second):
        shapes = f"{np.shape(first)} and {np.shape(second)}"
        raise ValueError(f"expected scores of the same rows, found {shapes}")
    differences = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    differences = differences.reshape(len(differences), -1)
    estimates = bootstrap(differences, resamples=resamples, seed=seed)
    draws, n = np.random.default_rng(seed), len(differences)
    signs = (draws.integers(0, 2, size=n) * 2.0 - 1 for _ in range(resamples))
    by_chance = np.abs([sign @ differences for sign in signs]) / n
    found = np.abs([estimate.value for estimate in estimates])
    p = ((by_chance >= found - 1e-12).sum(axis=0) + 1) / (resamples + 1)
    return [Difference(*estimate, float(each)) for estimate, each in zip(estimates, p, strict=True)]


class Flips(NamedTuple):
    """How two systems differ on the same rows.

    Attributes:
        gained: rows that only the second got right.
        lost: rows that only the first got right.
        p: of McNemar's exact test: how often two equal systems would differ at least as much.
    """

    gained: int
    lost: int
    p: float


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> Flips:
    """Compare two systems that are right or wrong on the same rows.

    Only rows on which they differ tell which is better; were they equally good, each such row
    would be a coin's toss.

    Raises:
        ValueError: the two have different lengths.

    Source:
        Q. McNemar, Psychometrika 12 (1947), with the binomial distribution itself.

    Example:
        >>> mcnemar([True, False, False, False], [False, True, True, True])
        Flips(gained=3, lost=1, p=0.625)
    """
    if len(first) != len(second):
        raise ValueError(f"expected marks of the same rows, found {len(first)} and {len(second)}")
    pairs = [(bool(a), bool(b)) for a, b in zip(first, second, strict=True)]
    gained, lost = pairs.count((False, True)), pairs.count((True, False))
    p = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    return Flips(gained, lost, float(p))


def smallest_difference(n: int, disagreement: float = 0.2, power: float = 0.8) -> float:
    """Return the smallest difference between two shares that n rows can be expected to show.

    Args:
        n: rows that both systems answer.
        disagreement: share of rows on which just one of them is right, 0 to 1.
        power: how often a test at 5 % shall find the difference, between 0.5 and 1.

    Returns:
        A share. Above `disagreement` no difference is possible, so NaN: n is too small.

    Source:
        R. J. Connor, "Sample size for testing differences in proportions for the paired-sample
        design", Biometrics 43 (1987).

    Example:
        >>> round(smallest_difference(128), 2)
        0.11
    """
    if not (n >= 1 and 0 < disagreement <= 1 and 0.5 <= power < 1):
        raise ValueError(
            f"expected n ≥ 1, 0 < disagreement ≤ 1 and 0.5 ≤ power < 1, "
            f"found {n}, {disagreement} and {power}"
        )
    sure, found = stats.norm.ppf([0.975, power])

    def missing(difference: float) -> float:
        spread = found * math.sqrt(max(disagreement - difference**2, 0))
        return difference * math.sqrt(n) - sure * math.sqrt(disagreement) - spread

    if missing(disagreement) < 0:
        return math.nan
    return float(optimize.brentq(missing, 0, disagreement))
