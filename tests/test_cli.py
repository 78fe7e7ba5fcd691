"""Every command line: help, errors, and the whole way from a YAML file to scores."""

import csv
import gzip
import importlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from tests.conftest import ROOT, ROWS, run_module
from utilities.__main__ import COMMANDS
from utilities.commands import schema_of, type_in_words
from utilities.config import load_config, models_of_field

CONFIG_COMMANDS = ["audit", "dataprep", "training", "evaluation", "benchmark"]
HEAVY = "torch transformers datasets peft accelerate lm_eval sklearn scipy matplotlib pandas numpy"
# Runs a command as `python -m` does; prints what heavy libraries it loaded, and its seconds of CPU.
PROGRAM = f"""
import runpy, sys, time
name, sys.argv = sys.argv[1], sys.argv[1:]
try:
    runpy.run_module(name, run_name="__main__")
except SystemExit as end:
    status = end.code
print(status or 0, time.process_time(), *sorted(set("{HEAVY}".split()) & set(sys.modules)),
      file=sys.stderr)
"""


def command_of(name):
    return importlib.import_module(f"utilities.{name}.__main__").COMMAND


@pytest.fixture(scope="module")
def helps():
    """Return by command what `--help` prints: (text, status, seconds of CPU, heavy libraries)."""
    results = {}
    for name in COMMANDS:
        done = python("-c", PROGRAM, f"utilities.{name}", "--help")
        status, seconds, *loaded = done.stderr.split()
        results[name] = done.stdout, int(status), float(seconds), loaded
    return results


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_quick_and_loads_nothing_heavy(helps, name):
    text, status, seconds, loaded = helps[name]
    assert status == 0 and f"usage: python -m utilities.{name} " in text
    assert COMMANDS[name] in text
    assert loaded == [] and seconds < 1


def entries(text):
    """Return the keys that a help names, with (type and default, sentence)."""
    pattern = r"^  ([\w.]+): (.+)\n((?:      .+\n)+)"
    return {
        key: (kind, " ".join(sentence.split()))
        for key, kind, sentence in re.findall(pattern, text + "\n", re.MULTILINE)
    }


@pytest.mark.parametrize("name", CONFIG_COMMANDS)
def test_help_names_every_key_with_type_default_and_a_sentence(helps, name):
    keys = entries(helps[name][0])
    blocks = [("", command_of(name).model)]
    explained = set()
    for prefix, model in blocks:
        schema = schema_of(model, late=False)
        for field, info in model.model_fields.items():
            kind, sentence = keys.pop(prefix + field)
            value = schema["properties"][field]
            assert kind.startswith(f"{type_in_words(value)}; ")
            assert ("; required" in kind) == info.is_required()
            if isinstance(info.default, bool | int | float):
                assert kind.endswith(f"; default {json.dumps(info.default)}")
            assert len(sentence) > 5 and "None" not in sentence, prefix + field
            if field in model.late_models:  # the library's, over a hundred
                continue
            inside = [m for m in models_of_field(model, field) if m not in explained]
            explained |= set(inside)
            name_of_block = prefix + field + (".NAME" if kind.startswith("mapping") else "")
            blocks += [(f"{name_of_block}.", inner) for inner in inside]
    assert keys == {}
    assert not re.search(r"typing|NoneType|<class|\bAnnotated|\bNone\b|\$ref", helps[name][0])


def test_types_in_words(helps):
    training, evaluation = entries(helps["training"][0]), entries(helps["evaluation"][0])
    assert training["method"][0] == "one of full, freeze, lora; default full"
    assert training["lora.dropout"][0] == "number ≥ 0 and < 1; default 0.0"
    assert training["train"][0] == "path or block; default null"
    assert training["max_length"][0] == "whole number ≥ 3; default 512"
    assert training["prompt_format"][0].endswith("chat or block; default question_answer")
    assert "TrainingArguments" in training["training_arguments"][1]
    assert evaluation["beside"][0] == "mapping to block or auto, hub id or folder; default {}"
    assert evaluation["generation"][0] == "block; default the block's own"
    assert evaluation["test"][0] == "path or block; required"
    assert "The block `test` (the same in `train`)" in helps["evaluation"][0]


def test_every_command_is_listed(clean_environment):
    done = run_module("utilities", environment=clean_environment)
    assert done.returncode == 0
    lines = re.findall(r"^  python -m utilities\.(\w+) +(.+)$", done.stdout, re.MULTILINE)
    assert dict(lines) == COMMANDS and "--help" in done.stdout
    modules = {path.parent.name for path in (ROOT / "utilities").glob("*/__main__.py")}
    assert modules == set(COMMANDS)


def test_an_unknown_command_gets_the_nearest(clean_environment):
    done = run_module("utilities", "trainig", "x.yaml", environment=clean_environment)
    assert done.returncode == 2
    assert "unknown command 'trainig', did you mean 'training'?" in done.stderr


def test_a_command_can_follow_the_package(clean_environment):
    done = run_module("utilities", "audit", "none.yaml", environment=clean_environment)
    assert done.returncode == 2
    assert done.stderr.strip() == "error: none.yaml: no such config file"


@pytest.mark.parametrize("command", ["models", "runner"])
def test_a_wrong_subcommand_names_the_right_ones(command, clean_environment):
    done = run_module(f"utilities.{command}", "x", environment=clean_environment)
    assert done.returncode == 2 and "invalid choice: 'x'" in done.stderr


@pytest.mark.parametrize("command", CONFIG_COMMANDS)
def test_a_config_must_be_named(command, clean_environment):
    done = run_module(f"utilities.{command}", environment=clean_environment)
    assert done.returncode == 2 and "CONFIG is missing" in done.stderr


def test_ctrl_c_while_libraries_load_is_one_word(tmp_path, clean_environment):
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    (tmp_path / "run.yaml").write_text("train: rows.jsonl\noutput_dir: run\n")
    # Says when the first heavy library begins to load; the signal comes in the middle of it.
    program = (
        "import sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'torch': print('loading', flush=True)\n"
        "sys.meta_path.insert(0, Watch())\n"
        "from utilities.training.__main__ import main\n"
        "sys.exit(main(['run.yaml']))\n"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=clean_environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stdout.readline() == "loading\n"
    time.sleep(0.2)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130 and errors == "stopped\n"


# ---- a data file in place of a config ----


def write_data(folder, name):
    """Write the rows as the file name tells; a name without a suffix is a saved dataset."""
    path = folder / name
    table = pd.DataFrame(ROWS)
    if name.endswith(".jsonl.gz"):
        with gzip.open(path, "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in ROWS)
    elif name.endswith(".jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif name.endswith(".json"):
        path.write_text(json.dumps(ROWS))
    elif name.endswith((".csv", ".tsv")):
        with path.open("w", newline="") as file:
            mark = "\t" if name.endswith(".tsv") else ","
            writer = csv.DictWriter(file, list(ROWS[0]), delimiter=mark)
            writer.writeheader()
            writer.writerows(ROWS)
    elif name.endswith(".parquet"):
        table.to_parquet(path)
    else:
        from datasets import Dataset

        Dataset.from_list(ROWS).save_to_disk(path)
    return path


DATA = ["my-rows.jsonl", "r.jsonl.gz", "r.json", "r.csv", "r.tsv", "r.parquet", "saved"]


@pytest.mark.parametrize("name", DATA)
def test_a_data_file_is_audited_as_it_stands(name, tmp_path, monkeypatch, capsys):
    from utilities.audit.__main__ import main

    write_data(tmp_path, name)
    monkeypatch.chdir(tmp_path)
    assert main([name, "base_model=null", "near_duplicate=0.9"]) == 0
    stem = {"my-rows.jsonl": "my_rows", "saved": "saved"}.get(name, "r")
    printed = capsys.readouterr().out
    assert f"{name} is a data file" in printed and f"output_dir: runs/audit_{stem}" in printed
    assert "8 rows, " in printed
    report = json.loads((tmp_path / "runs" / f"audit_{stem}" / "report.json").read_text())
    assert report["rows"] == 8


def test_overrides_reach_into_the_source_of_a_data_file(tmp_path, monkeypatch, capsys):
    from utilities.audit.__main__ import main

    (tmp_path / "parts.json").write_text(json.dumps({"train": ROWS[:5], "test": ROWS[5:]}))
    monkeypatch.chdir(tmp_path)
    options = ["base_model=null", "source.kwargs.split=test", "output_dir=here"]
    assert main(["parts.json", *options]) == 0
    assert "3 rows, " in capsys.readouterr().out
    assert (tmp_path / "here" / "report.json").is_file() and not (tmp_path / "runs").exists()
    assert main(["parts.json", "near_duplicat=1"]) == 2
    assert "unknown key, did you mean 'near_duplicate'?" in capsys.readouterr().err
    assert main(["none.jsonl", "base_model=null"]) == 2
    assert "none.jsonl: no such data file" in capsys.readouterr().err


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("command", [name for name in CONFIG_COMMANDS if name != "audit"])
def test_other_commands_show_a_config_to_write(command, name, tmp_path, monkeypatch, capsys):
    write_data(tmp_path, name)
    monkeypatch.chdir(tmp_path)
    assert importlib.import_module(f"utilities.{command}.__main__").main([name]) == 2
    message = capsys.readouterr().err
    assert f"{name} is a data file, and `python -m utilities.{command}` reads a config" in message
    shown = message.split("\n\n")[1]
    (tmp_path / "shown.yaml").write_text(shown)
    config = load_config(tmp_path / "shown.yaml", command_of(command).model)
    assert str(tmp_path / name) in str(config)
    assert [path.name for path in tmp_path.iterdir() if path.name != name] == ["shown.yaml"]


def test_prepared_data_are_trained_on_as_prepared(tmp_path, monkeypatch, capsys):
    from utilities.training.__main__ import main

    write_data(tmp_path, "prepared")
    (tmp_path / "prepared" / "dataprep.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert main(["prepared"]) == 2
    assert "\n\nprepared: prepared\noutput_dir: runs/prepared\n" in capsys.readouterr().err


def test_a_config_may_be_json(tmp_path, capsys):
    from utilities.audit.__main__ import main

    write_data(tmp_path, "rows.jsonl")
    values = {"source": "rows.jsonl", "output_dir": "out", "base_model": None}
    (tmp_path / "audit.json").write_text(json.dumps(values))
    assert main([str(tmp_path / "audit.json")]) == 0
    assert "is a data file" not in capsys.readouterr().out
    assert (tmp_path / "out" / "report.json").is_file()


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
        "test-oldest",
        "bench",
        "schemas",
        "lab",
        "clean",
        "help",
    ]
