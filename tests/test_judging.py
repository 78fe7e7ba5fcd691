"""Judging: what a judge is asked and how it is read, sheets for people."""

import csv
import math
import re
import tempfile
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from pydantic import ValidationError
from sklearn.metrics import cohen_kappa_score

from utilities.errors import JudgingError, LabError
from utilities.evaluation import judging, ratings
from utilities.evaluation.judging import PairRubric, Rubric
from utilities.inference.answers import Answer


class Judge:
    """Replies what a function makes of the prompt, in no order; an Answer is passed on."""

    def __init__(self, reply):
        self.reply, self.prompts = reply, []

    def answers(self, prompts, settings, skip=()):
        self.prompts += prompts
        for place in reversed(range(len(prompts))):
            reply = self.reply(prompts[place])
            yield place, reply if isinstance(reply, Answer) else Answer(reply, "end_of_text")


def table_of(predictions, system="tuned"):
    rows = [
        {"row": n, "system": system, "question": f"q{n}", "reference": f"r{n}", "prediction": text}
        for n, text in enumerate(predictions)
    ]
    return pd.DataFrame(rows)


BOTH = pd.concat([table_of(["r0", "x", "no"], "one"), table_of(["y", "r1", "no"], "two")])


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        ("4", 4),
        ("Rating: 4", 4),
        ("4.5, because it is nearly right", 4.5),
        ("**Rating:** **4**/5", 4),
        ("4 out of 5", 4),
        ("One fact of 3 is missing, so my rating is 4.", 4),
        ("Rating (1 to 5): 2", 2),
        ("On a scale of 1 to 5 it is a 3.", 3),
        ("4\n- 2 facts are right\n\n### Question:\nRating: 1", 4),
        ("", None),
        ("good", None),
        ("1 to 5", None),
        ("7", None),
        ("0", None),
        ("-3", None),
        ("45", None),
        ("80%", None),
        ("The answer has 2 facts, the reference 3", None),
        ("Rating: 10. Or 4?", None),
    ],
)
def test_ratings_are_read_from_replies(reply, rating):
    judged = judging.judge(Judge(lambda _: reply), table_of(["x"]))
    found, why = judged["rating"][0], judged["judge_error"][0]
    if rating is None:
        assert math.isnan(found) and why == f"no rating from 1 to 5 in: {reply!r}"
    else:
        assert found == rating and why is None
    assert judged["judgement"][0] == reply


def test_a_template_that_does_not_lead_needs_the_word_or_a_sole_number():
    rubric = Rubric(template="{prediction}?", scale=(0, 10))
    replies = {"a?": "3 facts. Rating: 7", "b?": "3 or 4", "c?": "It is worth 9/10", "d?": "11"}
    judged = judging.judge(Judge(replies.get), table_of(list("abcd")), rubric)
    assert judged["rating"].tolist()[::2] == [7, 9]
    assert judged["rating"].isna().tolist() == [False, True, False, True]


def test_a_judge_sees_everything_and_failing_rows_stay():
    failed = Answer("", "error", error="server: busy")
    judge = Judge(lambda prompt: failed if "q1" in prompt else "Rating: 5")
    table = table_of(["{x}", "y", "z"]).set_index(pd.Index([7, 3, 3]))
    judged = judging.judge(judge, table, Rubric(criteria="Be kind."))
    for text in ("from 1 (worst) to 5 (best). Be kind.", "q0", "r0", "{x}"):
        assert text in judge.prompts[0]
    assert judge.prompts[0].endswith("\n\nRating:")
    assert judged["rating"].fillna(-1).tolist() == [5, -1, 5]
    assert judged["judge_error"].tolist() == [None, "server: busy", None]
    assert judged.index.tolist() == [7, 3, 3]
    assert judged[list(table)].equals(table)
    assert "rating" not in table

    judging.judge(judge, table.rename(columns={"question": "prompt"}))
    assert "q2" in judge.prompts[-1]
    judging.judge(judge, table.assign(question=[None, "q", "q"], prompt=["p0", "p1", "p2"]))
    assert "p2" in judge.prompts[-1]
    with pytest.raises(JudgingError, match=re.escape("lacks the columns ['prompt']")):
        judging.judge(judge, table.assign(question=["q", None, "q"]))  # as if it had no question
    with pytest.raises(JudgingError, match=re.escape("lacks the columns ['reference']")):
        judging.judge(judge, table.drop(columns="reference"))
    with pytest.raises(JudgingError, match="empty"):
        judging.judge(judge, table[:0])


@pytest.mark.parametrize(
    ("model", "wrong", "told"),
    [
        (Rubric, {"template": "{predicton}"}, r"\{predicton\}, did you mean 'prediction'\?"),
        (Rubric, {"template": "{prediction} {}"}, r"unknown template field \{\}"),
        (Rubric, {"template": "{question}"}, r"lacks the field \{prediction\}"),
        (Rubric, {"template": "{prediction} }"}, "Single '}'"),
        (Rubric, {"scale": (5, 1)}, r"got \(5, 1\)"),
        (Rubric, {"scales": (1, 5)}, "scales"),
        (PairRubric, {"template": "{a}"}, r"lacks the field \{b\}"),
        (PairRubric, {"template": "{a} {b} {prediction}"}, r"unknown template field"),
    ],
)
def test_rubrics_that_cannot_work_are_refused(model, wrong, told):
    with pytest.raises(ValidationError, match=told):
        model(**wrong)


def better(prompt):
    """Judge as the reference says: the answer `rN` is right."""
    _, reference, a, b = re.findall(r"### [\w ]+:\n(\w+)", prompt)
    return "tie" if (a == reference) == (b == reference) else "Verdict: " + "BA"[a == reference]


def test_a_perfect_judge_names_the_right_answer_in_both_orders():
    pairs = judging.judge_pairs(Judge(better), BOTH.sample(frac=1, random_state=1), "one", "two")
    assert pairs["row"].tolist() == [0, 1, 2] and pairs["row"].dtype == BOTH["row"].dtype
    assert pairs["winner"].tolist() == ["one", "two", "tie"]
    assert pairs["as_shown"].tolist() == ["A", "B", "tie"]
    assert pairs["swapped"].tolist() == ["B", "A", "tie"]
    assert pairs["judge_error"].tolist() == [None] * 3
    bias = judging.position_bias(pairs)
    assert (bias.first_shown.value, bias.consistent.value) == (0.5, 1.0)


def test_a_judge_that_always_says_a_finds_ties_only():
    pairs = judging.judge_pairs(Judge(lambda _: "[[A]]"), BOTH, "one", "two")
    assert pairs["winner"].tolist() == ["tie"] * 3
    bias = judging.position_bias(pairs)
    assert bias.first_shown.value == 1.0 and bias.first_shown.low > 0.5
    assert bias.consistent.value == 0.0


def test_one_tie_and_one_verdict_disagree():
    judge = Judge(lambda prompt: "A" if "Answer A:\nr0" in prompt else "tie")
    pairs = judging.judge_pairs(judge, BOTH[BOTH["row"] == 0], "one", "two")
    assert pairs[["as_shown", "swapped", "winner"]].to_numpy().tolist() == [["A", "tie", "tie"]]
    assert judging.position_bias(pairs).consistent.value == 0


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("B", "B"),
        ("Verdict: A. B lacks the fact.", "A"),
        ("A is a better answer than B", "A"),
        ("The answer that says more is B", "B"),
        ("Tie.", "tie"),
        ("It is a tie", "tie"),
        ("I cannot say whether A or B", None),
        ("both", None),
        ("", None),
    ],
)
def test_verdicts_are_read_from_replies(reply, verdict):
    pairs = judging.judge_pairs(Judge(lambda _: reply), BOTH, "one", "two")
    assert pairs["as_shown"].tolist() == pairs["swapped"].tolist() == [verdict] * 3
    if verdict is None:
        assert pairs["winner"].tolist() == [None] * 3
        assert f"no verdict in: {reply!r}" in pairs["judge_error"][0]
        with pytest.raises(JudgingError, match="no pair has two verdicts"):
            judging.position_bias(pairs)


def test_a_pair_that_fails_in_one_order_has_no_winner():
    failed = Answer("", "error", error="busy")
    judge = Judge(lambda prompt: failed if "Answer A:\ny" in prompt else better(prompt))
    pairs = judging.judge_pairs(judge, BOTH, "one", "two")
    assert pairs["winner"].tolist() == [None, "two", "tie"]
    assert pairs["judge_error"].tolist() == ["busy", None, None]
    assert pairs["as_shown"].tolist() == ["A", "B", "tie"]
    bias = judging.position_bias(pairs)
    assert bias.first_shown.value == pytest.approx(2 / 3)  # A, then B and A
    assert bias.consistent.value == 1.0
    with pytest.raises(LabError, match="no system 'three'"):
        judging.judge_pairs(judge, BOTH, "one", "three")


def test_only_ties_say_nothing_on_the_order():
    pairs = judging.judge_pairs(Judge(lambda _: "tie"), BOTH, "one", "two")
    bias = judging.position_bias(pairs)
    assert math.isnan(bias.first_shown.value) and bias.consistent.value == 1.0


def test_agreement_by_hand():
    # Off by one in one of four; by chance: var 2.75 + var 2.1875 + (3.5 - 3.25)² = 5.
    found = judging.agreement([1, 3, 5, 5, math.nan, 2], [1, 3, 5, 4, 3, None])
    assert found.n == 4 and found.equal.value == 0.75
    assert found.kappa.value == pytest.approx(1 - 0.25 / 5)
    assert found.kappa.low <= found.kappa.value <= found.kappa.high
    assert found.spearman == pytest.approx(0.9487, abs=1e-4)  # ranks 1 2 3.5 3.5, 1 2 4 3


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=2, max_size=30))
@settings(max_examples=40, deadline=None)
def test_kappa_is_that_of_scikit_learn(ratings):
    judge, people = zip(*ratings, strict=True)
    found = judging.agreement(judge, people)
    if len({*judge, *people}) == 1:
        assert math.isnan(found.kappa.value) and math.isnan(found.kappa.low)
    else:
        expected = cohen_kappa_score(judge, people, weights="quadratic", labels=range(1, 6))
        assert found.kappa.value == pytest.approx(expected)
        assert -1 - 1e-9 <= found.kappa.low <= found.kappa.value <= found.kappa.high <= 1 + 1e-9
    is_constant = min(len(set(judge)), len(set(people))) == 1
    assert math.isnan(found.spearman) == is_constant


def test_raters_without_anything_in_common_are_told():
    with pytest.raises(JudgingError, match="rated by both"):
        judging.agreement([1, math.nan], [math.nan, 2])
    with pytest.raises(JudgingError, match="got 1 and 2"):
        judging.agreement([1], [1, 2])


def fill(path, ratings, notes=()):
    """Fill in a sheet as a spreadsheet does: {id: rating}."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = list(csv.DictReader(file))
    for line in lines:
        line["rating"] = ratings.get(line["id"], "")
        line["note"] = dict(notes).get(line["id"], "")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return lines


NASTY = st.text(st.sampled_from("ab'=+-@\t\r\n\",;é\N{SNOWMAN}\0 "), max_size=8)


@given(st.lists(NASTY, min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_a_sheet_keeps_every_text_and_holds_no_formula(texts):
    with tempfile.TemporaryDirectory() as folder:
        table = table_of(texts)
        path = ratings.rating_sheet(table, Path(folder) / "sheet.csv")
        with path.open(encoding="utf-8-sig", newline="") as file:
            raw = list(csv.DictReader(file))
        assert all(line["prediction"][:1] not in tuple("=+-@\t\r") for line in raw)
        kept = {line["reference"]: line["prediction"] for line in ratings._read(path)}
        assert kept == dict(zip(table["reference"], texts, strict=True))
        fill(path, {line["id"]: str(1 + int(line["reference"][1:])) for line in raw})
        found = ratings.read_ratings(path)
        assert dict(zip(found["row"], found["rating"], strict=True)) == {
            n: n + 1 for n in range(len(texts))
        }


def test_a_sheet_hides_the_systems_and_its_order_depends_on_the_seed(tmp_path):
    path = ratings.rating_sheet(BOTH, tmp_path / "new" / "sheet.csv")
    content = path.read_text(encoding="utf-8-sig")
    assert content.startswith("id,question,reference,prediction,rating,note")
    assert "one" not in content and "two" not in content
    assert path.with_name("sheet.key.csv").exists()
    ratings.rating_sheet(BOTH, path)
    assert path.read_text(encoding="utf-8-sig") == content
    ratings.rating_sheet(BOTH, path, seed=1)
    assert path.read_text(encoding="utf-8-sig") != content

    (first, *_) = fill(path, {"1": "4.0"}, {"1": "nice, but…"})
    found = ratings.read_ratings(path)
    (line,) = found.to_dict("records")
    asked = BOTH[(BOTH["row"] == line["row"]) & (BOTH["system"] == line["system"])]
    assert asked["prediction"].tolist() == [first["prediction"]]
    assert (line["rating"], line["note"]) == (4.0, "nice, but…")
    before = path.read_bytes()
    with pytest.raises(JudgingError, match="has ratings in it"):
        ratings.rating_sheet(BOTH, path)
    assert path.read_bytes() == before


def test_sheets_of_other_kinds_are_not_overwritten(tmp_path):
    other = tmp_path / "mine.csv"
    other.write_text("a,b\n1,2\n")
    with pytest.raises(JudgingError, match="is not a sheet with the columns id, rating, note"):
        ratings.rating_sheet(BOTH, other)
    assert other.read_text() == "a,b\n1,2\n"


def test_wrong_ratings_are_told_together(tmp_path):
    path = ratings.rating_sheet(BOTH, tmp_path / "sheet.csv")
    fill(path, {"1": "6", "2": "good", "3": "nan", "4": " 5 "})
    with pytest.raises(JudgingError) as caught:
        ratings.read_ratings(path)
    wrong = "is not a rating from 1 to 5"
    faults = f"line 2: '6' {wrong}; line 3: 'good' {wrong}; line 4: 'nan'"
    assert f"{path}: {faults}" in str(caught.value) and "line 5" not in str(caught.value)
    assert len(ratings.read_ratings(path.with_name(fill_well(path)))) == 1

    path.write_text("id,rating,note\n1,3,\n1,4,\n99,4,\n")
    with pytest.raises(JudgingError, match=r"line 3: the id '1' .* line 4: the id '99'"):
        ratings.read_ratings(path)
    path.with_name("sheet.key.csv").unlink()
    with pytest.raises(JudgingError, match=r"sheet\.key\.csv does not exist"):
        ratings.read_ratings(path)


def fill_well(path):
    fill(path, {"4": "5"})
    return path.name


def test_sheets_come_back_from_spreadsheets(tmp_path):
    path = ratings.rating_sheet(BOTH, tmp_path / "sheet.csv")
    path.write_text('"id";"rating";"note"\r\n"2";3;"a;b"\r\n;;\r\n', encoding="utf-8-sig")
    assert ratings.read_ratings(path)[["rating", "note"]].to_numpy().tolist() == [[3.0, "a;b"]]
    path.write_bytes("id,rating,note\n2,3,é\n".encode("cp1252"))
    with pytest.raises(JudgingError, match="not in UTF-8"):
        ratings.read_ratings(path)


def test_ratings_by_clicks(tmp_path, monkeypatch):
    monkeypatch.setattr(ratings, "is_interactive", lambda: True)
    path, table = tmp_path / "sheet.csv", table_of(["=<u>1", "=<u>2", "=<u>3"])
    box = ratings.rating_widget(table, path, scale=(1, 3))
    shown, note, row = box.children
    *numbers, back = row.children
    assert [button.description for button in numbers] == ["1", "2", "3"]
    order = [line["prediction"] for line in ratings._read(path)]

    assert "1 of 3" in shown.value
    note.value = "=why?"
    numbers[2].click()
    assert ratings.read_ratings(path, (1, 3))[["rating", "note"]].to_numpy().tolist() == [
        [3.0, "=why?"]
    ]
    assert "2 of 3" in shown.value and note.value == ""
    back.click()
    assert "1 of 3, rated 3" in shown.value and note.value == "=why?"
    numbers[0].click()
    assert ratings.read_ratings(path, (1, 3))["rating"].tolist() == [1.0]

    again = ratings.rating_widget(table, path, scale=(1, 3))  # goes on where it was
    shown, note, row = again.children
    assert "2 of 3" in shown.value
    assert f"<br>{order[1].replace('<u>', '&lt;u&gt;')}</p>" in shown.value  # as it was written
    row.children[1].click()
    row.children[1].click()
    assert "All 3 answers are rated" in shown.value and row.children[1].disabled
    found = ratings.read_ratings(path, (1, 3))
    by_text = dict(zip(table["row"], table["prediction"], strict=True))
    assert [by_text[n] for n in found["row"]] == order
    assert found["rating"].tolist() == [1, 2, 2]
    row.children[-1].click()
    assert "3 of 3, rated 2" in shown.value and not row.children[1].disabled
    path.unlink()
    row.children[0].click()
    assert "not saved" in shown.value and "does not exist" in shown.value


def test_without_buttons_the_sheet_is_left_to_fill_in(tmp_path, monkeypatch, capsys):
    path = tmp_path / "sheet.csv"
    assert ratings.rating_widget(BOTH, path) == path
    assert "because nobody can click here" in capsys.readouterr().out
    fill(path, {"1": "4"})
    monkeypatch.setattr(ratings.importlib.util, "find_spec", lambda _: None)
    assert ratings.rating_widget(BOTH, str(path)) == path
    assert "because ipywidgets is not installed" in capsys.readouterr().out
    assert len(ratings.read_ratings(path)) == 1
    with pytest.raises(JudgingError, match="a sheet of other answers"):
        ratings.rating_widget(table_of(["x"]), path)
