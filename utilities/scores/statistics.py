"""Confidence intervals, paired tests of two systems, and the minimal detectable difference."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

RESAMPLES, SEED = 2000, 42


class Estimate(NamedTuple):
    """A value with its confidence interval, in the value's own unit."""

    value: float
    low: float
    high: float


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> Estimate:
    """Return a share with Wilson's score interval.

    Unlike the normal approximation it stays between 0 and 1, and has a width even at 0 of n, where
    the normal one claims certainty.

    Args:
        successes: number of successes, 0 to n.
        n: number of trials, 1 or more.
        confidence: confidence level, between 0 and 1.

    Raises:
        ValueError: a number is out of range.

    Source:
        E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
        JASA 22 (1927).

    Example:
        >>> [round(x, 3) for x in wilson_interval(8, 10)]
        [0.8, 0.49, 0.943]
    """
    return _share(successes, n, confidence, "wilson")


def clopper_pearson_interval(successes: int, n: int, confidence: float = 0.95) -> Estimate:
    """Return a share with the exact interval, whose coverage is at least `confidence`.

    It is wider than Wilson's, whose coverage is so on average. Arguments and errors are the same.

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
    """Return statistics of rows with percentile bootstrap intervals.

    The interval is between two quantiles of the statistic over resamples. It is widened as
    Student's t is wider than the normal distribution, or its coverage would be too low with few
    rows; below ten rows it still is.

    Args:
        values: of shape (n,) or (n, columns), n 1 or more, all finite.
        statistic: maps column means of shape (…, columns) to statistics of shape (…, statistics);
            the identity by default.
        confidence: confidence level, between 0 and 1.
        resamples: number of resamples, each of n rows drawn with replacement.
        seed: seed of the draws; they are the same for every column, so intervals are comparable.

    Returns:
        One estimate per statistic.

    Raises:
        ValueError: there is no row, or a value is not finite.

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
        raise ValueError(f"expected one or more rows of finite values, found {n} rows")
    compute = statistic or (lambda means: means)
    generator = np.random.default_rng(seed)
    # How often a resample has each row; times the table, that is the resample's sum.
    counts = (np.bincount(generator.integers(n, size=n), minlength=n) for _ in range(resamples))
    resampled = compute(np.array([count @ table for count in counts]) / n)
    tail = (1 - confidence) / 2
    if n > 1:
        # Hesterberg's expanded percentiles: t instead of normal quantiles, and n / (n - 1) since
        # resamples vary by the standard deviation with n, not n - 1.
        tail = stats.norm.cdf(stats.t.ppf(tail, n - 1) * math.sqrt(n / (n - 1)))
    low, high = np.quantile(resampled, [tail, 1 - tail], axis=0)
    value = compute(table.mean(axis=0))
    # If all values are equal, rounding may put an end on the wrong side of the value.
    low, high = np.minimum(low, value), np.maximum(high, value)
    return [Estimate(*map(float, ends)) for ends in zip(value, low, high, strict=True)]


class Difference(NamedTuple):
    """The second system's mean minus the first's, with its interval and p-value.

    Attributes:
        value: the difference, in the metric's own unit.
        low: lower end of its 95 % interval.
        high: upper end of its 95 % interval.
        p: probability that two equal systems differ at least as much, 0 to 1.
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
    """Compare two systems by their scores on the same rows: paired bootstrap, permutation test.

    Args:
        first: scores of the first system, of shape (n,) or (n, columns).
        second: scores of the second system, of the same shape, rows in the same order.
        resamples: number of resamples, and of permutations.
        seed: seed of both.

    Returns:
        One difference per column.

    Raises:
        ValueError: the two have different shapes, no rows, or values that are not finite.

    Source:
        P. Koehn, "Statistical significance tests for machine translation evaluation" (2004).
        p is that of a permutation test, which swaps the systems at random in each row: the sign
        of the row's difference is kept or changed.
    """
    if np.shape(first) != np.shape(second):
        shapes = f"{np.shape(first)} and {np.shape(second)}"
        raise ValueError(f"expected scores of the same rows, found {shapes}")
    differences = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    differences = differences.reshape(len(differences), -1)
    estimates = bootstrap(differences, resamples=resamples, seed=seed)
    generator, n = np.random.default_rng(seed), len(differences)
    signs = (generator.integers(0, 2, size=n) * 2.0 - 1 for _ in range(resamples))  # -1 or 1
    by_chance = np.abs([sign @ differences for sign in signs]) / n
    observed = np.abs([estimate.value for estimate in estimates])
    # The observed signs are one permutation more; so p is never 0.
    p_values = ((by_chance >= observed - 1e-12).sum(axis=0) + 1) / (resamples + 1)
    return [
        Difference(*estimate, float(p)) for estimate, p in zip(estimates, p_values, strict=True)
    ]


class Flips(NamedTuple):
    """The rows on which two systems differ, and the p-value of McNemar's exact test.

    Attributes:
        gained: number of rows on which only the second system is right.
        lost: number of rows on which only the first system is right.
        p: probability that two equal systems differ at least as much, 0 to 1.
    """

    gained: int
    lost: int
    p: float


def mcnemar(first: Sequence[float], second: Sequence[float]) -> Flips:
    """Compare two systems that are right or wrong on the same rows, by McNemar's exact test.

    Only the rows on which they differ count. If both were equally good, each of these would be a
    coin toss, so their number is binomial.

    Raises:
        ValueError: the two have different lengths.

    Source:
        Q. McNemar, Psychometrika 12 (1947), with the exact binomial distribution.

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
    """Return the minimal detectable difference between two shares, with n paired rows.

    Args:
        n: number of rows that both systems answer.
        disagreement: share of rows on which only one of them is right, 0 to 1.
        power: probability that a test at 5 % detects the difference, from 0.5 up to 1.

    Returns:
        A share; NaN if n is too small, since no difference exceeds `disagreement`.

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
    z_level, z_power = stats.norm.ppf([0.975, power])

    def excess(difference: float) -> float:
        """Return Connor's condition on n, as left minus right side: 0 at the difference sought."""
        spread = z_power * math.sqrt(max(disagreement - difference**2, 0))
        return difference * math.sqrt(n) - z_level * math.sqrt(disagreement) - spread

    if excess(disagreement) < 0:
        return math.nan
    return float(optimize.brentq(excess, 0, disagreement))
