import copy
import json

import pytest
import torch

from tests.conftest import ROWS, run_module, tiny_model
from utilities import models
from utilities.devices import resolve_precision
from utilities.errors import TrainingError
from utilities.features.collation import PaddingCollator
from utilities.features.tokenization import tokenize_examples
from utilities.models.choice import ModelChoice
from utilities.models.freezing import Freeze
from utilities.prompts.base import PromptFormat
from utilities.prompts.built_in import QUESTION_ANSWER
from utilities.training.loss import supervised_loss
from utilities.training.run import run_training, train
from utilities.training.run_folder import Run
from utilities.training.settings import Settings, TrainingConfig, make_training_arguments
from utilities.training.trainer import SupervisedTrainer

CHOICE = ModelChoice("tiny", "folder", "a test made it")


@pytest.fixture
def data(tokenizer):
    return tokenize_examples([QUESTION_ANSWER.example(row) for row in ROWS], tokenizer, 128)


def fit(model, tokenizer, data, folder, *, choice=CHOICE, eval_data=None, callbacks=(), **options):
    settings = Settings.of(
        **{
            "precision": "fp32",
            "max_steps": 4,
            "logging_steps": 1,
            "learning_rate": 1e-2,
            "disable_tqdm": True,
            **options,
        }
    )
    return train(
        model,
        tokenizer,
        data,
        folder,
        settings,
        prompt_format=QUESTION_ANSWER,
        choice=choice,
        eval_data=eval_data,
        callbacks=callbacks,
    )


def test_loss_and_gradients_equal_the_library_s(model, tokenizer, data):
    batch = PaddingCollator(tokenizer.pad_token_id)(list(data.features))
    expected = model(**batch).loss
    expected.backward()
    gradients = [weight.grad.clone() for weight in model.parameters()]
    model.zero_grad()
    count = data.counts["supervised_tokens"]
    found = supervised_loss(model, model.get_output_embeddings(), scale=1 / count, **batch)
    found.loss.backward()
    assert len(found.nats) == count
    assert found.loss.item() == pytest.approx(expected.item(), abs=1e-4)
    for weight, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(weight.grad, gradient, atol=1e-5, rtol=1e-4)


def test_logits_are_computed_at_supervised_positions_only(model, tokenizer, data):
    batch = PaddingCollator(tokenizer.pad_token_id)(list(data.features))
    shapes = []
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape)))
    supervised_loss(model, head, **batch)
    assert shapes == [(1, data.counts["supervised_tokens"], 512)]
    model(input_ids=batch["input_ids"])  # the hook of the loss is gone again
    assert shapes[1][:2] == tuple(batch["input_ids"].shape)


def gradients_of_one_step(model, tokenizer, data, tmp_path, batch, accumulation):
    """Train one step of plain SGD; the change of the weights is the gradient."""
    model = copy.deepcopy(model)
    before = [weight.detach().clone() for weight in model.parameters()]
    settings = Settings.of(
        precision="fp32",
        per_device_train_batch_size=batch,
        max_steps=1,
        gradient_accumulation_steps=accumulation,
        optim="sgd",
        learning_rate=1.0,
        max_grad_norm=0.0,
        logging_steps=1,
        disable_tqdm=True,
        train_sampling_strategy="sequential",
    )
    trainer = SupervisedTrainer(
        model=model,
        args=make_training_arguments(tmp_path, settings),
        train_dataset=data.features,
        data_collator=PaddingCollator(tokenizer.pad_token_id),
    )
    trainer.train()
    loss = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    return loss, [b - a.detach() for b, a in zip(before, model.parameters(), strict=True)]


def test_eight_times_one_equals_one_times_eight(model, tokenizer, data, tmp_path):
    loss, gradients = gradients_of_one_step(model, tokenizer, data, tmp_path, 8, 1)
    loss_apart, gradients_apart = gradients_of_one_step(model, tokenizer, data, tmp_path, 1, 8)
    assert loss == pytest.approx(loss_apart, abs=1e-4)
    for together, apart in zip(gradients, gradients_apart, strict=True):
        torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-3)
    batch = PaddingCollator(tokenizer.pad_token_id)(list(data.features))
    assert loss == pytest.approx(model(**batch).loss.item(), abs=1e-4)


def test_evaluation_weighs_tokens_not_batches(model, tokenizer, data, tmp_path):
    losses = []
    for size in (1, 3, 8):
        settings = Settings.of(precision="fp32", per_device_eval_batch_size=size, disable_tqdm=True)
        trainer = SupervisedTrainer(
            model=model,
            args=make_training_arguments(tmp_path, settings),
            eval_dataset=data.features,
            data_collator=PaddingCollator(tokenizer.pad_token_id),
        )
        losses.append(trainer.evaluate()["eval_loss"])
    assert losses == pytest.approx([losses[0]] * 3, abs=1e-5)
    batch = PaddingCollator(tokenizer.pad_token_id)(list(data.features))
    assert losses[0] == pytest.approx(model(**batch).loss.item(), abs=1e-4)


def test_run_folder_is_whole_and_loads_again(model, tokenizer, data, tmp_path):
    run = fit(
        model,
        tokenizer,
        data,
        tmp_path / "run",
        eval_data=data,
        num_train_epochs=2,
        max_steps=-1,
        per_device_train_batch_size=4,
    )
    names = {path.name for path in run.folder.iterdir()}
    assert {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "prompt_format.json",
        "run.json",
        "history.jsonl",
        "loss.png",
    } <= names
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert run.history["loss"].iloc[-1] < run.history["loss"].iloc[0]
    assert run.history["eval_loss"].notna().sum() == 2
    assert run.record["model"] == CHOICE.record()
    assert run.record["data"]["train"]["kept"] == len(ROWS)
    assert "torch" in run.record["versions"]
    assert PromptFormat.load(run.folder) == QUESTION_ANSWER
    loaded, loaded_tokenizer = models.load(str(run.folder))
    assert models.choose(str(run.folder)).name == "run (tuned from tiny)"
    assert loaded.config.use_cache
    ids = loaded_tokenizer("What is an epoch?", return_tensors="pt")["input_ids"]
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits)


def test_a_run_that_freezes_does_not_freeze_for_the_next_one(tokenizer, data, tmp_path):
    model = tiny_model("llama")
    first = fit(model, tokenizer, data, tmp_path / "first", freeze=Freeze(groups=["embeddings"]))
    second = fit(model, tokenizer, data, tmp_path / "second")
    frozen, trained = first.record["weights"][-1], second.record["weights"][-1]
    assert frozen["trained"] < frozen["weights"] == trained["trained"]


def test_the_same_seed_gives_the_same_run(tokenizer, data, tmp_path):
    runs = [
        fit(
            tiny_model("gpt_neox"),
            tokenizer,
            data,
            tmp_path / name,
            seed=seed,
            per_device_train_batch_size=2,
        )
        for name, seed in [("a", 1), ("b", 1), ("c", 2)]
    ]
    losses = [run.history["loss"].tolist() for run in runs]
    assert losses[0] == losses[1] != losses[2]


def test_it_learns_to_answer_and_to_stop(tokenizer, data, tmp_path):
    from utilities.inference.local_model import generate

    model = tiny_model("llama")
    fit(model, tokenizer, data, tmp_path / "run", max_steps=150, logging_steps=50)
    prompts = [QUESTION_ANSWER.prompt(row) for row in ROWS]
    assert generate(model, tokenizer, prompts) == [row["answer"] for row in ROWS]


def test_a_folder_that_is_no_run_is_never_touched(model, tokenizer, data, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(TrainingError, match="is not a run folder; it is left untouched"):
        fit(model, tokenizer, data, tmp_path, if_exists="overwrite")
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_existing_runs_are_refused_reused_or_replaced(tokenizer, data, tmp_path):
    def run(folder="run", **options):
        return fit(tiny_model("gpt_neox"), tokenizer, data, tmp_path / folder, **options)

    first = run()
    with pytest.raises(TrainingError, match="exists already"):
        run()
    assert run(if_exists="reuse").record == first.record
    another_reason = ModelChoice(CHOICE.name, CHOICE.source, "it is there")
    assert run(if_exists="reuse", choice=another_reason).record == first.record
    assert (
        run(if_exists="reuse", learning_rate=1e-3).record["fingerprint"]
        != first.record["fingerprint"]
    )
    again = run(if_exists="overwrite")
    assert again.record["fingerprint"] == first.record["fingerprint"]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_failed_run_leaves_the_old_one(tokenizer, data, tmp_path):
    def run(model, **options):
        return fit(model, tokenizer, data, tmp_path / "run", **options)

    first = run(tiny_model("gpt_neox"))
    broken = tiny_model("gpt_neox")
    broken.get_output_embeddings().weight.data.fill_(float("nan"))
    with pytest.raises(TrainingError, match="the loss of the untrained model is nan"):
        run(broken, if_exists="overwrite")
    assert Run.load(tmp_path / "run").record == first.record


def test_half_precision_weights_are_refused(tokenizer, data, tmp_path):
    with pytest.raises(TrainingError, match="not float32"):
        fit(tiny_model("llama").half(), tokenizer, data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_autocast_keeps_the_weights_in_float32(tokenizer, data, tmp_path):
    model = tiny_model("gpt_neox")
    run = fit(model, tokenizer, data, tmp_path / "run", precision="bf16")
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    ids = tokenizer("What is an epoch?", return_tensors="pt")["input_ids"]
    saved, _ = models.load(str(run.folder))
    torch.testing.assert_close(model(ids).logits, saved(ids).logits, atol=0, rtol=0)
    assert run.history["loss"].iloc[-1] < run.history["loss"].iloc[0]
    assert resolve_precision("fp16") == "fp16"
    assert resolve_precision() in {"bf16", "fp16", "fp32"}


def test_from_a_config(model_folder, data_file, tmp_path):
    config = TrainingConfig(
        base_model=str(model_folder),
        train=str(data_file),
        output_dir=tmp_path / "run",
        training_arguments={"max_steps": 2, "logging_steps": 1, "disable_tqdm": True},
    )
    run = run_training(config)
    assert run.record["settings"]["training_arguments"]["max_steps"] == 2
    assert run.history["step"].max() == 2


def test_auto_in_a_config_follows_the_environment(model_folder, data_file, tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_MODEL", str(model_folder))
    arguments = {"max_steps": 1, "disable_tqdm": True}
    config = TrainingConfig(
        train=str(data_file), output_dir=tmp_path / "run", training_arguments=arguments
    )
    assert config.base_model == "auto"
    assert run_training(config).record["model"]["name"] == "pythia-tiny"


def test_command_line_checks_arguments_before_any_work(tmp_path, clean_environment):
    path = tmp_path / "finetune.yaml"
    path.write_text(
        "train: x\noutput_dir: run\nseeds: 1\n"
        "training_arguments: {learning_rte: 1, max_steps: many, output_dir: y}\n"
    )
    done = run_module("utilities.training", path, environment=clean_environment)
    assert done.returncode == 2
    assert "4 fault(s)" in done.stderr
    assert "seeds: unknown key, did you mean 'seed'?" in done.stderr
    assert (
        "training_arguments.learning_rte: unknown key, did you mean 'learning_rate'?" in done.stderr
    )
    assert "training_arguments.max_steps" in done.stderr
    assert "training_arguments.output_dir: unknown key" in done.stderr
    assert "Traceback" not in done.stderr


def test_values_the_library_refuses(tmp_path):
    with pytest.raises(TrainingError, match="training_arguments"):
        make_training_arguments(tmp_path, Settings.of(lr_scheduler_type="steep"))


def test_a_damaged_run_folder(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({}))
    with pytest.raises(TrainingError, match="not a finished run"):
        Run.load(tmp_path)


def test_other_labels_on_the_same_ids_are_another_run(tokenizer, data, tmp_path):
    first = fit(tiny_model("gpt_neox"), tokenizer, data, tmp_path / "run")
    unmasked = data.features.map(lambda row: {"labels": row["input_ids"]})
    other = data._replace(features=unmasked)
    again = fit(tiny_model("gpt_neox"), tokenizer, other, tmp_path / "run", if_exists="reuse")
    assert again.record["fingerprint"] != first.record["fingerprint"]
