"""Packing: nothing lost, nothing repeated, and no example sees another."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.conftest import ROWS
from utilities.errors import DataError
from utilities.features.collation import PaddingCollator
from utilities.features.packing import best_fit, pack, pad
from utilities.features.tokenization import IGNORE_INDEX, tokenize_rows
from utilities.prompts.built_in import QUESTION_ANSWER, TEXT
from utilities.training.loss import supervised_loss

LENGTHS = st.integers(1, 40).flatmap(
    lambda size: st.tuples(st.lists(st.integers(1, size), max_size=80), st.just(size))
)


@given(LENGTHS)
@settings(deadline=None)
def test_every_piece_is_in_one_bin_and_every_bin_holds_its_pieces(lengths_and_capacity):
    lengths, capacity = lengths_and_capacity
    bins = best_fit(lengths, capacity)
    assert sorted(index for members in bins for index in members) == list(range(len(lengths)))
    fill = [sum(lengths[index] for index in members) for members in bins]
    assert all(0 < used <= capacity for used in fill)
    # No two bins could have been one, which bounds the waste.
    assert sum(sorted(fill)[:2]) > capacity or len(bins) < 2
    assert bins == best_fit(lengths, capacity)


def slow_best_fit(lengths, capacity):
    bins = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fits = [b for b in bins if b[0] >= lengths[index]]
        chosen = min(fits, key=lambda b: b[0], default=None)
        if chosen is None:
            chosen = [capacity]
            bins.append(chosen)
        chosen[0] -= lengths[index]
    return sorted(b[0] for b in bins)


@given(LENGTHS)
@settings(deadline=None)
def test_it_is_best_fit_decreasing(lengths_and_capacity):
    lengths, capacity = lengths_and_capacity
    left = [capacity - sum(lengths[i] for i in members) for members in best_fit(lengths, capacity)]
    assert sorted(left) == slow_best_fit(lengths, capacity)


@pytest.mark.parametrize("lengths", [[9], [3, 0]])
def test_pieces_that_fit_nowhere_are_told(lengths):
    with pytest.raises(DataError, match="into rows of 8"):
        best_fit(lengths, 8)


def features_of(rows, tokenizer, prompt_format=QUESTION_ANSWER):
    return tokenize_rows(rows, prompt_format, tokenizer, 200).features


TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30).filter(str.strip)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.fixed_dictionaries({"question": TEXTS, "answer": TEXTS}), min_size=1, max_size=9),
    st.integers(0, 60),
)
def test_packing_loses_and_repeats_nothing(tokenizer, rows, more):
    features = features_of(rows, tokenizer)
    length = max(map(len, features["input_ids"])) + more
    packed = pack(features, length, tokenizer.pad_token_id)
    found = []
    for row in packed:
        assert {len(row[name]) for name in ("input_ids", "labels", "position_ids")} == {length}
        starts = [i for i, position in enumerate(row["position_ids"]) if position == 0]
        for start, end in zip(starts, [*starts[1:], length], strict=True):
            assert row["position_ids"][start:end] == list(range(end - start))
            ids, labels = row["input_ids"][start:end], row["labels"][start:end]
            if set(ids) == {tokenizer.pad_token_id}:
                assert set(labels) == {IGNORE_INDEX} and end == length
            else:
                found.append((ids, labels))
    given_rows = [(row["input_ids"], row["labels"]) for row in features]
    assert sorted(found) == sorted(given_rows)
    assert sum(map(len, packed["full_text"])) == sum(map(len, features["full_text"]))


def test_a_text_s_first_token_is_predicted_from_nothing_before_it(tokenizer):
    features = features_of([{"text": row["answer"]} for row in ROWS], tokenizer, TEXT)
    (row,) = pack(features, sum(map(len, features["input_ids"])), tokenizer.pad_token_id)
    firsts = [
        label for label, at in zip(row["labels"], row["position_ids"], strict=True) if at == 0
    ]
    assert firsts == [IGNORE_INDEX] * len(ROWS)
    assert row["labels"].count(IGNORE_INDEX) == len(ROWS)


def logits_apart_and_packed(model, tokenizer, change=None):
    """Return the logits of each example by itself, and those of the packed row."""
    features = features_of(ROWS, tokenizer)
    packed = pack(features, 200, tokenizer.pad_token_id)
    rows = PaddingCollator(tokenizer.pad_token_id)(list(packed))
    if change:
        rows = change(rows)
    by_ids = {tuple(row["input_ids"]): row for row in features}
    with torch.no_grad():
        together = model(**{**rows, "labels": None}, use_cache=False).logits
        for i, positions in enumerate(packed["position_ids"]):
            starts = [k for k, position in enumerate(positions) if position == 0]
            for start, end in zip(starts, [*starts[1:], 200], strict=True):
                ids = rows["input_ids"][i, start:end]
                if tuple(ids.tolist()) in by_ids:
                    yield model(input_ids=ids[None]).logits[0], together[i, start:end]


def cross_talk(model, tokenizer, change=None):
    pairs = list(logits_apart_and_packed(model, tokenizer, change))
    assert len(pairs) == len(ROWS)
    return max((apart - together).abs().max().item() for apart, together in pairs)


@pytest.fixture(params=["eager", "sdpa"])
def attention(request, model):
    model.set_attn_implementation(request.param)
    return model


def test_packed_examples_do_not_see_each_other(attention, tokenizer):
    assert cross_talk(attention, tokenizer) < 1e-4


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows | {"attention_mask": torch.ones_like(rows["input_ids"])},
        lambda rows: {k: v for k, v in rows.items() if k != "position_ids"},
    ],
    ids=["a mask of ones", "no positions"],
)
def test_a_wrong_mask_is_caught(attention, tokenizer, change):
    assert cross_talk(attention, tokenizer, change) > 1e-2


def test_the_loss_of_packed_rows_is_that_of_separate_ones(model, tokenizer):
    features = features_of(ROWS, tokenizer)
    collate = PaddingCollator(tokenizer.pad_token_id)
    head = model.get_output_embeddings()
    apart = supervised_loss(model, head, **collate(list(features)))
    packed = pack(features, 150, tokenizer.pad_token_id)
    together = supervised_loss(model, head, **collate(list(packed)))
    assert len(apart.nats) == len(together.nats)
    assert together.loss.item() == pytest.approx(apart.loss.item(), rel=1e-5)


def test_padding_to_one_length(tokenizer):
    features = features_of(ROWS, tokenizer)
    padded = pad(features, 100, tokenizer.pad_token_id)
    for before, after in zip(features, padded, strict=True):
        size = len(before["input_ids"])
        assert after["input_ids"] == before["input_ids"] + [tokenizer.pad_token_id] * (100 - size)
        assert after["labels"] == before["labels"] + [IGNORE_INDEX] * (100 - size)
        assert after["attention_mask"] == [1] * size + [0] * (100 - size)
        assert after["full_text"] == before["full_text"]
    with pytest.raises(DataError, match="cannot pad rows"):
        pad(features, 5, tokenizer.pad_token_id)
