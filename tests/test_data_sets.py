"""The bundled sets beside the course assistant's: schema, counts, duplicates, giveaways."""

import csv
import hashlib
import json
import re
from collections import Counter

import numpy as np
import pytest
from rapidfuzz import fuzz, process

from tests.conftest import ROOT
from utilities.prompts.built_in import ALPACA, QUESTION_ANSWER, USER_ASSISTANT
from utilities.rows.sources import raw_rows, read_rows
from utilities.scores.metrics import normalize

DATA = ROOT / "data"
README = (DATA / "README.md").read_text(encoding="utf-8")


def dialogues(split):
    return read_rows(DATA / "dialogues" / f"{split}.jsonl", USER_ASSISTANT)


def instructions():
    return read_rows(DATA / "instructions" / "instructions.jsonl", ALPACA)


def science():
    return [row.values for row in raw_rows(DATA / "science_questions" / "test.jsonl")]


def general():
    return json.loads((DATA / "question_answer.json").read_text(encoding="utf-8"))


def course(split):
    return read_rows(DATA / "course_assistant" / f"{split}.jsonl", QUESTION_ANSWER)


TEXTS = {
    "course_assistant": lambda: [
        row["question"] for split in ("train", "validation", "test") for row in course(split)
    ],
    "instructions": lambda: [f"{row['instruction']} {row['input']}" for row in instructions()],
    "dialogues": lambda: [
        row["input"] for split in ("train", "validation", "test") for row in dialogues(split)
    ],
    "science_questions": lambda: [row["question"] for row in science()],
    "question_answer": lambda: [row["Question"] for rows in general().values() for row in rows],
}


def similarity(some, others):
    """Token-set similarity of normalized texts, 0 to 100, as a matrix."""
    return process.cdist(
        [normalize(text) for text in some],
        [normalize(text) for text in others],
        scorer=fuzz.token_set_ratio,
    )


@pytest.mark.parametrize("name", [name for name in TEXTS if name != "course_assistant"])
def test_no_near_duplicates(name):
    texts = TEXTS[name]()
    matrix = similarity(texts, texts)
    np.fill_diagonal(matrix, 0)
    first, second = np.unravel_index(matrix.argmax(), matrix.shape)
    assert matrix.max() < 90, (texts[first], texts[second])


def test_near_duplicates_of_the_course_assistant_are_wordings_of_one_fact():
    rows = [row for split in ("train", "validation", "test") for row in course(split)]
    questions = [row["question"] for row in rows]
    alike = np.argwhere(np.triu(similarity(questions, questions), 1) >= 90)
    for first, second in alike:
        pair = (questions[first], questions[second])
        assert rows[first]["fact_id"] == rows[second]["fact_id"] != "off_topic", pair


@pytest.mark.parametrize("name", ["course_assistant", "question_answer"])
def test_no_test_question_is_near_a_training_question(name):
    if name == "course_assistant":
        train, test = ([row["question"] for row in course(s)] for s in ("train", "test"))
    else:
        train, test = ([row["Question"] for row in general()[s]] for s in ("train", "test"))
    matrix = similarity(test, train)
    first, second = np.unravel_index(matrix.argmax(), matrix.shape)
    assert matrix.max() < 80, (test[first], train[second])


@pytest.mark.parametrize("name", TEXTS)
def test_openings_vary_and_the_table_says_so(name):
    texts = [text.split(": ", 1)[-1] if name == "dialogues" else text for text in TEXTS[name]()]
    openings = Counter(" ".join(normalize(text).split()[:3]) for text in texts)
    opening, count = openings.most_common(1)[0]
    assert count <= 0.08 * len(texts)
    four_grams = Counter(
        tuple(words[i : i + 4])
        for words in (normalize(text).split() for text in texts)
        for i in range(len(words) - 3)
    )
    distinct = len(four_grams) / sum(four_grams.values())
    row = f"| `{name}` | {len(texts)} | {opening} | {count / len(texts):.1%} | {distinct:.0%} |"
    assert row in README, row


@pytest.mark.parametrize("name", TEXTS)
def test_text_is_clean(name):
    for text in TEXTS[name]():
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
        assert not re.search(r"\S+@\S+\.\w+|\+?\d[\d -]{8,}\d|https?://", text), text
        assert not re.search(r"\b(colour|favourite|organise|centre|licence|metre)s?\b", text), text


def test_instructions():
    rows = instructions()
    assert all(list(row) == ["instruction", "input", "output", "kind"] for row in rows)
    kinds = Counter(row["kind"] for row in rows)
    assert len(rows) >= 250 and len(kinds) == 10 and min(kinds.values()) >= 24
    assert sum(bool(row["input"]) for row in rows) >= len(rows) / 3
    assert all(row["input"] for row in rows if row["kind"] in {"extract", "classify"})
    assert len({(row["instruction"], row["input"]) for row in rows}) == len(rows)


def test_code_in_instructions_is_python():
    for row in instructions():
        if row["kind"] == "code" and not row["input"]:
            compile(row["output"], row["instruction"], "exec")


def test_dialogues():
    splits = {name: dialogues(name) for name in ("train", "validation", "test")}
    rows = [row for split in splits.values() for row in split]
    assert len(rows) >= 400 and len(splits["test"]) >= 60
    for row in rows:
        lines = row["input"].splitlines()
        assert 3 <= len(lines) <= 10 and all(re.match(r"[\w .'-]+: \S", line) for line in lines)
        assert 8 <= len(row["response"].split()) <= 34
        assert len(re.findall(r"[.!?](?=\s|$)", row["response"])) <= 3
    with_contexts = [row for row in rows if "contexts" in row]
    assert len(with_contexts) >= 60
    assert all(row["contexts"] and all(map(str.strip, row["contexts"])) for row in with_contexts)
    assert sum("contexts" in row for row in splits["test"]) >= 10


def test_science_questions():
    rows = science()
    assert len(rows) >= 320 and len({row["id"] for row in rows}) == len(rows)
    positions = Counter(row["answerKey"] for row in rows)
    assert set(positions) == set("ABCD")
    assert max(positions.values()) - min(positions.values()) <= 1
    for row in rows:
        choices = row["choices"]
        assert choices["label"] == list("ABCD")
        assert len({normalize(text) for text in choices["text"]}) == 4, row["id"]


def guesser_share(score):
    """The share of right answers of one who takes the highest score, ties shared evenly."""
    hits = 0.0
    for row in science():
        scores = [score(row["question"], text) for text in row["choices"]["text"]]
        best = [label for label, s in zip("ABCD", scores, strict=True) if s == max(scores)]
        hits += (row["answerKey"] in best) / len(best)
    return hits / len(science())


def overlap(question, choice):
    return len(set(normalize(question).split()) & set(normalize(choice).split()))


@pytest.mark.parametrize(
    "score",
    [
        lambda _, choice: len(choice),
        lambda _, choice: -len(choice),
        overlap,
        lambda question, choice: -overlap(question, choice),
    ],
    ids=["longest", "shortest", "most shared words", "fewest shared words"],
)
def test_no_answer_is_given_away(score):
    assert guesser_share(score) < 0.35


def test_general_questions():
    splits = general()
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 120, "test": 30}
    for row in (row for rows in splits.values() for row in rows):
        assert list(row) == ["Question", "Answer"]
        assert 1 <= len(row["Answer"].split()) <= 8


def test_published_arc_figures():
    with (DATA / "pythia_arc.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["task"] for row in rows} == {"arc_easy", "arc_challenge"}
    for row in rows:
        assert all(0 < float(row[key]) < 1 for key in ("acc", "acc_norm"))
    final = {
        row["model"]: float(row["acc"])
        for row in rows
        if row["task"] == "arc_easy" and row["step"] == "143000"
    }
    assert final["pythia-70m"] == pytest.approx(0.374, abs=0.001)
    assert final["pythia-12b"] > final["pythia-410m"] > final["pythia-70m"]
    assert any(row["model"] == "pythia-70m" and row["step"] == "0" for row in rows)


def test_checksums_in_the_readme():
    files = [path for path in DATA.rglob("*") if path.suffix in {".jsonl", ".json", ".csv"}]
    assert len(files) == 11
    for path in files:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        rows = len(path.read_text(encoding="utf-8").splitlines()) if path.suffix != ".json" else 150
        rows -= path.suffix == ".csv"
        line = f"| `{path.relative_to(DATA).as_posix()}` | {rows} | `{digest}` |"
        assert line in README, line
