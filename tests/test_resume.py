"""A run that is killed and started again ends as the uninterrupted one, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import transformers

from tests.conftest import ROWS, tiny_model
from tests.test_training import fit
from utilities.errors import TrainingError
from utilities.features.tokenization import tokenize_examples
from utilities.models.adapters import Lora
from utilities.prompts.built_in import QUESTION_ANSWER
from utilities.training import checkpoints

MANY = {
    "max_steps": -1,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 5,
    "gradient_accumulation_steps": 2,
    "logging_steps": 3,
    "save_strategy": "steps",
    "save_steps": 2,
}


class Killed(Exception):
    """What stands for a power cut."""


class StopAt(transformers.TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Killed


@pytest.fixture
def data(tokenizer):
    return tokenize_examples([QUESTION_ANSWER.example(row) for row in ROWS * 3], tokenizer, 128)


def cut_off(model, tokenizer, data, folder, step, **options):
    with pytest.raises(Killed):
        fit(model, tokenizer, data, folder, callbacks=[StopAt(step)], **options)


def assert_same(run, other):
    columns = [name for name in run.history if name != "seconds"]
    assert run.history[columns].equals(other.history[columns])
    name = "adapter_model.safetensors" if run.record["method"] == "lora" else "model.safetensors"
    assert (run.folder / name).read_bytes() == (other.folder / name).read_bytes()
    assert run.samples.equals(other.samples)
    assert run.record["best"] == other.record["best"]
    assert run.record["totals"]["tokens"] == other.record["totals"]["tokens"]
    assert run.record["totals"]["flops"] == other.record["totals"]["flops"]


# Before the first checkpoint, so with nothing to go on from; within an epoch; and at its end.
@pytest.mark.parametrize("step", [1, 5, 6])
@pytest.mark.parametrize("kind", ["gpt_neox", "llama", "lora"])
def test_the_same_losses_and_weights(kind, step, tokenizer, data, tmp_path):
    def model():
        return tiny_model("gpt_neox" if kind == "lora" else kind)

    options = MANY | {"eval_data": data}
    if kind == "lora":
        options["lora"] = Lora(r=4, dropout=0.3)
    whole = fit(model(), tokenizer, data, tmp_path / "whole", **options)
    cut_off(model(), tokenizer, data, tmp_path / "cut", step, **options)
    assert not (tmp_path / "cut").exists()
    assert (tmp_path / "cut.partial").exists() == (step > 1)
    assert_same(whole, fit(model(), tokenizer, data, tmp_path / "cut", **options))
    assert [path.name for path in tmp_path.iterdir()] in (["cut", "whole"], ["whole", "cut"])


def test_best_checkpoint_and_early_stopping_survive(tokenizer, data, tmp_path):
    options = MANY | {
        "eval_data": data,
        "greater_is_better": True,  # for once, so that the first evaluation stays the best
        "metric_for_best_model": "eval_loss",
        "eval_strategy": "steps",
        "eval_steps": 2,
        "early_stopping": {"patience": 2},
    }
    whole = fit(tiny_model("llama"), tokenizer, data, tmp_path / "whole", **options)
    assert whole.history["step"].max() < 9, "it was to stop early"
    best = whole.record["best"]
    assert best["again"] == pytest.approx(best["value"], abs=1e-6)
    losses = whole.history.dropna(subset=["eval_loss"]).set_index("step")["eval_loss"]
    assert (best["step"], best["value"]) == (losses.idxmax(), losses.max()) == (2, losses[2])
    cut_off(tiny_model("llama"), tokenizer, data, tmp_path / "cut", 3, **options)
    assert_same(whole, fit(tiny_model("llama"), tokenizer, data, tmp_path / "cut", **options))


@pytest.mark.parametrize("architecture", ["gpt_neox", "llama"])
def test_the_best_checkpoint_is_the_one_that_is_saved(architecture, tokenizer, data, tmp_path):
    from utilities import models

    options = MANY | {
        "eval_data": data,
        "greater_is_better": True,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "load_best_model_at_end": True,
        "save_total_limit": 1,
    }
    run = fit(tiny_model(architecture), tokenizer, data, tmp_path / "run", **options)
    best = run.record["best"]
    assert best["step"] == 2 < run.history["step"].max()
    saved, _ = models.load(str(run.folder))
    kept, _ = models.load(str(run.folder / "checkpoints" / f"checkpoint-{best['step']}"))
    for (name, weight), other in zip(saved.named_parameters(), kept.parameters(), strict=True):
        assert torch.equal(weight, other), name


def damage(checkpoint, how):
    weights = checkpoint / "model.safetensors"
    if how == "cut off":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "a bit turned":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    elif how == "a file missing":
        (checkpoint / "optimizer.pt").unlink()
    else:
        (checkpoint / checkpoints.SEAL).unlink()


@pytest.mark.parametrize("how", ["cut off", "a bit turned", "a file missing", "not finished"])
def test_a_damaged_checkpoint_is_passed_over(how, tokenizer, data, tmp_path, caplog):
    whole = fit(tiny_model("llama"), tokenizer, data, tmp_path / "whole", **MANY)
    cut_off(tiny_model("llama"), tokenizer, data, tmp_path / "cut", 5, **MANY)
    folder = tmp_path / "cut.partial" / "checkpoints"
    assert [path.name for path in checkpoints.of_run(folder)] == ["checkpoint-4", "checkpoint-2"]
    damage(folder / "checkpoint-4", how)
    assert_same(whole, fit(tiny_model("llama"), tokenizer, data, tmp_path / "cut", **MANY))
    assert "checkpoint-4 is not used" in caplog.text
    assert "resuming from checkpoint-2" in caplog.text


def test_nothing_but_damaged_checkpoints(tokenizer, data, tmp_path, caplog):
    whole = fit(tiny_model("llama"), tokenizer, data, tmp_path / "whole", **MANY)
    cut_off(tiny_model("llama"), tokenizer, data, tmp_path / "cut", 3, **MANY)
    damage(tmp_path / "cut.partial" / "checkpoints" / "checkpoint-2", "cut off")
    assert_same(whole, fit(tiny_model("llama"), tokenizer, data, tmp_path / "cut", **MANY))


def test_an_unfinished_run_of_other_settings(tokenizer, data, tmp_path):
    cut_off(tiny_model("llama"), tokenizer, data, tmp_path / "run", 3, **MANY)
    other = MANY | {"learning_rate": 1e-3}
    with pytest.raises(TrainingError, match="left from a run with other settings"):
        fit(tiny_model("llama"), tokenizer, data, tmp_path / "run", **other)
    assert (tmp_path / "run.partial" / "checkpoints" / "checkpoint-2").is_dir()
    run = fit(
        tiny_model("llama"), tokenizer, data, tmp_path / "run", if_exists="overwrite", **other
    )
    assert run.record["totals"]["steps"] == 9


def test_two_runs_into_one_folder(tokenizer, data, tmp_path):
    class Second(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 1:
                with pytest.raises(TrainingError, match="another run is writing"):
                    fit(tiny_model("llama"), tokenizer, data, tmp_path / "run")
                self.tried = True

    second = Second()
    run = fit(tiny_model("llama"), tokenizer, data, tmp_path / "run", callbacks=[second])
    assert second.tried
    assert run.record["totals"]["steps"] == 4


def test_killed_by_the_system_at_any_moment(model_folder, data_file, tmp_path):
    """The same command again and again, killed while it works, until it comes through."""
    config = tmp_path / "finetune.yaml"
    config.write_text(
        f"base_model: {model_folder}\ntrain: {data_file}\nvalidation: {data_file}\n"
        "output_dir: run\nprecision: fp32\n"
        "training_arguments: {num_train_epochs: 30, per_device_train_batch_size: 2, "
        "save_strategy: steps, save_steps: 3, disable_tqdm: true}\n"
    )
    command = [sys.executable, "-m", "utilities.training", str(config)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    subprocess.run([*command, "output_dir=whole"], check=True, **quiet)
    partial = tmp_path / "run.partial" / "checkpoints"
    for wanted in (2, 12):  # once it has come that far
        process = subprocess.Popen(command, **quiet)
        give_up = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < give_up:
            if any(int(path.name.split("-")[1]) > wanted for path in checkpoints.of_run(partial)):
                os.kill(process.pid, signal.SIGKILL)
                break
            time.sleep(0.01)
        process.wait()
        process.stderr.close()
        assert process.returncode == -signal.SIGKILL
    done = subprocess.run(command, check=False, text=True, **quiet)
    assert done.returncode == 0, done.stderr
    assert "resuming from checkpoint-" in done.stderr
    weights = [tmp_path / name / "model.safetensors" for name in ("run", "whole")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    histories = []
    for name in ("run", "whole"):
        lines = (tmp_path / name / "history.jsonl").read_text().splitlines()
        histories.append([{**json.loads(line), "seconds": 0} for line in lines])
    assert histories[0] == histories[1]
