import math

import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.conftest import ROWS, tiny_model
from utilities.errors import GenerationError
from utilities.features.tokenization import encode_texts
from utilities.inference import likelihood
from utilities.inference.generation import Generation
from utilities.inference.local_model import LocalModel, generate
from utilities.prompts.built_in import QUESTION_ANSWER

PROMPTS = [QUESTION_ANSWER.prompt(row) for row in ROWS]


def answers(model, tokenizer, prompts=PROMPTS, skip=(), **numbers):
    numbers = {"max_new_tokens": 30, **numbers}
    found = dict(LocalModel(model, tokenizer).answers(prompts, Generation(**numbers), skip))
    return [found.get(place) for place in range(len(prompts))]


def ids_of(found):
    return [answer.ids for answer in found]


def ends_often(model, token, chance=0.15):
    """Give one token about the same chance at every place."""
    head = model.get_output_embeddings()
    lift = math.log(chance / (1 - chance) * head.out_features)
    head.bias = torch.nn.Parameter(
        torch.zeros(head.out_features).index_fill(0, torch.tensor([token]), lift)
    )
    return model


def always(model, token):
    """Make a model say one token for ever."""
    return ends_often(model, token, 1 - 1e-9)


def test_batches_answer_as_one_prompt_at_a_time(model, tokenizer):
    alone = [answers(model, tokenizer, [prompt])[0] for prompt in PROMPTS]
    for batch_tokens in (1, 200, 16384):
        together = answers(model, tokenizer, batch_tokens=batch_tokens)
        assert ids_of(together) == ids_of(alone)
        for one, other in zip(together, alone, strict=True):
            assert one.log_probability == pytest.approx(other.log_probability, abs=1e-3)
    assert len({tuple(answer.ids) for answer in alone}) > 1  # or the order would not matter


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 2},
        {"repetition_penalty": 0.8, "no_repeat_ngram_size": 3},
        {"num_beams": 3},
        {"num_beams": 2, "no_repeat_ngram_size": 2},
    ],
)
def test_answers_are_those_of_the_library(tokenizer, options):
    model = tiny_model("llama")
    found = answers(model, tokenizer, max_new_tokens=12, **options)
    for prompt, answer in zip(PROMPTS, found, strict=True):
        ids = torch.tensor(encode_texts(tokenizer, [prompt], beginning=True))
        output = model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=1, **options)
        expected = [*output[0, ids.shape[1] :].tolist(), tokenizer.eos_token_id]
        assert answer.ids == expected[: expected.index(tokenizer.eos_token_id)]
    assert len({tuple(answer.ids) for answer in found}) > 1


def test_who_has_ended_leaves_and_nobody_else_notices(model, tokenizer):
    ends_often(model, tokenizer.eos_token_id)
    drawn = {"temperature": 1.0, "max_new_tokens": 25}
    together = answers(model, tokenizer, PROMPTS * 3, **drawn)
    assert len({len(answer.ids) for answer in together}) > 4
    assert {answer.stopped for answer in together} >= {"end_of_text"}
    in_small_batches = answers(model, tokenizer, PROMPTS * 3, batch_tokens=150, **drawn)
    assert ids_of(together) == ids_of(in_small_batches)


def test_arithmetic_is_spent_on_answers_under_way_only(tokenizer):
    model, rows = ends_often(tiny_model("llama"), tokenizer.eos_token_id), []
    model.get_input_embeddings().register_forward_pre_hook(lambda _, ids: rows.append(ids[0].shape))
    found = answers(model, tokenizer, PROMPTS * 2, temperature=1.0, max_new_tokens=20)
    steps = [tokens for count, tokens in rows]
    assert steps[1:] == [1] * (len(rows) - 1)
    assert sum(count for count, _ in rows) == sum(answer.tokens for answer in found)


def test_a_log_probability_is_that_of_the_tokens(model, tokenizer):
    for prompt, answer in zip(PROMPTS, answers(model, tokenizer, max_new_tokens=9), strict=True):
        ids = encode_texts(tokenizer, [prompt], beginning=True)[0]
        end = [tokenizer.eos_token_id] * (answer.stopped == "end_of_text")
        whole = torch.tensor([ids + answer.ids + end])
        chances = model(whole).logits.log_softmax(-1)[0, len(ids) - 1 : -1]
        expected = chances.gather(1, whole[0, len(ids) :, None]).sum().item()
        assert answer.log_probability == pytest.approx(expected, abs=1e-3)
        assert answer.tokens == len(answer.ids) + len(end)


def test_a_log_probability_of_beams_too(tokenizer):
    model = tiny_model("llama")
    (answer,) = answers(model, tokenizer, PROMPTS[:1], num_beams=3, max_new_tokens=6)
    (greedy,) = answers(model, tokenizer, PROMPTS[:1], max_new_tokens=6)
    assert answer.log_probability >= greedy.log_probability - 1e-4


def test_drawing_depends_on_the_seed_and_the_place_only(tokenizer):
    model = tiny_model("llama")
    drawn = {"temperature": 1.5, "max_new_tokens": 12}
    first = answers(model, tokenizer, **drawn)
    assert ids_of(answers(model, tokenizer, **drawn)) == ids_of(first)
    assert ids_of(answers(model, tokenizer, seed=7, **drawn)) != ids_of(first)
    same_prompt = answers(model, tokenizer, PROMPTS[:1] * 6, **drawn)
    assert len({tuple(answer.ids) for answer in same_prompt}) > 1
    torch.manual_seed(0)
    state = torch.get_rng_state()
    answers(model, tokenizer, **drawn)
    assert torch.equal(torch.get_rng_state(), state)


def test_drawing_follows_the_probabilities(tokenizer):
    model = tiny_model("llama")
    prompt = torch.tensor(encode_texts(tokenizer, PROMPTS[:1]))
    expected = (model(prompt).logits[0, -1] / 0.7).softmax(-1).detach().numpy()
    drawn = answers(
        model, tokenizer, PROMPTS[:1] * 3000, temperature=0.7, max_new_tokens=1, batch_tokens=10**6
    )
    ids = [answer.ids[0] if answer.ids else tokenizer.eos_token_id for answer in drawn]
    counts = np.bincount(ids, minlength=len(expected)) / len(ids)
    assert np.abs(counts - expected).sum() < 2 * np.sqrt(len(expected) / len(ids))
    top = set(expected.argsort()[::-1][:5].tolist())
    few = answers(model, tokenizer, PROMPTS[:1] * 50, temperature=0.7, top_k=5, max_new_tokens=1)
    assert {(answer.ids or [0])[0] for answer in few} <= top
    narrow = answers(model, tokenizer, PROMPTS[:1] * 20, temperature=0.7, top_p=1e-6)
    greedy = answers(model, tokenizer, PROMPTS[:1])
    assert {tuple(a.ids) for a in narrow} == {tuple(greedy[0].ids)}


def test_stops_at_end_of_text(model, tokenizer):
    found = answers(always(model, tokenizer.eos_token_id), tokenizer)
    assert [(a.text, a.stopped, a.tokens, a.ids) for a in found] == [("", "end_of_text", 1, [])] * 8


def test_every_end_of_text_that_a_model_knows_counts(tokenizer):
    model = always(tiny_model("llama"), 40)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, 40]
    assert answers(model, tokenizer, PROMPTS[:1])[0].stopped == "end_of_text"


def test_is_cut_by_tokens(model, tokenizer):
    found = answers(always(model, 40), tokenizer, max_new_tokens=7)
    assert [(a.ids, a.stopped) for a in found] == [([40] * 7, "max_new_tokens")] * len(PROMPTS)


def test_stop_strings_cut_the_answer_and_end_it(model, tokenizer):
    mark = tokenizer.decode([40])
    always(model, 40)
    assert generate(model, tokenizer, PROMPTS[:1], 5) == [(mark * 5).strip()]
    (found,) = answers(model, tokenizer, PROMPTS[:1], stop=(mark * 2,))
    assert (found.text, found.stopped, found.tokens) == ("", "stop_string", 2)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_stop_string_is_found_wherever_tokens_end(tokenizer, data):
    text = data.draw(st.text("abé漢 \n#", min_size=4, max_size=20))
    mark = data.draw(
        st.sampled_from([text[i:j] for i in range(3) for j in range(i + 1, 5) if text[i:j]])
    )
    ids = tokenizer(text)["input_ids"]
    local = LocalModel(tiny_model("llama"), tokenizer)
    wanted = Generation(max_new_tokens=100, stop=(mark,))
    first = next((n for n in range(1, len(ids) + 1) if mark in tokenizer.decode(ids[:n])), None)
    found = next(
        (n for n in range(1, len(ids) + 1) if local._reason(ids[:n], set(), (mark,), wanted)), None
    )
    assert found == first


def test_a_long_prompt_loses_tokens_on_the_side_that_is_named(model, tokenizer):
    text = "".join(f"word{n} " for n in range(150))
    ids = tokenizer(text)["input_ids"]
    left = answers(model, tokenizer, [tokenizer.decode(ids[-246:])], max_new_tokens=10)
    right = answers(model, tokenizer, [tokenizer.decode(ids[:246])], max_new_tokens=10)
    assert ids_of(answers(model, tokenizer, [text], max_new_tokens=10)) == ids_of(left)
    found = answers(model, tokenizer, [text], max_new_tokens=10, shorten="right")
    assert ids_of(found) == ids_of(right)
    short = answers(model, tokenizer, [tokenizer.decode(ids[-20:])], max_new_tokens=10)
    found = answers(model, tokenizer, [text], max_new_tokens=10, max_prompt_tokens=20)
    assert ids_of(found) == ids_of(short)
    assert len(generate(model, tokenizer, ["", "a"], 3)) == 2
    assert generate(model, tokenizer, []) == []


def test_the_mode_of_the_model_is_restored(model, tokenizer):
    model.train()
    generate(model, tokenizer, ["a"], 2)
    assert model.training


def test_models_with_a_sliding_window_answer_alike(tokenizer):
    transformers.set_seed(3)
    config = transformers.MistralConfig(
        vocab_size=400,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=8,
        max_position_embeddings=256,
    )
    model = transformers.MistralForCausalLM(config).eval()
    ends_often(model, tokenizer.eos_token_id, 0.08)
    drawn = {"temperature": 1.0, "max_new_tokens": 25}
    together = answers(model, tokenizer, **drawn)
    alone = answers(model, tokenizer, batch_tokens=1, **drawn)
    assert ids_of(together) == ids_of(alone)
    assert len({len(answer.ids) for answer in alone}) > 2


@pytest.mark.parametrize("stop", [(), ("a",), ("the", "e\n")])
@pytest.mark.parametrize("seed", range(4))
def test_a_stream_is_the_answer_piece_by_piece(tokenizer, stop, seed):
    local = LocalModel(tiny_model("llama"), tokenizer)
    wanted = Generation(max_new_tokens=40, temperature=2.0, stop=stop, seed=seed)
    pieces = list(local.stream(PROMPTS[0], wanted))
    assert (
        "".join(pieces)
        == answers(local.model, tokenizer, PROMPTS[:1], **wanted.model_dump())[0].text
    )
    assert len(pieces) > 1 or stop


def test_what_fails_together_is_tried_apart(tokenizer, monkeypatch):
    model, forward = tiny_model("llama"), transformers.LlamaForCausalLM.forward
    poison = tokenizer(PROMPTS[3])["input_ids"][-20:-11]
    expected = ids_of(answers(model, tokenizer))

    def fails(self, input_ids=None, **options):
        for row in input_ids.tolist():
            if any(row[i : i + 9] == poison for i in range(len(row))):
                raise torch.OutOfMemoryError("out of memory")
        return forward(self, input_ids=input_ids, **options)

    monkeypatch.setattr(transformers.LlamaForCausalLM, "forward", fails)
    found = answers(model, tokenizer)
    assert [answer.error is not None for answer in found] == [place == 3 for place in range(8)]
    assert "out of memory" in found[3].error and found[3].stopped == "error"
    assert ids_of(found[:3] + found[4:]) == expected[:3] + expected[4:]
    with pytest.raises(GenerationError, match="1 of 8 prompts failed: OutOfMemoryError"):
        generate(model, tokenizer, PROMPTS)


def test_scores_that_are_not_finite_are_told(tokenizer):
    model = tiny_model("llama")
    with torch.no_grad():
        model.get_output_embeddings().weight[3] = math.nan
    found = answers(model, tokenizer, PROMPTS[:2])
    assert all("not finite" in answer.error for answer in found)


def test_prompts_to_skip_are_skipped_batch_by_batch(tokenizer):
    model = tiny_model("llama")
    assert answers(model, tokenizer, skip=range(8)) == [None] * 8
    one = {"max_new_tokens": 5, "batch_tokens": 1}
    assert [a is None for a in answers(model, tokenizer, skip=[2, 5], **one)] == [
        place in (2, 5) for place in range(8)
    ]
    assert None not in answers(model, tokenizer, skip=[2, 5])  # they share a batch with others


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens.*greater than or equal to 1"),
        ({"batch_tokens": 0}, "batch_tokens"),
        ({"top_k": 5}, "need a temperature above 0"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": 1, "num_beams": 2}, "num_beams above 1 needs temperature 0"),
        ({"stop": ("",)}, "empty stop string"),
        ({"beams": 2}, "beams"),
    ],
)
def test_settings_that_make_no_sense(model, tokenizer, numbers, told):
    with pytest.raises(GenerationError, match=told):
        generate(model, tokenizer, ["a"], **numbers)


def test_more_tokens_than_the_context_holds(model, tokenizer):
    with pytest.raises(GenerationError, match="context holds 256"):
        generate(model, tokenizer, ["a"], max_new_tokens=256)


def test_log_probabilities_of_responses(model, tokenizer):
    responses = [row["answer"] for row in ROWS]
    sums, tokens = likelihood.log_probabilities(model, tokenizer, PROMPTS, responses)
    for prompt, response, value, count in zip(PROMPTS, responses, sums, tokens, strict=True):
        before = encode_texts(tokenizer, [prompt], beginning=True)[0]
        after = [*encode_texts(tokenizer, [response])[0], tokenizer.eos_token_id]
        loss = model(
            torch.tensor([before + after]), labels=torch.tensor([[-100] * len(before) + after])
        ).loss
        assert count == len(after)
        assert -value / count == pytest.approx(loss.item(), abs=1e-4)
    small, _ = likelihood.log_probabilities(model, tokenizer, PROMPTS, responses, batch_tokens=1)
    assert small == pytest.approx(sums, abs=1e-3)


def test_log_probabilities_at_the_edge_of_the_context(tokenizer):
    model = tiny_model("llama")
    long = "word " * 200
    values, _ = likelihood.log_probabilities(
        model, tokenizer, [long, "a", ""], ["b", long * 2, "c"]
    )
    assert np.isfinite(values).tolist() == [True, False, True]


def test_mean_states_do_not_depend_on_the_batch(model, tokenizer):
    texts = [row["answer"] for row in ROWS] + [""]
    together = likelihood.mean_states(model, tokenizer, texts)
    alone = np.concatenate([likelihood.mean_states(model, tokenizer, [text]) for text in texts])
    assert together.shape == (9, model.config.hidden_size) and together.dtype == np.float32
    assert together == pytest.approx(alone, abs=1e-4)
