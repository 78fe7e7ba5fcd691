import math

import pytest
import torch

from tests.conftest import ROWS, tiny_model
from tests.test_training import fit
from utilities.features.collation import PaddingCollator
from utilities.features.packing import pack
from utilities.features.tokenization import IGNORE_INDEX, tokenize_examples
from utilities.models.freezing import Freeze
from utilities.planning.model_sizes import ModelShape, step_flops
from utilities.prompts.built_in import QUESTION_ANSWER
from utilities.training.callbacks import last_answer
from utilities.training.settings import Settings, make_training_arguments
from utilities.training.trainer import SupervisedTrainer


@pytest.fixture
def data(tokenizer):
    return tokenize_examples([QUESTION_ANSWER.example(row) for row in ROWS], tokenizer, 128)


def evaluated(model, tokenizer, data, tmp_path, **options):
    return SupervisedTrainer(
        model=model,
        args=make_training_arguments(tmp_path, Settings.of(precision="fp32", disable_tqdm=True)),
        eval_dataset=data.features,
        processing_class=tokenizer,
        data_collator=PaddingCollator(tokenizer.pad_token_id),
        **options,
    ).evaluate()


def test_the_loss_is_told_by_kind(model, tokenizer, data, tmp_path):
    batch = PaddingCollator(tokenizer.pad_token_id)(list(data.features))
    found = evaluated(model, tokenizer, data, tmp_path, prompt_loss=True)
    ends = batch["labels"] == tokenizer.eos_token_id
    responses = (batch["labels"] != IGNORE_INDEX) & ~ends
    prompts = (batch["labels"] == IGNORE_INDEX) & batch["attention_mask"].bool()
    for name, chosen in {"_response": responses, "_end": ends, "_prompt": prompts}.items():
        labels = batch["input_ids"].where(chosen, IGNORE_INDEX)
        expected = model(**{**batch, "labels": labels}).loss.item()
        assert found[f"eval_loss{name}"] == pytest.approx(expected, abs=1e-4)
    assert found["eval_loss"] == pytest.approx(model(**batch).loss.item(), abs=1e-4)
    assert "eval_loss_prompt" not in evaluated(model, tokenizer, data, tmp_path)


def test_the_parts_make_up_the_whole(tokenizer, data, tmp_path):
    run = fit(tiny_model("llama"), tokenizer, data, tmp_path / "run", eval_data=data)
    ends = len(ROWS)
    responses = data.counts["supervised_tokens"] - ends
    for row in run.history.itertuples():
        whole = (row.loss_response * responses + row.loss_end * ends) / (responses + ends)
        assert row.loss == pytest.approx(whole, abs=1e-4)
    last = run.history.iloc[-1]
    assert last["tokens"] == 4 * data.counts["tokens"] == run.record["totals"]["tokens"]


def test_passes_do_not_change_what_is_learned(model, tokenizer, data, tmp_path):
    state = {name: weight.clone() for name, weight in model.state_dict().items()}
    losses = []
    for max_tokens in (10_000, 60, 1):
        model.load_state_dict(state)
        run = fit(model, tokenizer, data, tmp_path / str(max_tokens), max_tokens=max_tokens)
        losses.append(run.history["loss"].tolist())
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert losses[0] == pytest.approx(losses[2], abs=1e-4)


def test_packed_rows_learn_the_same(tokenizer, data, tmp_path):
    packed = data._replace(features=pack(data.features, 128, tokenizer.pad_token_id))
    assert len(packed.features) < len(data.features)
    losses = [
        fit(tiny_model("llama"), tokenizer, each, tmp_path / name).history["loss"].tolist()
        for name, each in {"rows": data, "packed": packed}.items()
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)


def test_arithmetic_counts_real_tokens(tokenizer, data, tmp_path):
    model = tiny_model("llama")
    run = fit(model, tokenizer, data, tmp_path / "full")
    counts = data.counts
    expected = 4 * step_flops(
        ModelShape.of(model), counts["tokens"], counts["supervised_tokens"], counts["tokens"] / 8
    )
    assert run.record["totals"]["flops"] == pytest.approx(expected)
    freeze = Freeze(groups=["attention", "feed_forward"])
    less = fit(model, tokenizer, data, tmp_path / "frozen", freeze=freeze).record["totals"]["flops"]
    layers = sum(w.numel() for w in model.model.layers.parameters() if w.ndim == 2)
    assert expected - less == pytest.approx(4 * 2 * layers * counts["tokens"])


def test_samples_are_answers_of_the_model_at_that_step(tokenizer, data, tmp_path):
    run = fit(
        tiny_model("llama"),
        tokenizer,
        data,
        tmp_path / "run",
        eval_data=data,
        samples=2,
        max_steps=120,
        eval_strategy="steps",
        eval_steps=60,
    )
    assert run.samples["step"].tolist() == [60, 60, 120, 120]
    assert run.samples["prompt"].tolist()[:2] == [QUESTION_ANSWER.prompt(row) for row in ROWS[:2]]
    assert run.samples["reference"].tolist()[:2] == [row["answer"] for row in ROWS[:2]]
    assert run.samples["prediction"].tolist()[2:] == [row["answer"] for row in ROWS[:2]]
    assert run.history["eval_exact_match"].iloc[-1] == 1


def test_the_prompt_of_a_sample_is_that_of_its_last_answer(tokenizer):
    turns = {"prompt": ["user: hi\n", "\nuser: why?\n"], "response": ["hello", "so"]}
    data = tokenize_examples([turns, {"prompt": "a", "response": "b"}], tokenizer, 64)
    prompt, answer = last_answer(data.features[0])
    assert tokenizer.decode(prompt) == "user: hi\nhello\nuser: why?\n"
    assert tokenizer.decode(answer[:-1]) == "so"
    packed = pack(data.features, 64, tokenizer.pad_token_id)
    prompt, answer = last_answer(packed[0])
    assert tokenizer.decode(prompt) in ("user: hi\nhello\nuser: why?\n", "a")
    assert answer[-1] == tokenizer.eos_token_id


def test_a_head_that_is_more_than_a_product_trains_too(tokenizer, data, tmp_path):
    run = fit(tiny_model("phi"), tokenizer, data, tmp_path / "run")
    assert run.history["loss"].iloc[-1] < run.history["loss"].iloc[0]
    assert not math.isnan(run.history["loss"].sum())


def test_compiling_is_optional(tokenizer, data, tmp_path):
    plain = fit(tiny_model("llama"), tokenizer, data, tmp_path / "plain", max_steps=2)
    compiled = fit(
        tiny_model("llama"),
        tokenizer,
        data,
        tmp_path / "compiled",
        max_steps=2,
        torch_compile=True,
        torch_compile_backend="eager",  # traces as the others do, and needs no compiler
    )
    torch._dynamo.reset()
    losses = [run.history["loss"].tolist() for run in (plain, compiled)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_a_row_longer_than_a_pass_is_computed_twice_and_learns_the_same(
    model, tokenizer, data, tmp_path
):
    trainer = SupervisedTrainer(
        model=model,
        args=make_training_arguments(tmp_path, Settings(precision="fp32")),
        train_dataset=data.features,
        data_collator=PaddingCollator(tokenizer.pad_token_id),
        max_tokens=20,
    )
    batch = trainer.data_collator([data.features[2]])
    assert batch["input_ids"].numel() > 20
    calls, gradients = [], []
    model.base_model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    for max_tokens in (20, 1000):
        trainer.max_tokens = max_tokens
        trainer.training_step(trainer.accelerator.prepare(model), dict(batch), None)
        gradients.append([weight.grad for weight in model.parameters()])
        model.zero_grad()
    assert len(calls) == 3, "twice for the first, once for the second"
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
