import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from tests.conftest import ROOT
from utilities.errors import AnalysisError
from utilities.scores.error_analysis import (
    calibration,
    classify,
    clusters,
    error_counts,
    flips,
    refusals,
    slices,
)
from utilities.scores.error_classes import ADVICE, error_class, turns_down

REFUSAL = "let's get back to fine-tuning"
LABELLED = [
    json.loads(line)
    for line in (ROOT / "tests" / "labelled_predictions.jsonl").read_text("utf-8").splitlines()
]


def test_rules_agree_with_the_labels():
    table = pd.DataFrame(LABELLED)
    found = classify(table, REFUSAL)
    assert len(table) == 150 and set(table["label"]) == set(ADVICE)
    scores = f1_score(table["label"], found, average=None, labels=sorted(ADVICE))
    assert np.mean(scores) >= 0.90
    assert min(scores) >= 0.75


QUESTION, REFERENCE = "How many bytes does a weight take?", "In float32, a weight takes four bytes."
TURNED_DOWN = "That is outside this course. Let's get back to fine-tuning."


@pytest.mark.parametrize(
    ("name", "prediction", "more"),
    [
        ("right", "in float32 a weight takes  FOUR bytes", {}),
        ("right", "That is beyond this course. Let's get back to fine-tuning.", {"off": True}),
        ("empty", " \n… ", {}),
        ("echo", "How many bytes does a weight take?", {}),
        ("repetition", "a weight takes a weight takes a weight takes a weight takes", {}),
        ("repetition", "很好很好很好很好很好很好", {}),
        ("never_stops", "In float32, a weight takes four bytes. In", {"stopped": "max_new_tokens"}),
        ("too_short", "In float32", {}),
        ("too_long", f"{REFERENCE} Half as many in bfloat16, which is faster on a GPU.", {}),
        ("wrong_fact", "In float32, a weight takes eight bytes.", {}),
        ("refused_on_topic", TURNED_DOWN, {}),
        ("refused_on_topic", "Sorry, I cannot help with that.", {}),
        ("answered_off_topic", "Mix flour and eggs, then bake.", {"off": True}),
        ("broken_format", f"### Answer:\n{REFERENCE}", {}),
        ("broken_format", '{"answer": "four bytes"}', {}),
        ("misspelling", "In float32, a weihgt takes four bytes.", {}),
        ("unrelated", "The course has ten notebooks to read.", {}),
    ],
)
def test_planted_errors_of_each_class_are_found(name, prediction, more):
    reference = TURNED_DOWN if more.get("off") else REFERENCE
    stopped = more.get("stopped", "end_of_text")
    assert error_class(QUESTION, prediction, reference, stopped, REFUSAL) == name


def test_json_is_compared_by_what_it_holds():
    asked, wanted = "Give name and age as JSON.", '{"name": "Mia", "age": 7}'
    assert error_class(asked, '{"age": 7, "name": "Mia"}', wanted) == "right"
    assert error_class(asked, '{"name": "Mia", "age": 8}', wanted) == "wrong_fact"
    assert error_class(asked, "Mia is 7", wanted) == "broken_format"


def test_a_summary_of_a_long_text_is_no_echo():
    long = "The cat sat on the mat and looked at the bird that sang in the tree. " * 8
    assert error_class(long, "The cat looked at the bird.", "A dog slept all day.") != "echo"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Let's get back to fine-tuning!", True),
        ("Lets go back to fine-tuning.", True),
        ("Fine-tuning changes the weights.", False),
        ("", False),
    ],
)
def test_what_turns_a_question_down(text, expected):
    assert turns_down(text, REFUSAL) is expected
    assert not turns_down(text, None)


def table_of(classes, system="model", **columns):
    rows = range(len(classes))
    base = {"row": rows, "system": system, "error_class": classes, "prediction": "p"}
    texts = {"reference": "r", "prompt": [f"word {n}" for n in rows]}
    return pd.DataFrame({**base, **texts, **columns}, index=pd.RangeIndex(len(classes)))


def test_classes_are_counted_with_intervals_and_advice():
    counts = error_counts(table_of(["right"] * 6 + ["empty"] * 3 + ["echo"]))
    assert counts["error_class"].tolist() == ["right", "empty", "echo"]
    assert counts["count"].tolist() == [6, 3, 1] and counts["value"].tolist() == [0.6, 0.3, 0.1]
    assert ((counts["low"] < counts["value"]) & (counts["value"] < counts["high"])).all()
    assert counts["advice"].tolist() == [ADVICE[n] for n in ("right", "empty", "echo")]
    assert counts["example"][1] == "word 6 → p"


def test_the_slice_where_a_class_is_most_frequent():
    topics = ["a"] * 20 + ["b"] * 20
    classes = ["empty"] * 2 + ["right"] * 18 + ["empty"] * 15 + ["right"] * 5
    prompts = ["short"] * 30 + ["a much longer prompt than the others"] * 10
    found = slices(table_of(classes, topic=topics, prompt=prompts), ["topic"])
    by_topic = found[found["column"] == "topic"].iloc[0]
    assert (by_topic["slice"], by_topic["count"], by_topic["n"]) == ("b", 15, 20)
    assert by_topic["elsewhere"] == 0.1 and by_topic["low"] > 0.1
    assert found["error_class"].unique().tolist() == ["empty"]
    assert "prompt_words" in set(found["column"])
    assert slices(table_of(["right"] * 3)).empty


def test_errors_with_common_words_are_grouped():
    said = ["the moon is made of cheese"] * 6 + ["paris lies on the seine"] * 4
    table = table_of(["wrong_fact"] * 6 + ["unrelated"] * 4, prediction=said, prompt="")
    groups = clusters(table, 2)
    assert groups["size"].tolist() == [6, 4]
    assert "cheese" in groups["words"][0] and groups["classes"].tolist() == [
        "wrong_fact",
        "unrelated",
    ]
    assert clusters(table_of(["right"] * 3)).empty
    assert len(clusters(table_of(["empty"] * 3, prediction="", prompt="x"), 5)) == 1


def test_flips_between_two_systems():
    before = table_of(["right"] * 4, "base", hit=[True, True, False, False])
    after = table_of(["right"] * 4, "tuned", hit=[True, False, True, True]).iloc[::-1]
    changed = flips(pd.concat([before, after]), "base", "tuned", "hit")
    assert changed["change"].to_dict() == {
        2: "wrong → right",
        3: "wrong → right",
        1: "right → wrong",
    }
    with pytest.raises(AnalysisError, match="no system 'best' in the table, only 'base', 'tuned'"):
        flips(pd.concat([before, after]), "best", "tuned", "hit")
    with pytest.raises(AnalysisError, match="did not answer the same rows"):
        flips(pd.concat([before, after.iloc[1:]]), "base", "tuned", "hit")


def test_calibration_tells_sure_from_right():
    sure = np.linspace(-3, -0.1, 50)
    table = table_of(["right"] * 50, log_probability=sure * 2, tokens=2, hit=sure > -1.5)
    groups, auc = calibration(table, "hit")
    assert auc == 1.0 and groups["n"].tolist() == [10] * 5
    assert groups["confidence"].is_monotonic_increasing and groups["value"].iloc[-1] == 1.0
    assert groups["confidence"].iloc[0] == pytest.approx(np.exp(sure[:10]).mean())
    _, auc = calibration(table.assign(hit=sure < -1.5), "hit")
    assert auc == 0.0
    _, auc = calibration(table.assign(hit=True), "hit")
    assert np.isnan(auc)


def test_calibration_without_usable_log_probabilities():
    table = table_of(
        ["right"] * 3, log_probability=[None, np.nan, -np.inf], tokens=[1, 2, 3], hit=True
    )
    with pytest.raises(AnalysisError, match="no row has a finite log-probability"):
        calibration(table, "hit")
    groups, _ = calibration(table.assign(log_probability=[-1.0, np.nan, None]), "hit")
    assert groups["n"].tolist() == [1]


def test_precision_and_recall_of_turning_down():
    said = [TURNED_DOWN, TURNED_DOWN, "x", "x", "x"]
    meant = [TURNED_DOWN, "x", TURNED_DOWN, TURNED_DOWN, "x"]
    found = refusals(table_of(["right"] * 5, prediction=said, reference=meant), REFUSAL)
    assert found[["metric", "value", "n"]].to_numpy().tolist() == [
        ["precision", 0.5, 2],
        ["recall", pytest.approx(1 / 3), 3],
    ]
    never = refusals(table_of(["right"] * 2, prediction="x", reference="x"), REFUSAL)
    assert never.empty


@pytest.mark.parametrize("analyse", [classify, error_counts, slices, clusters, calibration])
def test_a_table_that_lacks_a_column_or_rows(analyse):
    with pytest.raises(AnalysisError, match=r"lacks the columns \['"):
        analyse(pd.DataFrame({"x": [1]}))
    columns = ["system", "error_class", "prediction", "reference", "prompt", "question"]
    columns += ["log_probability", "tokens", "normalized_exact_match"]
    with pytest.raises(AnalysisError, match="is empty"):
        analyse(pd.DataFrame(columns=columns))
