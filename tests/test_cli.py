"""Every command line: help, errors, and the whole way from a YAML file to scores."""

import json
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from tests.conftest import ROOT, run_module

CONFIG_COMMANDS = ["audit", "dataprep", "training", "evaluation", "benchmark"]


@pytest.mark.parametrize("command", ["models", *CONFIG_COMMANDS, "runner"])
def test_help(command, clean_environment):
    done = run_module(f"utilities.{command}", "--help", environment=clean_environment)
    assert done.returncode == 0 and f"python -m utilities.{command}" in done.stdout


@pytest.mark.parametrize("command", CONFIG_COMMANDS)
def test_a_missing_config_is_one_line_and_status_2(command, clean_environment):
    done = run_module(f"utilities.{command}", "none.yaml", environment=clean_environment)
    assert done.returncode == 2
    assert done.stderr.strip() == "error: none.yaml: no such config file"


def write_configs(folder, data_file, model):
    (folder / "finetune.yaml").write_text(
        f"base_model: {model}\ntrain: {data_file.name}\nvalidation: {data_file.name}\n"
        "output_dir: runs/tiny\nprecision: fp32\n"
        "training_arguments: {max_steps: 20, learning_rate: 1e-2}\n"
    )
    (folder / "evaluate.yaml").write_text(
        f"model: ./runs/tiny\nbase_model: {model}\ntest: {data_file.name}\n"
        f"train: {data_file.name}\noutput_dir: scores\ngeneration: {{max_new_tokens: 12}}\n"
    )


def test_from_yaml_to_scores_through_the_real_hub_code(hub, data_file, tmp_path, clean_environment):
    """A GPT-NeoX under the default model's name is fetched, tuned, saved, loaded and scored."""
    environment = clean_environment | {"HF_ENDPOINT": hub.url}
    write_configs(tmp_path, data_file, "auto")
    trained = run_module("utilities.training", tmp_path / "finetune.yaml", environment=environment)
    assert trained.returncode == 0, trained.stderr
    assert "EleutherAI/pythia-70m, because the hub can be reached" in trained.stdout
    record = json.loads((tmp_path / "runs" / "tiny" / "run.json").read_text())
    assert record["model"]["name"] == "EleutherAI/pythia-70m"
    done = run_module("utilities.evaluation", tmp_path / "evaluate.yaml", environment=environment)
    assert done.returncode == 0, done.stderr
    table = pd.read_json(tmp_path / "scores" / "predictions.jsonl", lines=True)
    assert table["system"].value_counts().to_dict() == {
        "nearest question": 8,
        "most frequent answer": 8,
        "model": 8,
        "base model": 8,
    }
    again = run_module("utilities.training", tmp_path / "finetune.yaml", environment=environment)
    assert again.returncode == 2 and "exists already" in again.stderr


def test_bad_data_stops_before_anything_is_written(hub, data_file, tmp_path, clean_environment):
    with data_file.open("a") as file:
        file.write('{"question": "Why?"}\n')
    write_configs(tmp_path, data_file, "auto")
    environment = clean_environment | {"HF_ENDPOINT": hub.url}
    done = run_module("utilities.training", tmp_path / "finetune.yaml", environment=environment)
    assert done.returncode == 2
    assert f"{data_file}, line 9: lacks the column 'answer'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def python(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)


def test_the_modules_at_the_bottom_bring_no_torch():
    program = (
        "import sys; from utilities import config, metrics, plots, prompts, sources, splitting;"
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_import_is_fast_and_loads_nothing():
    program = "import utilities, sys; print(sorted(m for m in sys.modules if 'utilities' in m))"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", program],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "['utilities']"
    line = next(line for line in done.stderr.splitlines() if line.endswith("| utilities"))
    assert int(line.split("|")[1]) < 300_000  # microseconds


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_help_lists_every_target():
    done = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert [line.split()[1] for line in done.stdout.splitlines()] == [
        "course",
        "test",
        "bench",
        "lab",
        "clean",
        "help",
    ]
