import json
import subprocess

import pytest
import yaml

from tests.conftest import ROWS, tiny_model
from tests.test_training import CHOICE, fit
from utilities.config import load_config
from utilities.errors import TrainingError
from utilities.features.tokenization import tokenize_examples
from utilities.models.adapters import Lora
from utilities.models.choice import ModelChoice
from utilities.prompts.built_in import QUESTION_ANSWER
from utilities.training.run import run_training
from utilities.training.run_folder import Run, compare_runs, git_state
from utilities.training.settings import TrainingConfig


@pytest.fixture
def data(tokenizer):
    return tokenize_examples([QUESTION_ANSWER.example(row) for row in ROWS], tokenizer, 128)


def test_runs_side_by_side(tokenizer, data, tmp_path):
    full = fit(tiny_model("llama"), tokenizer, data, tmp_path / "full", eval_data=data)
    lora = fit(
        tiny_model("llama"),
        tokenizer,
        data,
        tmp_path / "lora",
        eval_data=data,
        lora=Lora(r=2),
        learning_rate=0.05,
    )
    table = compare_runs([full, tmp_path / "lora"]).set_index("run")
    assert table["method"].to_dict() == {"full": "full", "lora": "lora"}
    assert table["learning_rate"].to_dict() == {"full": 0.01, "lora": 0.05}
    assert "seed" not in table, "they do not differ in it"
    assert table.loc["lora", "trained"] < table.loc["full", "trained"] / 5
    assert table.loc["full", "eval_loss"] == full.history["eval_loss"].dropna().iloc[-1]
    assert lora.best()["metric"] == "eval_loss"
    with pytest.raises(TrainingError, match="not a finished run"):
        compare_runs([tmp_path])


def test_a_history_with_figures_that_are_no_numbers(tokenizer, data, tmp_path):
    run = fit(tiny_model("llama"), tokenizer, data, tmp_path / "run")
    with (run.folder / "history.jsonl").open("a") as file:
        file.write(json.dumps({"step": 9, "loss": 1.0, "grad_norm": float("nan")}) + "\n")
    assert Run.load(run.folder).history["step"].max() == 9


def test_the_config_in_a_run_folder_makes_the_same_run(model_folder, data_file, tmp_path):
    config = TrainingConfig(
        base_model=str(model_folder),
        train=str(data_file),
        validation=str(data_file),
        output_dir=tmp_path / "run",
        method="lora",
        lora={"r": 2},
        prompt_format={"template": "Q: {question}\nA:", "response": " {answer}"},
        training_arguments={"max_steps": 2, "disable_tqdm": True},
    )
    run = run_training(config)
    again = load_config(run.folder / "config.yaml", TrainingConfig, ["if_exists=reuse"])
    assert again.lora == config.lora and again.prompt_format == config.prompt_format
    assert run_training(again).record == run.record, "nothing was trained anew"
    values = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert values["training_arguments"]["num_train_epochs"] == 3, "defaults are written out"


def test_the_model_card_says_what_it_is(tokenizer, data, tmp_path):
    choice = ModelChoice("EleutherAI/pythia-70m", "hub", "a test")
    run = fit(
        tiny_model("gpt_neox"), tokenizer, data, tmp_path / "run", choice=choice, eval_data=data
    )
    _, front, body = (run.folder / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model": "EleutherAI/pythia-70m",
    }
    assert f"{run.best()['value']:.4f}" in body
    assert "'\\n### Question:'" in body
    code = body.split("```python\n")[1].split("```")[0]
    there = {"__name__": "card"}
    exec(code.replace("'.'", repr(str(run.folder))), there)
    assert there["prompt_format"] == QUESTION_ANSWER
    assert (
        "base_model"
        not in (
            (fit(tiny_model("llama"), tokenizer, data, tmp_path / "own").folder / "README.md")
            .read_text()
            .split("---\n", 2)[1]
        )
    ), f"{CHOICE.name} is no model of a hub"


def test_git_state(tmp_path):
    assert git_state(tmp_path) is None
    commands = ["init -q", "config user.email a@b.c", "config user.name x"]
    for command in [*commands, "commit -q --allow-empty -m first"]:
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    state = git_state(tmp_path)
    assert len(state["commit"]) == 40 and state["changed"] == 0
    (tmp_path / "file").write_text("new")
    subprocess.run(["git", "add", "file"], cwd=tmp_path, check=True)
    assert git_state(tmp_path)["changed"] == 1
