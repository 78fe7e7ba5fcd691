import math

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st
from scipy import stats

from utilities.scores.metrics import bleu_counts, bleu_of
from utilities.scores.statistics import (
    Flips,
    bootstrap,
    clopper_pearson_interval,
    mcnemar,
    paired_bootstrap,
    share_of,
    smallest_difference,
    wilson_interval,
)

SHARES = [wilson_interval, clopper_pearson_interval]
COUNTS = st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@settings(max_examples=200, deadline=None)
@given(COUNTS, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
@example((0, 1), 0.95)
@example((1, 1), 0.95)
@example((0, 500), 0.95)
@example((500, 500), 0.95)
def test_shares_agree_with_statsmodels(counts, confidence):
    from statsmodels.stats.proportion import proportion_confint

    for interval, method in zip(SHARES, ("wilson", "beta"), strict=True):
        share = interval(*counts, confidence)
        expected = proportion_confint(*counts, alpha=1 - confidence, method=method)
        assert share.value == counts[0] / counts[1]
        assert share[1:] == pytest.approx(expected, abs=1e-9)


def test_coverage_of_shares():
    n, shares = 60, np.linspace(0.05, 0.95, 19)[:, None]
    chances = stats.binom.pmf(np.arange(n + 1), n, shares)
    wilson, exact = (np.array([find(count, n) for count in range(n + 1)]) for find in SHARES)
    covered = [
        (chances * ((low <= shares) & (shares <= high))).sum(axis=1)
        for _, low, high in (wilson.T, exact.T)
    ]
    assert 0.93 < covered[0].mean() < 0.97
    assert covered[1].min() >= 0.95


def test_share_of_hits():
    assert share_of([True, False, True, True]) == wilson_interval(3, 4)
    assert share_of(np.array([1.0, 0.0])) == wilson_interval(1, 2)
    assert wilson_interval(0, 11).high > 0.2  # 0 of 11 proves little


@pytest.mark.parametrize("interval", SHARES)
@pytest.mark.parametrize(
    "numbers",
    [(1, 0), (-1, 3), (4, 3), (math.nan, 3), (1, math.nan), (1, 3, 0), (1, 3, 1), (1, 3, 95)],
)
def test_impossible_counts(interval, numbers):
    with pytest.raises(ValueError, match="expected 0 ≤ successes"):
        interval(*numbers)


def test_share_of_nothing():
    with pytest.raises(ValueError, match="expected"):
        share_of([])


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize(
    ("n", "draw", "mean"),
    [
        (30, lambda draws, shape: draws.normal(size=shape), 0),
        (100, lambda draws, shape: draws.gamma(2, size=shape), 2),  # skewed: 1.4
    ],
)
def test_coverage_of_the_bootstrap(n, draw, mean, confidence):
    hits = []
    for seed in range(8):  # 500 data sets each
        values = draw(np.random.default_rng([seed, n]), (n, 500))
        found = bootstrap(values, confidence=confidence, resamples=1000, seed=seed)
        hits += [low <= mean <= high for _, low, high in found]
    assert abs(np.mean(hits) - confidence) < 0.02


def test_bootstrap_of_columns():
    values = np.random.default_rng(0).normal(size=(50, 2))
    found = bootstrap(values)
    assert [each.value for each in found] == pytest.approx(list(values.mean(axis=0)))
    for column, each in zip(values.T, found, strict=True):
        assert list(bootstrap(column)[0]) == pytest.approx(list(each))
        assert each.low < each.value < each.high
    assert bootstrap(values) == found != bootstrap(values, seed=1)


def test_bootstrap_of_equal_values_has_no_width():
    for values in ([0.1] * 7, [3], np.full((9, 2), 1 / 3)):
        for value, low, high in bootstrap(values):
            assert [value, low, high] == pytest.approx([np.ravel(values)[0]] * 3, abs=1e-12)
            assert low <= value <= high


def test_bootstrap_of_a_ratio_is_like_sacrebleu_s():
    from sacrebleu.metrics import BLEU

    draws = np.random.default_rng(0)
    vocabulary = ["the", "cat", "sat", "on", "a", "mat"]
    texts = [[" ".join(draws.choice(vocabulary, 12)) for _ in range(200)] for _ in range(2)]
    texts[1][:50] = texts[0][:50]
    (found,) = bootstrap(bleu_counts(*texts), lambda means: bleu_of(means * 200)[..., None])
    theirs = BLEU().corpus_score(texts[0], [texts[1]], n_bootstrap=1000)
    assert found.value == pytest.approx(theirs.score, abs=1e-6)
    assert found.low < found.value < found.high
    assert found.high - found.low == pytest.approx(2 * theirs._ci, rel=0.1)


@pytest.mark.parametrize(
    "values", [[], np.empty((0, 2)), [1, math.nan], [1, math.inf], [[1, 2], [3, -math.inf]]]
)
def test_bootstrap_of_no_numbers(values):
    with pytest.raises(ValueError, match="expected one or more rows of finite values"):
        bootstrap(values)


def test_paired_bootstrap():
    first, second = np.random.default_rng(0).normal([[[0]], [[0.2]]], size=(2, 60, 2))
    found, back = paired_bootstrap(first, second), paired_bootstrap(second, first)
    for place, (each, other) in enumerate(zip(found, back, strict=True)):
        assert each.value == pytest.approx(np.mean(second[:, place]) - np.mean(first[:, place]))
        assert (other.value, other.p) == (-each.value, each.p)
        (alone,) = paired_bootstrap(first[:, place], second[:, place])
        assert list(alone) == pytest.approx(list(each))
    assert [each[:3] for each in found] == bootstrap(second - first)
    assert paired_bootstrap(first, first) == [(0, 0, 0, 1)] * 2


@pytest.mark.parametrize(("differences", "p"), [([1] * 3, 2 / 8), ([1, 2, -4], 8 / 8)])
def test_chance_of_few_differences(differences, p):
    (found,) = paired_bootstrap([0] * 3, differences, resamples=4000)
    assert found.p == pytest.approx(p, abs=0.03)


def test_equal_systems_seldom_differ():
    found = []
    for seed in range(8):  # 500 data sets each
        first, second = np.random.default_rng(seed).normal(size=(2, 30, 500))
        found += [each.p for each in paired_bootstrap(first, second, resamples=999, seed=seed)]
    for share in (0.05, 0.25, 0.5, 0.75):
        assert np.mean(np.array(found) <= share) == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize(
    ("first", "second"),
    [([1], [1, 2]), ([[1]], [1]), ([], []), ([1, math.nan], [1, 2]), ([1], [math.inf])],
)
def test_pairs_that_are_none(first, second):
    with pytest.raises(ValueError):
        paired_bootstrap(first, second)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
@example([(True, False)] * 40 + [(False, True)] * 20)
def test_mcnemar_agrees_with_statsmodels(pairs):
    from statsmodels.stats.contingency_tables import mcnemar as expected

    found = mcnemar([a for a, _ in pairs], [b for _, b in pairs])
    counts = [[pairs.count((a, b)) for b in (True, False)] for a in (True, False)]
    assert (found.lost, found.gained) == (counts[0][1], counts[1][0])
    assert found.p == pytest.approx(expected(counts, exact=True).pvalue, abs=1e-9)


def test_mcnemar_without_a_difference():
    assert mcnemar([True, False], [True, False]) == mcnemar([], []) == Flips(0, 0, 1.0)
    with pytest.raises(ValueError, match="same rows"):
        mcnemar([True], [True, False])


def test_smallest_difference_is_found_as_often_as_said():
    n, disagreement = 200, 0.3
    difference = smallest_difference(n, disagreement)
    gained, lost = (disagreement + difference) / 2, (disagreement - difference) / 2
    draws = np.random.default_rng(0)
    found = []
    for _ in range(1500):
        kinds = draws.choice(3, size=n, p=[1 - disagreement, gained, lost])
        found.append(mcnemar(kinds == 2, kinds == 1).p <= 0.05)
    assert 0.75 < np.mean(found) < 0.88


def test_smallest_difference_shrinks_with_rows():
    found = [smallest_difference(n) for n in (50, 100, 1000, 10**6)]
    assert found == sorted(found, reverse=True) and found[-1] < 0.002
    assert smallest_difference(100, power=0.9) > smallest_difference(100) < 0.2
    assert smallest_difference(200, disagreement=0.1) < smallest_difference(200)
    assert math.isnan(smallest_difference(5))


@pytest.mark.parametrize(
    "numbers",
    [(0,), (math.nan,), (10, 0), (10, 1.1), (10, math.nan), (10, 0.2, 0.4), (10, 0.2, 1)],
)
def test_impossible_plans(numbers):
    with pytest.raises(ValueError, match="expected n ≥ 1"):
        smallest_difference(*numbers)
