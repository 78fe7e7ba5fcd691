import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import ROWS
from utilities.prompts import QUESTION_ANSWER
from utilities.sources import DataError
from utilities.tokenization import (
    IGNORE_INDEX,
    PaddingCollator,
    encode_texts,
    split_rows,
    tokenize_examples,
)

fixture_is_shared = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60)


def tokenize(examples, tokenizer, max_length=128):
    return tokenize_examples(examples, tokenizer, max_length)


@fixture_is_shared
@given(prompt=TEXTS, response=TEXTS.filter(str.strip))
def test_supervised_ids_are_the_response_and_one_end(tokenizer, prompt, response):
    features = tokenize([{"prompt": prompt, "response": response}], tokenizer, 1000).features[0]
    learned = [label for label in features["labels"] if label != IGNORE_INDEX]
    assert learned == features["input_ids"][-len(learned) :]
    assert learned.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(learned[:-1]) == response
    assert tokenizer.decode(features["input_ids"][: -len(learned)]) == prompt
    assert features["attention_mask"] == [1] * len(features["input_ids"])


def test_the_prompt_prefix_is_what_generation_encodes(tokenizer):
    for row in ROWS:
        features = tokenize([QUESTION_ANSWER.example(row)], tokenizer).features[0]
        prompt = encode_texts(tokenizer, [QUESTION_ANSWER.prompt(row)], beginning=True)[0]
        assert features["input_ids"][: len(prompt)] == prompt
        assert features["labels"][: len(prompt)] == [IGNORE_INDEX] * len(prompt)
        assert features["labels"][len(prompt)] != IGNORE_INDEX


@pytest.mark.parametrize("text", ["<|endoftext|>", "<|im_start|>", "a<|padding|>b"])
def test_text_like_a_special_token_stays_text(tokenizer, text):
    (ids,) = encode_texts(tokenizer, [text])
    assert not {tokenizer.eos_token_id, tokenizer.pad_token_id} & set(ids)
    assert tokenizer.decode(ids) == text


def test_a_tokenizer_that_begins_texts_does_so_once_in_the_prompt(tokenizer):
    from copy import deepcopy

    from tokenizers.processors import TemplateProcessing

    begins = deepcopy(tokenizer)
    begins.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    assert encode_texts(begins, ["ab"], beginning=True)[0][0] == 0
    assert 0 not in encode_texts(begins, ["ab"])[0]


def test_long_rows_lose_the_start_of_the_prompt_never_the_response(tokenizer):
    example = {"prompt": "abcdefgh " * 20 + "### Answer:\n", "response": "Short answer."}
    whole = tokenize([example], tokenizer, 1000).features[0]["input_ids"]
    result = tokenize([example], tokenizer, 40)
    cut = result.features[0]
    assert cut["input_ids"] == whole[-40:]
    assert result.counts["prompt_shortened"] == 1
    learned = [label for label in cut["labels"] if label != IGNORE_INDEX]
    assert tokenizer.decode(learned) == "Short answer.<|endoftext|>"


def test_rows_with_nothing_to_learn_are_dropped_and_counted(tokenizer):
    examples = [
        {"prompt": "p", "response": "fine"},
        {"prompt": "p", "response": " "},
        {"prompt": "p", "response": "far too long " * 50},
    ]
    counts = tokenize(examples, tokenizer, 30).counts
    assert (counts["examples"], counts["kept"]) == (3, 1)
    assert (counts["dropped_no_response"], counts["dropped_too_long"]) == (1, 1)
    assert counts["supervised_tokens"] < counts["tokens"]
    with pytest.raises(DataError, match="no row has anything to learn"):
        tokenize(examples[1:], tokenizer, 30)


def test_limits_that_cannot_work(tokenizer):
    with pytest.raises(DataError, match="need at least 3"):
        tokenize([{"prompt": "p", "response": "r"}], tokenizer, 2)


def test_collator_pads_by_length_even_when_padding_is_end_of_text(tokenizer):
    rows = [
        {"input_ids": [5, 6, 0], "labels": [-100, 6, 0], "full_text": "x"},
        {"input_ids": [7, 0], "labels": [-100, 0], "full_text": "y"},
    ]
    batch = PaddingCollator(pad_token_id=0)(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 0], [7, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 0], [-100, 0, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]


@given(
    groups=st.lists(st.integers(0, 40), min_size=60, max_size=120),
    seed=st.integers(0, 5),
    share=st.floats(0.2, 0.8),
)
@settings(deadline=None)
def test_split_is_disjoint_complete_and_stable(groups, seed, share):
    rows = [{"group": str(group), "index": index} for index, group in enumerate(groups)]
    try:
        train, test = split_rows(rows, share, seed, lambda row: row["group"])
    except DataError:
        return  # a side was empty
    assert sorted(row["index"] for row in train + test) == list(range(len(rows)))
    assert not {row["group"] for row in train} & {row["group"] for row in test}
    more = [*rows, {"group": "new", "index": -1}]
    train_again, test_again = split_rows(more, share, seed, lambda row: row["group"])
    assert [row for row in train_again if row["index"] >= 0] == train
    assert [row for row in test_again if row["index"] >= 0] == test


def test_split_share_and_seed():
    rows = [{"q": str(number)} for number in range(2000)]
    _, test = split_rows(rows, 0.1, 1, lambda row: row["q"])
    assert 150 < len(test) < 250
    assert test != split_rows(rows, 0.1, 2, lambda row: row["q"])[1]
    with pytest.raises(DataError, match="between 0 and 1"):
        split_rows(rows, 10, 1, lambda row: row["q"])
    with pytest.raises(DataError, match="leaves"):
        split_rows(rows[:1], 0.1, 1, lambda row: row["q"])
