import itertools
import random
from collections import Counter

import pytest
from hypothesis import given, settings, strategies as st

from utilities.training.batches import StepBatches, into_passes

LENGTHS = random.Random(0).choices(range(5, 200), k=103)


def steps(**options):
    """Return the rows of each step that are learned, over all processes."""
    processes = options.get("processes", 1)
    accumulation = options.get("accumulation", 1)
    each = [StepBatches(LENGTHS, process=p, **options) for p in range(processes)]
    assert len({len(list(batches)) for batches in each} | {len(b) for b in each}) == 1
    together = []
    for batches in zip(*each, strict=True):
        together.append([c.row for batch in batches for c in batch if c.learned])
        assert all(batches), "a process would wait for another"
    size = accumulation
    return [
        list(itertools.chain.from_iterable(together[start : start + size]))
        for start in range(0, len(together), size)
    ]


@pytest.mark.parametrize("order", ["group_by_length", "random", "sequential"])
def test_every_row_once_an_epoch(order):
    rows = Counter(itertools.chain.from_iterable(steps(batch_rows=8, order=order)))
    assert rows == Counter(range(len(LENGTHS)))


@pytest.mark.parametrize("order", ["group_by_length", "random", "sequential"])
def test_a_step_is_the_same_rows_however_they_are_shared_out(order):
    alone = [sorted(rows) for rows in steps(batch_rows=8, order=order)]
    for batch_rows, accumulation, processes in [(1, 8, 1), (2, 2, 2), (4, 1, 2), (1, 2, 4)]:
        shared = steps(
            batch_rows=batch_rows, accumulation=accumulation, processes=processes, order=order
        )
        assert [sorted(rows) for rows in shared] == alone


def test_seed_and_epoch_decide_the_order():
    def order(seed, epoch):
        batches = StepBatches(LENGTHS, 8, seed=seed)
        batches.epoch = epoch
        return list(batches)

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(2, 0)
    assert order(1, 0) != order(1, 1)


def test_rows_of_like_length_go_together_and_steps_are_shuffled():
    def padding(order):
        rows = steps(batch_rows=8, order=order)
        return sum(len(step) * max(LENGTHS[i] for i in step) for step in rows) / sum(LENGTHS)

    assert len(steps(batch_rows=8)) == 13

    assert padding("group_by_length") < 1.1 < 1.5 < padding("random")
    longest = [max(LENGTHS[i] for i in step) for step in steps(batch_rows=8)]
    assert longest != sorted(longest, reverse=True)


def test_the_last_step_may_be_left_out():
    assert len(steps(batch_rows=8)) == 13
    assert len(steps(batch_rows=8, drop_last=True)) == 12


def cost(passes, lengths, pass_cost):
    return sum(len(rows) * max(lengths[i] for i in rows) + pass_cost for rows in passes)


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=7),
    st.integers(10, 80),
    st.integers(0, 20),
)
def test_passes_cost_least(lengths, max_tokens, pass_cost):
    passes = into_passes(lengths, max_tokens, pass_cost)
    assert sorted(itertools.chain.from_iterable(passes)) == list(range(len(lengths)))
    for rows in passes:
        assert len(rows) == 1 or len(rows) * max(lengths[i] for i in rows) <= max_tokens
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    best = min(
        cost(groups, lengths, pass_cost)
        for groups in groupings(order)
        if all(len(g) == 1 or len(g) * lengths[g[0]] <= max_tokens for g in groups)
    )
    assert cost(passes, lengths, pass_cost) == best


def groupings(order):
    """Yield all ways to cut a sequence."""
    for cuts in itertools.product([False, True], repeat=len(order) - 1):
        groups = [[order[0]]]
        for index, cut in zip(order[1:], cuts, strict=True):
            groups = [*groups, [index]] if cut else [*groups[:-1], [*groups[-1], index]]
        yield groups


def test_no_more_rows_in_a_pass_than_allowed():
    assert max(map(len, into_passes([5] * 20, 1000, 10, max_rows=3))) == 3
