import json

import pandas as pd
import pytest

from tests.conftest import ROWS
from utilities.evaluation import (
    EvaluationConfig,
    EvaluationError,
    nearest_question_answers,
    prediction_table,
    run_evaluation,
    score,
)
from utilities.prompts import QUESTION_ANSWER


def table(predictions, system="model", **options):
    rows = [{**row, "kind": "a" if index < 4 else "b"} for index, row in enumerate(ROWS)]
    return prediction_table(rows, predictions, QUESTION_ANSWER, system, **options)


def test_table_puts_predictions_beside_references():
    right = [row["answer"] for row in ROWS]
    predictions = [right[0].upper(), *right[1:7], "wrong"]
    result = table(predictions, refusal="LET'S GET BACK")
    assert result["prediction"].tolist() == predictions
    assert result["reference"].tolist() == right
    assert result["exact_match"].tolist() == [False] + [True] * 6 + [False]
    assert result["normalized_exact_match"].tolist() == [True] * 7 + [False]
    assert result["turned_down"].tolist() == [False] * 4 + [True] + [False] * 3
    assert result["prompt"][0] == QUESTION_ANSWER.prompt(ROWS[0])


def test_scores_by_group_with_intervals():
    right = [row["answer"] for row in ROWS]
    both = pd.concat([table(right, "good"), table(["x"] * 8, "bad")])
    scores = score(both, ["system", "kind"])
    assert len(scores) == 8
    cell = scores.set_index(["system", "kind", "metric"]).loc[("good", "a", "exact_match")]
    assert (cell["value"], cell["n"], cell["high"]) == (1.0, 4, 1.0)
    assert 0 < cell["low"] < 0.6


def test_bad_tables_are_refused():
    with pytest.raises(EvaluationError, match="found 2 for 8 rows"):
        table(["a", "b"])
    with pytest.raises(EvaluationError, match="found 0 for 0"):
        prediction_table([], [], QUESTION_ANSWER, "x")
    with pytest.raises(EvaluationError, match=r"lacks the columns.*'topic'"):
        score(table(["a"] * 8), ["topic"])


def test_nearest_question_looks_up_the_most_similar_one():
    asked = [{"question": "what's an epoch"}, {"question": "do i need a gpu?"}]
    assert nearest_question_answers(ROWS, asked, QUESTION_ANSWER) == [
        "One pass over the rows.",
        "No.",
    ]


def config(model_folder, data_file, tmp_path, **changes):
    values = {
        "model": str(model_folder),
        "test": {"kwargs": {"path": str(data_file)}, "limit": 5},
        "train": str(data_file),
        "output_dir": tmp_path / "out",
        "max_new_tokens": 5,
    }
    return EvaluationConfig(**{**values, **changes})


def test_run_writes_predictions_and_scores(model_folder, data_file, tmp_path):
    result, scores = run_evaluation(config(model_folder, data_file, tmp_path))
    written = pd.read_json(tmp_path / "out" / "predictions.jsonl", lines=True)
    assert written["prediction"].tolist() == result["prediction"].tolist()
    assert written["system"].tolist() == ["nearest question"] * 5 + ["model"] * 5
    report = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert report["models"]["model"]["name"] == "pythia-tiny"
    assert len(report["scores"]) == len(scores) == 4
    # every test question is its own nearest training question here
    assert scores.query("system == 'nearest question'")["value"].tolist() == [1.0, 1.0]
    assert not list((tmp_path / "out").glob("*.partial"))


def test_group_by_must_be_a_column(model_folder, data_file, tmp_path):
    with pytest.raises(EvaluationError, match="'subject', which not every row has"):
        run_evaluation(config(model_folder, data_file, tmp_path, group_by=("subject",)))
    assert not (tmp_path / "out").exists()
