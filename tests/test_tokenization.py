import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.conftest import ROWS
from utilities.errors import DataError
from utilities.features.collation import PaddingCollator
from utilities.features.tokenization import (
    IGNORE_INDEX,
    encode_texts,
    tokenize_examples,
    tokenize_rows,
    tokenizer_fingerprint,
)
from utilities.prompts.built_in import ALPACA, QUESTION_ANSWER, TEXT, USER_ASSISTANT

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


@pytest.fixture(scope="session")
def beginning_tokenizer(tokenizer):
    """One that puts a beginning-of-text token (here id 0) before every text, as Llama 2's does."""
    from copy import deepcopy

    from tokenizers.processors import TemplateProcessing

    begins = deepcopy(tokenizer)
    begins.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    return begins


def test_a_beginning_stands_once_before_the_prompt(beginning_tokenizer):
    assert encode_texts(beginning_tokenizer, ["ab"], beginning=True)[0][0] == 0
    assert 0 not in encode_texts(beginning_tokenizer, ["ab"])[0]
    (row,) = tokenize([{"prompt": "p", "response": "r"}], beginning_tokenizer).features
    assert row["input_ids"][0] == 0 and row["input_ids"].count(0) == 2  # and the end


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


def test_collator_gives_packed_rows_no_attention_mask(tokenizer):
    rows = [
        {"input_ids": [5, 0, 6, 0], "labels": [-100, 0, -100, 0], "position_ids": [0, 1, 0, 1]},
        {"input_ids": [7, 0], "labels": [-100, 0], "position_ids": [0, 1]},
    ]
    batch = PaddingCollator(pad_token_id=1)(rows)
    assert sorted(batch) == ["input_ids", "labels", "position_ids"]
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1], [0, 1, 0, 0]]


LONG = {"prompt": "abcdefgh " * 20 + "### Answer:\n", "response": "A short answer."}


@fixture_is_shared
@given(
    prompt=TEXTS,
    response=TEXTS.filter(str.strip),
    max_length=st.integers(3, 60),
    shorten=st.sampled_from(["prompt_left", "prompt_right", "response_right", "drop"]),
)
def test_shortening_keeps_its_promises(tokenizer, prompt, response, max_length, shorten):
    example = {"prompt": prompt, "response": response}
    whole = tokenize_examples([example], tokenizer, 1000).features[0]
    ids, target = whole["input_ids"], sum(label != IGNORE_INDEX for label in whole["labels"])
    before = len(ids) - target
    try:
        data = tokenize_examples([example], tokenizer, max_length, shorten)
    except DataError:  # dropped: then there was no way to keep the promise
        assert len(ids) > max_length
        no_room = before >= max_length if shorten == "response_right" else target >= max_length
        assert shorten == "drop" or no_room
        return
    row = data.features[0]
    kept = row["input_ids"]
    assert (
        len(kept) == len(row["labels"]) == len(row["attention_mask"]) == min(len(ids), max_length)
    )
    learned = [label for label in row["labels"] if label != IGNORE_INDEX]
    if shorten == "response_right":
        assert kept == ids[:max_length]
        assert row["labels"] == whole["labels"][:max_length]
        assert data.counts["response_shortened"] == (len(ids) > max_length)
    else:
        assert learned == ids[before:] and kept[-target:] == ids[before:]
        rest = kept[:-target]
        full = ids[:before]
        assert rest == (full[: len(rest)] if shorten == "prompt_right" else full[-len(rest) :])
        assert data.counts["prompt_shortened"] == (len(ids) > max_length)


@pytest.mark.parametrize("shorten", ["prompt_left", "prompt_right"])
@pytest.mark.parametrize("max_length", range(12, 60, 4))
def test_a_cut_conversation_never_teaches_half_an_answer(tokenizer, shorten, max_length):
    example = {"prompt": ["Hi? ", " More? "], "response": ["A first answer. END", "The last."]}
    try:
        (row,) = tokenize_examples([example], tokenizer, max_length, shorten).features
    except DataError:
        return
    learned = tokenizer.decode([label for label in row["labels"] if label != IGNORE_INDEX])
    assert learned in ("A first answer. ENDThe last.<|endoftext|>", "The last.<|endoftext|>")
    assert len(row["input_ids"]) <= max_length


def test_a_cut_response_has_no_end(tokenizer):
    example = {"prompt": "p", "response": "one two three four five six"}
    data = tokenize_examples([example], tokenizer, 6, "response_right")
    assert tokenizer.eos_token_id not in data.features[0]["input_ids"]
    assert data.counts["response_shortened"] == 1


def test_a_beginning_of_text_token_survives_shortening(beginning_tokenizer):
    data = tokenize_examples([LONG], beginning_tokenizer, 40)
    row = data.features[0]
    assert len(row["input_ids"]) == 40 and row["input_ids"][0] == 0
    assert row["input_ids"][:-1].count(0) == 1


def test_contexts_go_first_and_whole(tokenizer):
    row = {"input": "Who?", "response": "Bob.", "contexts": ["Ann left early. " * 3] * 4}

    def rows_with(contexts):
        return [{**row, "contexts": row["contexts"][:contexts]}]

    prepared = [tokenize_rows(rows_with(n), USER_ASSISTANT, tokenizer, 999) for n in range(5)]
    lengths = [len(data.features[0]["input_ids"]) for data in prepared]
    for kept in range(5):
        data = tokenize_rows([row], USER_ASSISTANT, tokenizer, lengths[kept], "contexts_first")
        assert len(data.features[0]["input_ids"]) == lengths[kept]
        assert data.counts["contexts_dropped"] == 4 - kept
        assert data.counts["prompt_shortened"] == 0
    tight = tokenize_rows([row], USER_ASSISTANT, tokenizer, lengths[0] - 1, "contexts_first")
    assert tight.counts["contexts_dropped"] == 4 and tight.counts["prompt_shortened"] == 1
    assert row["contexts"] == ["Ann left early. " * 3] * 4  # the caller's row is as it was


def test_text_is_learned_from_its_first_token(tokenizer):
    (row,) = tokenize_rows([{"text": "All of it."}], TEXT, tokenizer, 50).features
    assert row["labels"] == row["input_ids"] and row["labels"][-1] == tokenizer.eos_token_id


def test_a_length_limit_below_the_format_is_told(tokenizer):
    with pytest.raises(DataError, match="max_length is 20, too small for the prompt format alpaca"):
        tokenize_rows([{"instruction": "x", "output": "y"}], ALPACA, tokenizer, 20)


def test_a_tokenizer_without_an_end_is_refused(tokenizer):
    from copy import deepcopy

    endless = deepcopy(tokenizer)
    endless.eos_token = None
    with pytest.raises(DataError, match="no end-of-text token"):
        tokenize([{"prompt": "p", "response": "r"}], endless)


def test_encoding_does_not_depend_on_what_was_done_before(tokenizer):
    from copy import deepcopy

    used = deepcopy(tokenizer)
    text = "a <|endoftext|> " * 9
    expected = encode_texts(used, [text, "b"])
    used([text, "b"], truncation=True, max_length=3, padding=True)
    assert encode_texts(used, [text, "b"]) == expected
    assert 0 in used(text)["input_ids"]  # and leaves the tokenizer itself as it was


def test_a_tokenizer_is_told_from_another_one(tokenizer, beginning_tokenizer):
    from copy import deepcopy

    assert tokenizer_fingerprint(deepcopy(tokenizer)) == tokenizer_fingerprint(tokenizer)
    assert tokenizer_fingerprint(beginning_tokenizer) != tokenizer_fingerprint(tokenizer)
