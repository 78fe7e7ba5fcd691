"""Settings and accidents of training: each ends in one clear message, and nothing is lost."""

import errno

import pytest
import torch
import transformers

from tests.conftest import ROWS, run_module, tiny_model
from tests.test_training import fit
from utilities.errors import TrainingError
from utilities.features.tokenization import tokenize_examples
from utilities.prompts.built_in import QUESTION_ANSWER
from utilities.training.settings import Settings
from utilities.training.trainer import SupervisedTrainer


@pytest.fixture
def data(tokenizer):
    return tokenize_examples([QUESTION_ANSWER.example(row) for row in ROWS], tokenizer, 128)


NEEDS = "need validation data"
REFUSED = {
    "evaluation without data": ({"eval_strategy": "steps"}, False, NEEDS),
    "best without data": ({"load_best_model_at_end": True}, False, NEEDS),
    "stopping without data": ({"early_stopping": {}}, False, NEEDS),
    "unknown metric": (
        {"metric_for_best_model": "eval_los"},
        True,
        "no metric 'eval_los', did you mean 'eval_loss'",
    ),
    "metric that is not measured": (
        {"metric_for_best_model": "exact_match", "samples": 0},
        True,
        "There are eval_loss, eval_loss_response, eval_loss_end",
    ),
    "save and evaluation apart": (
        {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "steps"},
        True,
        "do not meet",
    ),
    "steps that do not meet": (
        {
            "load_best_model_at_end": True,
            "eval_strategy": "steps",
            "eval_steps": 10,
            "save_strategy": "steps",
            "save_steps": 15,
        },
        True,
        "multiple of eval_steps",
    ),
    "best that is never saved": (
        {"load_best_model_at_end": True, "save_strategy": "no"},
        True,
        "do not meet",
    ),
    "unknown tracker": ({"tracking": {"tracker": "mlflow"}}, True, "tracking.tracker"),
    "unknown setting": ({"learning_rat": 1}, True, "did you mean 'learning_rate'"),
    "wrong value": ({"max_steps": "many"}, True, "max_steps"),
    "method without its block": ({"method": "lora"}, True, "go together"),
    "sampling": ({"train_sampling_strategy": "batch_rebalance"}, True, "must be group_by_length"),
    "no steps": ({"num_train_epochs": -1, "max_steps": -1}, True, "num_train_epochs"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_settings_that_do_not_fit(case, tokenizer, data, tmp_path):
    settings, has_validation, message = REFUSED[case]
    eval_data = data if has_validation else None
    with pytest.raises(TrainingError, match=message):
        fit(
            tiny_model("llama"),
            tokenizer,
            data,
            tmp_path / "run",
            **({"max_steps": 2, "eval_data": eval_data} | settings),
        )
    assert not list(tmp_path.iterdir())


def test_what_the_best_checkpoint_implies():
    filled = Settings.of(early_stopping={"patience": 2}).arguments(has_validation=True)
    assert filled["load_best_model_at_end"]
    assert filled["metric_for_best_model"] == "eval_loss"
    assert filled["greater_is_better"] is False
    assert filled["save_strategy"] == filled["eval_strategy"] == "epoch"
    answers = Settings.of(metric_for_best_model="exact_match").arguments(has_validation=True)
    assert answers["metric_for_best_model"] == "eval_exact_match"
    assert answers["greater_is_better"] is True


class Break(transformers.TrainerCallback):
    """Raises at a step, when there is a checkpoint."""

    def __init__(self, error):
        self.error = error

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 3:
            raise self.error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "lower max_tokens"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "lower max_tokens"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk is full"),
        (RuntimeError("SafetensorError: No space left on device (os error 28)"), "disk is full"),
    ],
)
def test_memory_and_disk(error, message, tokenizer, data, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2, "eval_data": data}
    with pytest.raises(TrainingError, match=message):
        fit(
            tiny_model("llama"),
            tokenizer,
            data,
            tmp_path / "run",
            callbacks=[Break(error)],
            **options,
        )
    run = fit(tiny_model("llama"), tokenizer, data, tmp_path / "run", **options)
    whole = fit(tiny_model("llama"), tokenizer, data, tmp_path / "whole", **options)
    assert run.history["loss"].equals(whole.history["loss"]), "it went on from the checkpoint"


def test_other_errors_are_not_swallowed(tokenizer, data, tmp_path):
    with pytest.raises(ZeroDivisionError):
        broken = Break(ZeroDivisionError())
        fit(tiny_model("llama"), tokenizer, data, tmp_path / "run", callbacks=[broken])


def test_a_loss_that_becomes_infinite_stops_at_once(tokenizer, data, tmp_path):
    class Spoil(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step == 2:
                model.get_output_embeddings().weight.data.fill_(float("nan"))

    with pytest.raises(TrainingError, match="the loss is nan at step 3"):
        fit(tiny_model("llama"), tokenizer, data, tmp_path / "run", callbacks=[Spoil()])
    assert not list(tmp_path.iterdir())


def test_the_best_checkpoint_that_is_not_what_it_was(tokenizer, data, tmp_path, monkeypatch):
    monkeypatch.setattr(SupervisedTrainer, "_load_weights", lambda self, checkpoint: None)
    with pytest.raises(TrainingError, match="the weights loaded from it have"):
        fit(
            tiny_model("gpt_neox"),
            tokenizer,
            data,
            tmp_path / "run",
            eval_data=data,
            eval_strategy="steps",
            eval_steps=2,
            load_best_model_at_end=True,
            metric_for_best_model="eval_loss",
            greater_is_better=True,
        )


def test_evaluating_without_data(tmp_path):
    arguments = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    with pytest.raises(TrainingError, match="nothing to evaluate on"):
        SupervisedTrainer(model=tiny_model("llama"), args=arguments).evaluate()


def test_a_dataset_prepared_for_another_tokenizer(data_file, model_folder, tmp_path):
    """By the command line, as a user meets it."""
    from transformers import AutoTokenizer

    (tmp_path / "prepare.yaml").write_text(
        f"base_model: {model_folder}\nsource: {data_file}\n"
        "writer: {method: save_to_disk, kwargs: {dataset_path: ready}}\n"
    )
    assert run_module("utilities.dataprep", tmp_path / "prepare.yaml").returncode == 0
    other = tmp_path / "other"
    tiny_model("llama").save_pretrained(other)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(other)
    (tmp_path / "train.yaml").write_text("base_model: ./other\nprepared: ready\noutput_dir: run\n")
    done = run_module("utilities.training", tmp_path / "train.yaml")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "tokeni" in done.stderr
