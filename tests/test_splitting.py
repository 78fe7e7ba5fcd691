"""Splits: disjoint, complete, stable, stratified; and near duplicates against brute force."""

import re
from collections import Counter

import pytest
from hypothesis import given, settings, strategies as st

from utilities.errors import DataError
from utilities.rows.near_duplicates import join_groups, near_duplicate_pairs
from utilities.rows.splitting import assign_parts, split_rows


@given(
    groups=st.lists(st.integers(0, 40), min_size=60, max_size=120),
    seed=st.integers(0, 5),
    sizes=st.sampled_from([{"test": 0.3}, {"validation": 0.2, "test": 0.4}, {"test": 10}]),
    stratified=st.booleans(),
)
@settings(deadline=None)
def test_a_split_is_disjoint_and_complete(groups, seed, sizes, stratified):
    rows = [{"group": str(group), "index": index} for index, group in enumerate(groups)]
    stratum = (lambda row: str(int(row["group"]) % 2)) if stratified else None
    try:
        parts = split_rows(rows, sizes, seed, lambda row: row["group"], stratum)
    except DataError:
        return  # a part was empty
    assert list(parts) == ["train", *sizes]
    assert sorted(row["index"] for part in parts.values() for row in part) == list(range(len(rows)))
    keys = [{row["group"] for row in part} for part in parts.values()]
    assert sum(map(len, keys)) == len(set().union(*keys))
    assert all([r["index"] for r in p] == sorted(r["index"] for r in p) for p in parts.values())


KEYS = st.lists(st.text(max_size=3), min_size=30, max_size=90)


@given(keys=KEYS, more=KEYS, seed=st.integers(0, 3))
@settings(deadline=None)
def test_new_rows_do_not_move_the_old_ones(keys, more, seed):
    sizes = {"validation": 0.25, "test": 0.25}
    try:
        before, after = assign_parts(keys, sizes, seed), assign_parts(keys + more, sizes, seed)
    except DataError:
        return
    assert after[: len(keys)] == before


@given(more=st.integers(1, 20), size=st.integers(5, 50))
@settings(deadline=None)
def test_of_a_counted_part_no_more_rows_move_than_come_in(more, size):
    keys = [f"key {number}" for number in range(100)]
    before = assign_parts(keys, {"test": size}, 0)
    after = assign_parts([*keys, *(f"new {n}" for n in range(more))], {"test": size}, 0)
    assert before.count("test") == after.count("test") == size
    assert sum(a != b for a, b in zip(before, after, strict=False)) <= more


def test_shares_numbers_and_seeds():
    rows = [{"q": str(number)} for number in range(2000)]

    def split(sizes, seed=1):
        return split_rows(rows, sizes, seed, lambda row: row["q"])

    assert 150 < len(split({"test": 0.1})["test"]) < 250
    assert len(split({"validation": 100, "test": 50})["validation"]) == 100
    assert split({"test": 0.1}) != split({"test": 0.1}, seed=2)
    for sizes in ({"test": 0}, {"test": 1.5}, {"test": -1}, {"train": 0.5}):
        with pytest.raises(DataError, match="expected a share between 0 and 1"):
            split(sizes)
    with pytest.raises(DataError, match="leave nothing to train on"):
        split({"a": 0.6, "b": 0.4})
    with pytest.raises(DataError, match="leaves no rows for train"):
        split_rows(rows[:1], {"test": 1}, 1, lambda row: row["q"])


@given(st.lists(st.sampled_from("aaaaaab"), min_size=40, max_size=200), st.floats(0.1, 0.5))
@settings(deadline=None)
def test_strata_get_their_share(strata, share):
    keys = [str(number) for number in range(len(strata))]
    try:
        parts = assign_parts(keys, {"test": share}, 0, strata)
    except DataError:
        return
    of_test = Counter(s for s, part in zip(strata, parts, strict=True) if part == "test")
    for stratum, count in Counter(strata).items():
        assert abs(of_test[stratum] - share * count) <= 1
    assert abs(of_test.total() - share * len(strata)) <= 0.5 + 1e-9


WORDS = st.lists(st.sampled_from("abcdefg"), max_size=7).map(" ".join)


def jaccard(one, two):
    one, two = (set(re.findall(r"\w+", text.lower())) for text in (one, two))
    return len(one & two) / len(one | two) if one | two else 0.0


@given(
    st.lists(WORDS, max_size=14), st.lists(WORDS, max_size=9), st.sampled_from([0.3, 0.5, 0.8, 1])
)
@settings(deadline=None, max_examples=200)
def test_near_duplicates_are_what_brute_force_finds(texts, others, threshold):
    def pairs(*arguments):
        left, right, similarity = near_duplicate_pairs(*arguments, threshold=threshold)
        for i, j, value in zip(left, right, similarity, strict=True):
            assert value == pytest.approx(jaccard(texts[i], (arguments[1:] or (texts,))[0][j]))
        return sorted(zip(left.tolist(), right.tolist(), strict=True))

    among = [(i, j) for j in range(len(texts)) for i in range(j)]
    assert pairs(texts) == sorted(
        p for p in among if jaccard(texts[p[0]], texts[p[1]]) >= threshold
    )
    across = [(i, j) for i in range(len(texts)) for j in range(len(others))]
    found = sorted(p for p in across if jaccard(texts[p[0]], others[p[1]]) >= threshold)
    assert pairs(texts, others) == found


def test_near_duplicates_and_what_they_touch_share_a_group():
    texts = ["what is an epoch", "What is an epoch?", "how long is a step", "what is a step", "x"]
    assert join_groups(list("abcde"), texts, 0.8) == ["a", "a", "c", "d", "e"]
    assert join_groups(["a", "b", "b", "d", "e"], texts, 0.8) == ["a", "a", "a", "d", "e"]
