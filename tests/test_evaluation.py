import json
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch

from tests.conftest import ROOT, ROWS, run_module, tiny_model
from tests.test_endpoint import Server, chat
from tests.test_run_page import EVIL, Page
from utilities.errors import AnalysisError, EvaluationError, TrackingError
from utilities.evaluation.forgetting_ratio import forgetting
from utilities.evaluation.run import run_evaluation
from utilities.evaluation.settings import EvaluationConfig
from utilities.inference.answers import Answer
from utilities.inference.local_model import LocalModel
from utilities.prompts.built_in import QUESTION_ANSWER
from utilities.scores import error_analysis
from utilities.scores.baselines import most_frequent_answer, nearest_question_answers
from utilities.scores.prediction_tables import compare, prediction_table, score

RIGHT = [row["answer"] for row in ROWS]
SHARES = ["exact_match", "normalized_exact_match"]


def table(predictions, system="model", **options):
    rows = [{**row, "kind": "a" if index < 4 else "b"} for index, row in enumerate(ROWS)]
    return prediction_table(rows, predictions, QUESTION_ANSWER, system, **options)


def test_table_puts_predictions_beside_references():
    predictions = [RIGHT[0].upper(), *RIGHT[1:7], "wrong"]
    result = table(predictions, refusal="LET'S GET BACK TO FINE-TUNING")
    assert result["prediction"].tolist() == predictions
    assert result["reference"].tolist() == RIGHT
    assert result["row"].tolist() == list(range(8))
    assert result["exact_match"].tolist() == [False] + [True] * 6 + [False]
    assert result["normalized_exact_match"].tolist() == [True] * 7 + [False]
    assert result["turned_down"].tolist() == [False] * 4 + [True] + [False] * 3
    assert result["prompt"][0] == QUESTION_ANSWER.prompt(ROWS[0])
    assert result["error_class"].tolist() == ["right"] * 7 + ["unrelated"]
    assert result["stopped"].isna().all() and result["log_probability"].isna().all()


def test_a_failed_row_stays_a_row_and_counts_as_wrong():
    answers = [Answer(text, "end_of_text", 3, -1.5) for text in RIGHT[:7]]
    result = table([*answers, Answer("", "error", error="out of memory")])
    assert result["error"].tolist() == [None] * 7 + ["out of memory"]
    assert result["log_probability"].tolist() == [-1.5] * 7 + [None]
    assert score(result, metrics=["exact_match"])["value"].tolist() == [7 / 8]


def test_scores_by_group_with_intervals():
    both = pd.concat([table(RIGHT, "good"), table(["x"] * 8, "bad")])
    scores = score(both, ["system", "kind"], SHARES)
    assert len(scores) == 8
    cell = scores.set_index(["system", "kind", "metric"]).loc[("good", "a", "exact_match")]
    assert (cell["value"], cell["n"], cell["high"]) == (1.0, 4, 1.0)
    assert 0 < cell["low"] < 0.6
    every = score(both)
    assert {"bleu", "chrf", "rougeL", "token_f1", "repetition"} <= set(every["metric"])
    assert (every["low"] <= every["value"]).all() and (every["value"] <= every["high"]).all()


def test_all_answers_equal_is_no_trouble():
    same = table([RIGHT[0]] * 8)
    scores = score(same).set_index("metric")
    assert scores.loc["exact_match", "value"] == 1 / 8
    compared = compare(pd.concat([same.assign(system="a"), same.assign(system="b")]), "a", "b")
    assert (compared["difference"] == 0).all() and (compared["p"] == 1).all()
    assert "smallest" not in compared


def test_two_systems_on_the_same_rows():
    worse = table(["x"] * 6 + RIGHT[6:], "before")
    result = compare(pd.concat([worse, table(RIGHT, "after")]), "before", "after")
    line = result.set_index("metric").loc["exact_match"]
    assert (line["first"], line["second"], line["difference"]) == (0.25, 1.0, 0.75)
    assert (line["gained"], line["lost"]) == (6, 0)
    assert line["low"] < 0.75 < line["high"] <= 1.1 and line["p"] < 0.05
    with pytest.raises(AnalysisError, match="no system 'best'"):
        compare(worse, "before", "best")


def test_columns_of_the_data_never_shadow_ours():
    rows = [{**row, "words": "w", "system": "s", "question": None} for row in ROWS]
    asked = [{**row, "question": "q"} for row in rows]
    result = prediction_table(asked, RIGHT, QUESTION_ANSWER, "model")
    assert set(result["data_words"]) == {"w"} and set(result["data_system"]) == {"s"}
    assert set(result["system"]) == {"model"} and result["words"].tolist()[2] == 1
    assert error_classes_of(result.assign(question=None)) == ["right"] * 8


def error_classes_of(table):
    return error_analysis.classify(table).tolist()


def test_bad_tables_are_refused():
    with pytest.raises(EvaluationError, match="found 2 for 8 rows"):
        table(["a", "b"])
    with pytest.raises(EvaluationError, match="found 0 for 0"):
        prediction_table([], [], QUESTION_ANSWER, "x")
    with pytest.raises(EvaluationError, match=r"lacks the columns.*'topic'"):
        score(table(["a"] * 8), ["topic"])
    with pytest.raises(EvaluationError, match="is empty"):
        score(table(["a"] * 8).iloc[:0])


def test_nearest_question_looks_up_the_most_similar_one():
    asked = [{"question": "what's an epoch"}, {"question": "do i need a gpu?"}]
    assert (
        nearest_question_answers(ROWS, asked * 200, QUESTION_ANSWER)
        == [
            "One pass over the rows.",
            "No.",
        ]
        * 200
    )


def test_the_most_frequent_answer():
    rows = [{"question": "q", "answer": answer} for answer in ["b", "a", "a", "b", "c"]]
    assert most_frequent_answer(rows, QUESTION_ANSWER) == "b"


def test_forgetting_is_a_ratio_of_perplexities(tokenizer):
    before, after = tiny_model("llama"), tiny_model("llama")
    texts = [row["answer"] * 3 for row in ROWS]
    one, other = LocalModel(before, tokenizer), LocalModel(after, tokenizer)
    assert forgetting(one, other, texts)[1] == (1, 1, 1)
    with torch.no_grad():
        after.get_output_embeddings().weight.mul_(30)
    result, ratio = forgetting(one, other, texts)
    assert ratio.low > 1
    logs = np.log(result["after"] / result["before"]) * result["tokens"]
    assert ratio.value == pytest.approx(np.exp(logs.sum() / result["tokens"].sum()))
    with pytest.raises(EvaluationError, match="no neutral text"):
        forgetting(one, other, [])
    with pytest.raises(EvaluationError, match="does not fit the context"):
        forgetting(one, other, ["word " * 400])


# The whole, from a config.


def config(model_folder, data_file, tmp_path, **changes):
    values = {
        "model": str(model_folder),
        "test": {"kwargs": {"path": str(data_file)}, "limit": 5},
        "train": str(data_file),
        "output_dir": tmp_path / "out",
        "generation": {"max_new_tokens": 5},
    }
    return EvaluationConfig(**{**values, **changes})


def test_run_writes_predictions_and_scores(model_folder, data_file, tmp_path):
    result = run_evaluation(config(model_folder, data_file, tmp_path))
    folder = tmp_path / "out"
    written = pd.read_json(folder / "predictions.jsonl", lines=True)
    assert written["prediction"].tolist() == result.predictions["prediction"].tolist()
    systems = ["nearest question"] * 5 + ["most frequent answer"] * 5 + ["model"] * 5
    assert written["system"].tolist() == systems
    columns = pd.read_parquet(folder / "predictions.parquet")
    assert columns["prediction"].tolist() == written["prediction"].tolist()
    assert columns["rougeL"].tolist() == pytest.approx(written["rougeL"].tolist())
    report = json.loads((folder / "scores.json").read_text())
    assert report["models"]["model"]["name"] == "pythia-tiny"
    assert len(report["scores"]) == len(result.scores)
    assert report["failed"] == dict.fromkeys(systems, 0)
    # every test question is its own nearest training question here
    nearest = result.scores.query("system == 'nearest question' and metric in @SHARES")
    assert nearest["value"].tolist() == [1.0, 1.0]
    perplexity = result.scores.query("metric == 'perplexity'")
    assert perplexity["system"].tolist() == ["model"] and perplexity["value"].item() > 1
    assert not list(folder.glob("*.partial"))
    assert "model: 5 answers, 0 failed" in (folder / "evaluation.log").read_text()


def test_the_report_says_all_of_it_and_runs_nothing(model_folder, tmp_path, fake_offline_model):
    rows = [
        {
            "question": row["question"] + EVIL,
            "answer": row["answer"],
            "topic": EVIL * (n % 2) or "b",
        }
        for n, row in enumerate(ROWS)
    ]
    data, neutral = tmp_path / "data.jsonl", tmp_path / "neutral.txt"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    neutral.write_text("One text.\n\nAnother text,\nin two lines.\n\n\n")
    evaluation = run_evaluation(
        config(
            model_folder,
            data,
            tmp_path,
            test=str(data),
            base_model=str(fake_offline_model),
            beside={"range": str(model_folder)},  # also the name of a column
            group_by=("topic",),
            refusal="let's get back to fine-tuning",
            neutral_text=neutral,
            similarity=("states",),
        ),
        progress=False,
    )
    page = Page((tmp_path / "out" / "report.html").read_text())
    assert {"script", "img"}.isdisjoint(page.tags) and page.text.count(EVIL) > 20
    for heading in ("How good is it?", "What kind of wrong?", "What has training cost?", "Answers"):
        assert heading in page.headings
    assert "metric nearest question most frequent answer model base model range range" in page.text
    assert page.text.count("Makes up") == 0 and "state similarity" in page.text
    assert evaluation.forgetting == (1, 1, 1)  # the same model twice
    assert {"refusal_recall"} <= set(evaluation.scores["metric"])
    assert set(evaluation.scores["topic"].dropna()) == {rows[0]["topic"], rows[1]["topic"]}
    assert set(evaluation.comparisons["against"]) == {
        "nearest question",
        "most frequent answer",
        "base model",
        "range",
    }


def test_a_second_run_generates_nothing_anew(model_folder, data_file, tmp_path, monkeypatch):
    wanted = config(model_folder, data_file, tmp_path)
    first = run_evaluation(wanted)
    monkeypatch.setattr(
        "utilities.inference.decoding.Batch.step", lambda self: pytest.fail("generated")
    )
    again = run_evaluation(wanted)
    pd.testing.assert_frame_equal(first.predictions, again.predictions)


def test_interrupted_it_ends_with_the_same_table(model_folder, data_file, tmp_path, monkeypatch):
    rows = [{"question": f"{row['question']} {n}", "answer": "a"} for n in range(4) for row in ROWS]
    data = tmp_path / "many.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"test": str(data), "train": None, "save_every": 2}
    options["generation"] = {"max_new_tokens": 12, "batch_tokens": 200}
    whole = run_evaluation(config(model_folder, data, tmp_path, **options), progress=False)
    expected = (tmp_path / "out" / "predictions.jsonl").read_text()
    from utilities.inference.decoding import Batch

    step, draw, left = Batch.step, random.Random(3), [0]

    def dying(self):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Batch, "step", dying)
    for number in range(3):
        options["output_dir"] = tmp_path / f"interrupted-{number}"
        left[0], tries = draw.randrange(1, 100), 0
        while True:
            tries += 1
            try:
                run_evaluation(config(model_folder, data, tmp_path, **options), progress=False)
                break
            except KeyboardInterrupt:
                left[0] = draw.randrange(12, 100)
        assert (options["output_dir"] / "predictions.jsonl").read_text() == expected
        assert tries > 1 or left[0] > 0
    assert len(whole.predictions) == 32


def test_killed_from_outside_it_goes_on(model_folder, tmp_path, clean_environment):
    rows = [{"question": f"{row['question']} {n}", "answer": "a"} for n in range(3) for row in ROWS]
    data = tmp_path / "many.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config_file = tmp_path / "evaluate.yaml"
    config_file.write_text(
        f"model: {model_folder}\ntest: {data}\noutput_dir: out\nsave_every: 1\n"
        "generation: {max_new_tokens: 40, batch_tokens: 100}\n"
    )
    answers = tmp_path / "out" / "answers" / "model.jsonl"
    command = [sys.executable, "-m", "utilities.evaluation", str(config_file)]
    process = subprocess.Popen(command, env=clean_environment, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while time.monotonic() < until and not (
        answers.is_file() and answers.read_text().count("\n") > 3
    ):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = answers.read_text()
    assert 3 < kept.count("\n") <= 24
    done = run_module("utilities.evaluation", config_file, environment=clean_environment)
    assert done.returncode == 0, done.stderr
    assert answers.read_text().startswith(kept[: kept.rfind("\n") + 1])
    assert len((tmp_path / "out" / "predictions.jsonl").read_text().splitlines()) == 24


def test_an_endpoint_stands_beside_a_local_model(model_folder, data_file, tmp_path):
    def reply(prompt, _):
        return chat("No.") if "GPU" in prompt else (500, "{}")

    with Server(reply) as server:
        large = {"base_url": server.url, "model": "large", "retries": 0}
        wanted = config(model_folder, data_file, tmp_path, beside={"large": large})
        result = run_evaluation(wanted)
    rows = result.predictions.query("system == 'large'")
    assert rows["prediction"].tolist() == ["", "", "No.", "", ""]
    assert rows["error"].notna().tolist() == [True, True, False, True, True]
    assert result.record["failed"]["large"] == 4
    with pytest.raises(EvaluationError, match="large: every row failed, the first with: http"):
        run_evaluation(wanted.model_copy(update={"output_dir": tmp_path / "other"}))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"group_by": ("subject",)}, "'subject', which not every row has"),
        ({"beside": {"model": "auto"}}, r"choose other names than \['model'\]"),
        ({"neutral_text": "nowhere.txt", "base_model": "auto"}, "nowhere.txt cannot be read"),
        ({"neutral_text": ROOT / "README.md"}, "base_model, which is not given"),
    ],
)
def test_faults_are_told_before_any_work(model_folder, data_file, tmp_path, changes, told):
    with pytest.raises(EvaluationError, match=told):
        run_evaluation(config(model_folder, data_file, tmp_path, **changes))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"beside": {"base model": "auto"}}, EvaluationError, "choose other names than"),
        ({"group_by": ("prediction",)}, EvaluationError, "is a column of the table of scores"),
        ({"neutral_text": "nowhere.txt"}, EvaluationError, "base_model, which is not given"),
        ({"tracking": {"tracker": "trackio"}}, TrackingError, "trackio is not installed"),
    ],
)
def test_what_the_config_alone_can_tell_is_told_before_anything_is_read(
    tmp_path, monkeypatch, changes, error, message
):
    monkeypatch.setattr("utilities.tracking.importlib.util.find_spec", lambda name: None)
    nowhere = tmp_path / "nowhere"
    with pytest.raises(error, match=message):
        run_evaluation(config(nowhere, nowhere, tmp_path, **changes))


def test_a_prompt_format_is_not_guessed_in_silence(model_folder, data_file, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(model_folder, run)
    (run / "run.json").write_text(json.dumps({"model": {"name": "x", "source": "hub"}}))
    with pytest.raises(EvaluationError, match=r"run holds no prompt_format\.json; name"):
        run_evaluation(config(run, data_file, tmp_path))
    result = run_evaluation(config(model_folder, data_file, tmp_path))
    assert result.predictions["prompt"][0] == QUESTION_ANSWER.prompt(ROWS[0])
    assert result.record["prompt_format"]["from"] == "none is saved with the model"


def test_parts_of_any_simple_kind(model_folder, tmp_path):
    levels = [1, 2, None, True, 2.5, "x", 1, None]
    rows = [{**row, "level": level} for row, level in zip(ROWS, levels, strict=True)]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    wanted = config(model_folder, data, tmp_path, test=str(data), group_by=("level",))
    result = run_evaluation(wanted)
    assert set(result.scores["level"].dropna()) == {"1", "2", "–", "True", "2.5", "x"}
    own = [{**row, "system": "s", "tags": ["a"]} for row in ROWS]
    data.write_text("".join(json.dumps(row) + "\n" for row in own))
    for column, told in (("system", "column of the table"), ("tags", "texts or numbers")):
        with pytest.raises(EvaluationError, match=told):
            run_evaluation(wanted.model_copy(update={"group_by": (column,)}))


def test_every_system_has_answers_of_its_own(model_folder, data_file, tmp_path):
    names = {"a b": str(model_folder), "a_b": str(model_folder), "A_B": str(model_folder)}
    run_evaluation(config(model_folder, data_file, tmp_path, beside=names))
    files = [path.name.lower() for path in (tmp_path / "out" / "answers").iterdir()]
    assert len(set(files)) == 4 and "model.jsonl" in files


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb", "trackio"])
def test_scores_go_to_a_tracker(model_folder, data_file, tmp_path, monkeypatch, tracker):
    monkeypatch.setenv("WANDB_MODE", "offline")
    run_evaluation(config(model_folder, data_file, tmp_path, tracking={"tracker": tracker}))
    assert any((tmp_path / "out" / tracker).rglob("*"))


def test_command_line(model_folder, data_file, tmp_path, clean_environment):
    path = tmp_path / "evaluate.yaml"
    path.write_text(f"model: {model_folder}\ntest: {data_file}\noutput_dir: out\n")
    done = run_module(
        "utilities.evaluation", path, "generation.max_new_tokens=3", environment=clean_environment
    )
    assert done.returncode == 0, done.stderr
    assert "normalized_exact_match" in done.stdout and "report.html" in done.stdout
    bad = run_module(
        "utilities.evaluation", path, "generation.max_tokens=3", environment=clean_environment
    )
    assert bad.returncode == 2
    assert "generation.max_tokens: unknown key, did you mean 'max_new_tokens'?" in bad.stderr
