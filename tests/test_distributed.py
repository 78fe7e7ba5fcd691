"""Several processes train as one does: CPU, gloo, and the accelerate configs that ship.

Run as a program, this file does what `several` asks of each process.
"""

import contextlib
import dataclasses
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from tests.conftest import ROOT, ROWS, tiny_model
from tests.test_training import fit
from utilities import models
from utilities.config import load_config
from utilities.errors import TrainingError
from utilities.features.collation import PaddingCollator
from utilities.features.tokenization import tokenize_examples
from utilities.prompts.built_in import QUESTION_ANSWER
from utilities.training import __main__, checkpoints, distributed
from utilities.training.run import run_training
from utilities.training.run_folder import Run
from utilities.training.settings import Settings, TrainingConfig, make_training_arguments
from utilities.training.trainer import SupervisedTrainer

CONFIGS = ROOT / "configs" / "accelerate"
PATIENCE = 240  # seconds; only a hang takes that long

# Rows of an epoch, and rows × accumulation of a step: in two processes, and in one. 11 rows make a
# last step of 3; 9 rows one of 1, so that one process has nothing to learn from in it.
SHAPES = {
    "gpt_neox": (11, (2, 1), (4, 1)),
    "llama": (9, (1, 2), (4, 1)),
    "lora": (9, (2, 1), (2, 2)),
}
# A pass a row, so that processes make different numbers of them. A large epsilon keeps Adam from
# blowing up differences of a billionth.
SETTINGS = """
base_model: ./{model}
train: {{kwargs: {{path: train.jsonl}}, limit: {rows}}}
validation: {{kwargs: {{path: validation.jsonl}}}}
output_dir: {output}
precision: fp32
max_tokens: 50
training_arguments:
  num_train_epochs: 3
  per_device_train_batch_size: {batch}
  per_device_eval_batch_size: 2
  gradient_accumulation_steps: {accumulation}
  learning_rate: 1e-2
  adam_epsilon: 1e-3
  logging_steps: 1
"""
LORA = "method: lora\nlora: {{r: 4, dropout: {dropout}}}\n"
KILLED = "  save_strategy: steps\n  save_steps: 2\n  eval_strategy: steps\n  eval_steps: 10\n"


def write_configs(folder, tokenizer):
    for name in ("gpt_neox", "llama"):
        tiny_model(name).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    for name, rows in {"train": ROWS + ROWS[:3], "validation": ROWS[:5]}.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    for name, (rows, *shapes) in SHAPES.items():
        for count, (batch, accumulation) in zip((2, 1), shapes, strict=True):
            text = SETTINGS.format(
                model="llama" if name == "llama" else "gpt_neox",
                rows=rows,
                output=f"{name}_{count}",
                batch=batch,
                accumulation=accumulation,
            )
            text += LORA.format(dropout=0.0) if name == "lora" else ""
            (folder / f"{name}_{count}.yaml").write_text(text, encoding="utf-8")
    text = SETTINGS.format(model="gpt_neox", rows=11, output="cut", batch=2, accumulation=1)
    text = text.replace("num_train_epochs: 3", "max_steps: 24") + KILLED
    text += LORA.format(dropout=0.3)
    (folder / "cut.yaml").write_text(text, encoding="utf-8")


def start(folder, module, *arguments):
    """Start two processes with the config that ships."""
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    launch = ["accelerate.commands.launch", "--config_file", CONFIGS / "cpu_processes.yaml"]
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, launch), "-m", module, *map(str, arguments)],
        env=os.environ | own,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill(process):
    """End a launcher and what it started, at once, as a power cut would."""
    with contextlib.suppress(psutil.NoSuchProcess):
        launcher = psutil.Process(process.pid)
        for each in [launcher, *launcher.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()


@dataclasses.dataclass
class Done:
    status: int
    out: str
    err: str


def end_of(process):
    try:
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        kill(process)
    return Done(process.returncode, out, err)


def cut_off(folder):
    """Kill a run by two processes once it has written some checkpoints; return the newest whole."""
    process = start(folder, "utilities.training", folder / "cut.yaml")
    give_up = time.monotonic() + PATIENCE
    written = folder / "cut.partial" / "checkpoints"
    while process.poll() is None and time.monotonic() < give_up:
        if len(found := checkpoints.of_run(written)) > 1 and found[0].name != "checkpoint-2":
            break
        time.sleep(0.01)
    kill(process)
    err = process.communicate()[1]
    newest = checkpoints.newest_complete(written)
    assert newest, err
    return newest.name


@contextlib.contextmanager
def on_the_cpu():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr(torch.backends.mps, "is_available", lambda: False)
        yield


@pytest.fixture(scope="module")
def several(tokenizer, tmp_path_factory):
    """A folder in which two processes trained, and what they said.

    One launch for all: a run that was killed is gone on with last.
    """
    folder = tmp_path_factory.mktemp("processes")
    write_configs(folder, tokenizer)
    left = cut_off(folder)
    with on_the_cpu(), pytest.raises(TrainingError, match="left from a run with other settings"):
        run_training(load_config(folder / "cut.yaml", TrainingConfig))  # by one process
    done = end_of(start(folder, "tests.test_distributed", folder))
    assert done.status == 0, done.err
    return folder, left, done


@pytest.fixture(scope="module")
def alone(several):
    """The same runs by this process alone, on the CPU."""
    folder, *_ = several
    with on_the_cpu():
        return {
            name: run_training(load_config(folder / f"{name}_1.yaml", TrainingConfig))
            for name in SHAPES
        }


def evaluations(folder, trained_on):
    """Return the losses of an untrained model on the first rows of the data, by their number."""
    model, tokenizer = models.load(str(folder / "llama"))
    examples = [QUESTION_ANSWER.example(row) for row in ROWS]
    features = tokenize_examples(examples, tokenizer, 128).features
    found = {}
    for rows in (1, 2, 3, 5):
        trainer = SupervisedTrainer(
            model=model,
            args=make_training_arguments(
                folder / trained_on,
                Settings.of(precision="fp32", per_device_eval_batch_size=1),
            ),
            eval_dataset=features.select(range(rows)),
            data_collator=PaddingCollator(tokenizer.pad_token_id),
            processing_class=tokenizer,
        )
        found[str(rows)] = trainer.evaluate()
    return found


def work_of_a_process(folder):
    """Train, evaluate and be refused, as one of several processes; tell it in a file."""
    rank = os.environ["RANK"]
    for name in SHAPES:
        run_training(load_config(folder / f"{name}_2.yaml", TrainingConfig))
    again = load_config(folder / "gpt_neox_2.yaml", TrainingConfig)
    reused = run_training(again.model_copy(update={"if_exists": "reuse"}))
    try:
        run_training(again)
        refused = ""
    except TrainingError as error:
        refused = str(error)
    run_training(load_config(folder / "cut.yaml", TrainingConfig, ["output_dir=whole"]))
    told = {
        "evaluations": evaluations(folder, f"evaluations_{rank}"),
        "reused": reused.record["totals"],
        "refused": refused,
    }
    (folder / f"told_{rank}.json").write_text(json.dumps(told), encoding="utf-8")
    return __main__.main([str(folder / "cut.yaml")])


def weights(run):
    from safetensors.torch import load_file

    (file,) = run.folder.glob("*model.safetensors")
    return load_file(file)


@pytest.mark.parametrize("name", SHAPES)
def test_two_processes_learn_what_one_does(name, several, alone):
    two, one = Run.load(several[0] / f"{name}_2"), alone[name]
    assert [run.record["totals"]["processes"] for run in (two, one)] == [2, 1]
    exact = ["step", "learning_rate", "tokens"]
    assert two.history[exact].equals(one.history[exact])
    # An epoch's share is that of its batches, and accumulation makes smaller ones.
    close = [column for column in one.history if column not in (*exact, "epoch", "seconds")]
    assert {"loss", "loss_response", "loss_end", "grad_norm", "eval_loss"} <= set(close)
    np.testing.assert_allclose(two.history[close], one.history[close], rtol=2e-5, atol=2e-5)
    expected = weights(one)
    for weight, found in weights(two).items():
        torch.testing.assert_close(found, expected[weight], rtol=1e-4, atol=2e-5)
    assert two.record["weights"] == one.record["weights"]


def test_the_last_smaller_step_counts_its_rows_once(several):
    for name, (rows, *_) in SHAPES.items():
        run = Run.load(several[0] / f"{name}_2")
        data = run.record["data"]["train"]
        assert data["kept"] == rows
        assert run.history["tokens"].iloc[-1] == 3 * data["tokens"], name
        assert run.record["totals"]["steps"] == 3 * 3


def test_an_evaluation_counts_each_row_once(several):
    folder, *_ = several
    with on_the_cpu():
        expected = evaluations(folder, "evaluations")
    for rank in (0, 1):
        found = json.loads((folder / f"told_{rank}.json").read_text())["evaluations"]
        for rows, losses in expected.items():
            assert found[rows] == pytest.approx(losses, abs=1e-6), rows
    assert len({losses["eval_loss"] for losses in expected.values()}) == len(expected)


def test_only_the_first_process_writes_and_speaks(several):
    folder, _, done = several
    for name in SHAPES:
        lines = (folder / f"{name}_2" / "history.jsonl").read_text().splitlines()
        kinds = [
            (row["step"], "eval_loss" in row) for row in map(json.loads, lines) if "step" in row
        ]
        assert len(set(kinds)) == len(kinds) == 9 + 3, name
        samples = Run.load(folder / f"{name}_2").samples
        assert not samples.duplicated(["step", "prompt"]).any()
        assert len(samples) == 3 * 3
    runs = {path.parent.name for path in folder.glob("*/run.json")}
    assert runs >= {"cut", "whole", *(f"{name}_2" for name in SHAPES)}
    assert not [path.name for path in folder.iterdir() if path.suffix in (".partial", ".lock")]
    assert done.out.count("model:    gpt_neox") == done.out.count("wrote:") == 1
    assert done.err.count("resuming from checkpoint-") == 1


def test_all_processes_are_refused_or_given_the_run_that_is_there(several):
    folder, *_ = several
    first, second = (json.loads((folder / f"told_{rank}.json").read_text()) for rank in (0, 1))
    assert "exists already" in first["refused"]
    assert second["refused"] == first["refused"]
    assert second["reused"] == first["reused"] == Run.load(folder / "gpt_neox_2").record["totals"]


def test_a_run_of_two_processes_goes_on_after_it_was_killed(several):
    folder, left, done = several
    assert f"resuming from {left} " in done.err
    cut, whole = Run.load(folder / "cut"), Run.load(folder / "whole")
    columns = [name for name in whole.history if name != "seconds"]
    assert cut.history[columns].equals(whole.history[columns])
    assert cut.samples.equals(whole.samples)
    name = "adapter_model.safetensors"
    assert (cut.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_a_config_that_is_refused_ends_all_processes_with_one_message(several):
    folder, *_ = several
    before = (folder / "cut" / "run.json").stat().st_mtime_ns
    done = end_of(start(folder, "utilities.training", folder / "cut.yaml"))
    assert done.status not in (0, None)
    said = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert len(said) == 1, done.err
    assert "exists already; choose another output_dir" in said[0]
    assert "[rank" not in done.err, "a process failed in a way of its own"
    assert "wrote:" not in done.out
    assert (folder / "cut" / "run.json").stat().st_mtime_ns == before


def test_what_is_left_of_a_run_without_checkpoints_is_in_nobody_s_way(tokenizer, tmp_path):
    (tmp_path / "run.partial").mkdir()
    (tmp_path / "run.partial" / "unfinished.json").write_text('{"fingerprint": "of others"}')
    data = tokenize_examples([QUESTION_ANSWER.example(row) for row in ROWS], tokenizer, 128)
    fit(tiny_model("llama"), tokenizer, data, tmp_path / "run", max_steps=1)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_config_decides_the_precision_not_the_launcher(monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    for precision, expected in [("fp32", "no"), ("bf16", "bf16")]:
        arguments = make_training_arguments(tmp_path, Settings(precision=precision))
        assert arguments.mixed_precision == expected


def test_another_process_speaks_only_when_it_fails(monkeypatch):
    def work():
        sys.stderr.write("error: my own fault\n")
        return status

    monkeypatch.setattr(distributed, "SECONDS_BEFORE_SPEAKING", 0)
    for status, expected in [(0, ""), (2, "error: my own fault\n")]:
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            assert distributed.with_buffered_stderr(work) == status
        assert said.getvalue() == expected


# ---- the configs that ship ----

PATHS = sorted(CONFIGS.glob("*.yaml"))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_accelerate_takes_the_config(path):
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    given = load_config_from_file(str(path))
    assert given.mixed_precision == "no", "the training config decides"
    parser = launch_command_parser()
    arguments = ["--config_file", str(path), "-m", "utilities.training", "finetune.yaml"]
    parsed, *_ = _validate_launch_command(parser.parse_args(arguments))
    known = vars(parser.parse_args(arguments))
    assert set(given.fsdp_config) <= set(known), "accelerate copies keys without looking at them"
    assert (parsed.multi_gpu, parsed.use_fsdp) == (not given.fsdp_config, bool(given.fsdp_config))
    assert parsed.num_processes >= 2
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert f"--config_file configs/accelerate/{path.name}" in text
    assert path.name in (CONFIGS / "README.md").read_text(encoding="utf-8")


def test_fsdp_writes_whole_weights(monkeypatch):
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils import FullyShardedDataParallelPlugin
    from accelerate.utils.launch import prepare_multi_gpu_env

    path = str(CONFIGS / "gpus_fsdp.yaml")
    arguments = ["--config_file", path, "--main_process_port", "0", "-m", "utilities.training", "x"]
    parsed, *_ = _validate_launch_command(launch_command_parser().parse_args(arguments))
    for name, value in prepare_multi_gpu_env(parsed).items():
        monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    plugin.set_state_dict_type()
    assert plugin.fsdp_version == 2
    assert plugin.state_dict_type.name == "FULL_STATE_DICT"
    plugin.set_auto_wrap_policy(tiny_model("llama"))
    (layer,) = plugin.auto_wrap_policy.keywords["transformer_layer_cls"]
    assert layer.__name__ == "LlamaDecoderLayer"


if __name__ == "__main__":
    sys.exit(work_of_a_process(Path(sys.argv[1])))
