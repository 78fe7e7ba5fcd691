import pytest
import torch

from tests.conftest import ROWS
from utilities.inference import GenerationError, generate, generate_ids
from utilities.prompts import QUESTION_ANSWER

PROMPTS = [QUESTION_ANSWER.prompt(row) for row in ROWS]


def test_batches_answer_as_one_prompt_at_a_time(model, tokenizer):
    alone = [generate_ids(model, tokenizer, [prompt], 30)[0] for prompt in PROMPTS]
    assert generate_ids(model, tokenizer, PROMPTS, 30, batch_size=3) == alone
    assert generate_ids(model, tokenizer, PROMPTS, 30, batch_size=64) == alone
    assert len({tuple(ids) for ids in alone}) > 1  # or the order would not matter


def test_batches_agree_with_the_library_on_one_unpadded_prompt(model, tokenizer):
    from utilities.tokenization import encode_texts

    ids = torch.tensor(encode_texts(tokenizer, PROMPTS[2:3], beginning=True))
    output = model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=1)
    expected = output[0, ids.shape[1] :].tolist()
    found = generate_ids(model, tokenizer, PROMPTS, 12)[2]
    assert found == expected[: len(found)] and len(found) in (12, len(expected) - 1)


def always(model, token):
    """Make a model say one token for ever."""
    head = model.get_output_embeddings()
    bias = torch.zeros(head.out_features).index_fill(0, torch.tensor([token]), 1e4)
    head.bias = torch.nn.Parameter(bias)
    return model


def test_stops_at_end_of_text(model, tokenizer):
    assert generate_ids(always(model, tokenizer.eos_token_id), tokenizer, PROMPTS) == [[]] * 8


def test_is_cut_by_tokens(model, tokenizer):
    answers = generate_ids(always(model, 40), tokenizer, PROMPTS, max_new_tokens=7)
    assert answers == [[40] * 7] * len(PROMPTS)


def test_stop_strings_cut_the_answer(model, tokenizer):
    mark = tokenizer.decode([40])
    assert generate(always(model, 40), tokenizer, PROMPTS[:1], 5) == [(mark * 5).strip()]
    assert generate(always(model, 40), tokenizer, PROMPTS[:1], 5, stop=[mark * 2]) == [""]


def test_long_prompts_lose_their_start_and_empty_ones_work(model, tokenizer):
    text = "word " * 400
    tail = tokenizer.decode(tokenizer(text)["input_ids"][-(256 - 10) :])
    assert generate_ids(model, tokenizer, [text], 10) == generate_ids(model, tokenizer, [tail], 10)
    assert len(generate(model, tokenizer, ["", "a"], 3)) == 2
    assert generate(model, tokenizer, []) == []


def test_the_mode_of_the_model_is_restored(model, tokenizer):
    model.train()
    generate(model, tokenizer, ["a"], 2)
    assert model.training


@pytest.mark.parametrize("numbers", [{"max_new_tokens": 0}, {"batch_size": 0}])
def test_numbers_out_of_range(model, tokenizer, numbers):
    with pytest.raises(GenerationError, match="1 or more"):
        generate(model, tokenizer, ["a"], **numbers)


def test_more_tokens_than_the_context_holds(model, tokenizer):
    with pytest.raises(GenerationError, match="context holds 256"):
        generate(model, tokenizer, ["a"], max_new_tokens=256)
