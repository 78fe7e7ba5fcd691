import pytest
from hypothesis import given
from hypothesis import strategies as st

from utilities.metrics import is_exact_match, normalize, share_of, wilson_interval


@pytest.mark.parametrize(
    ("prediction", "reference", "strict", "normalized"),
    [
        ("Run make course.", "Run make course.", True, True),
        (" Run make course.\n", "Run make course.", True, True),
        ("run `make course`", "Run make course.", False, True),
        ("Run  make\ncourse", "Run make course.", False, True),
        ("Run make test.", "Run make course.", False, False),
        ("The label", "label", False, False),
        ("", "x", False, False),
    ],
)
def test_exact_match(prediction, reference, strict, normalized):
    assert is_exact_match(prediction, reference) is strict
    assert is_exact_match(prediction, reference, normalized=True) is normalized


@given(st.text())
def test_normalizing_twice_changes_nothing(text):
    assert normalize(normalize(text)) == normalize(text)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_agrees_with_scipy(counts):
    from scipy.stats import binomtest

    successes, n = counts
    expected = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    share = wilson_interval(successes, n)
    assert share.value == successes / n
    assert share.low == pytest.approx(expected.low, abs=1e-9)
    assert share.high == pytest.approx(expected.high, abs=1e-9)


def test_share_of_hits():
    assert share_of([True, False, True, True]) == wilson_interval(3, 4)
    assert wilson_interval(0, 11).high > 0.2  # 0 of 11 proves little


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 3), (4, 3)])
def test_impossible_counts(successes, n):
    with pytest.raises(ValueError, match="expected"):
        wilson_interval(successes, n)
