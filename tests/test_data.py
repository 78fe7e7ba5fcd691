"""The bundled data: schema, splits, and that what it says about the project is true."""

import json
import os
import re
import tomllib
from collections import Counter
from typing import get_args

import pytest
from rapidfuzz import fuzz, process

from tests.conftest import ROOT
from utilities import models
from utilities.config import Profile
from utilities.devices import PrecisionChoice
from utilities.errors import DataError
from utilities.evaluation.settings import EvaluationConfig
from utilities.inference.generation import Generation
from utilities.models import offline
from utilities.prompts.base import FILE_NAME
from utilities.prompts.built_in import QUESTION_ANSWER
from utilities.rows.sources import Source, read_rows
from utilities.scores.metrics import normalize
from utilities.training.settings import TrainingConfig

FOLDER = ROOT / "data" / "course_assistant"
COLUMNS = ["question", "answer", "kind", "topic", "fact_id", "part"]
REFUSAL = "let's get back to fine-tuning"


@pytest.fixture(scope="module")
def splits():
    return {
        name: read_rows(FOLDER / f"{name}.jsonl", QUESTION_ANSWER)
        for name in ("train", "validation", "test")
    }


def facts(rows):
    return {row["fact_id"]: row["answer"] for row in rows if row["kind"] == "on_topic"}


def test_size_and_schema(splits):
    rows = [row for split in splits.values() for row in split]
    assert all(list(row) == COLUMNS for name in ("train", "validation") for row in splits[name])
    assert all(list(row) == [*COLUMNS, "split_kind"] for row in splits["test"])
    assert {row["kind"] for row in rows} == {"on_topic", "off_topic"}
    wordings = Counter(row["fact_id"] for row in rows if row["kind"] == "on_topic")
    assert len(wordings) >= 150 and min(wordings.values()) >= 6
    assert sum(row["kind"] == "off_topic" for row in rows) >= 150
    assert {row["part"] for row in rows} == {"core", "more"}
    for row in rows:
        assert row["question"].isascii() and row["question"] == row["question"].strip()
        assert len(row["answer"].split()) <= 15


def test_the_test_asks_three_things(splits):
    parts = {
        kind: [row for row in splits["test"] if row["split_kind"] == kind]
        for kind in ("new_wording", "new_fact", "new_subject")
    }
    assert sum(map(len, parts.values())) == len(splits["test"])
    trained = facts(splits["train"])
    assert facts(splits["validation"]) == trained == facts(parts["new_wording"])
    assert not set(facts(parts["new_fact"])) & set(trained)
    assert not set(facts(parts["new_fact"]).values()) & set(trained.values())
    assert len(facts(parts["new_fact"])) >= 10
    assert all(row["kind"] == "off_topic" for row in parts["new_subject"])
    core = {row["fact_id"] for row in splits["train"] if row["part"] == "core"}
    assert {row["fact_id"] for row in parts["new_wording"] if row["part"] == "core"} < core


def test_the_second_round_asks_the_new_facts_in_other_words(splits):
    rows = read_rows(FOLDER / "second_round.jsonl", QUESTION_ANSWER)
    assert all(list(row) == COLUMNS for row in rows)
    new_facts = [row for row in splits["test"] if row["split_kind"] == "new_fact"]
    assert facts(rows) == facts(new_facts)
    assert set(Counter(row["fact_id"] for row in rows).values()) == {5}
    asked, tested = (
        [normalize(row["question"]) for row in part]
        for part in (rows, [row for split in splits.values() for row in split])
    )
    assert len(set(asked)) == len(asked) and not set(asked) & set(tested)
    tested = [normalize(row["question"]) for row in splits["test"]]
    assert process.cdist(asked, tested, scorer=fuzz.token_set_ratio).max() < 80


def test_splits_share_no_question_and_no_off_topic_subject(splits):
    seen = Counter(normalize(row["question"]) for split in splits.values() for row in split)
    assert max(seen.values()) == 1
    subjects = {
        name: {row["topic"] for row in split if row["kind"] == "off_topic"}
        for name, split in splits.items()
    }
    assert not subjects["test"] & (subjects["train"] | subjects["validation"])
    assert not subjects["validation"] & subjects["train"]


def test_one_fact_has_one_answer_and_refusals_carry_the_mark(splits):
    for row in (row for split in splits.values() for row in split):
        assert (REFUSAL in row["answer"].lower()) == (row["kind"] == "off_topic")
    answers = facts(row for split in splits.values() for row in split)
    assert len(set(answers.values())) == len(answers)


def test_wordings_vary(splits):
    questions = [row["question"].lower() for split in splits.values() for row in split]
    openings = Counter(" ".join(question.split()[:3]) for question in questions)
    assert openings.most_common(1)[0][1] <= 0.08 * len(questions)


def test_facts_are_true_of_the_project(splits):
    answers = facts(row for split in splits.values() for row in split)
    modules = sorted((ROOT / "utilities").rglob("*.py"))
    assert len(modules) > 50, "the package is not where it is looked for"
    package = " ".join(path.read_text(encoding="utf-8") for path in modules)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for fact in ("make_course", "make_test", "make_lab", "make_clean"):
        target = re.fullmatch(r"Run make (\w+)\.", answers[fact])[1]
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
    for fact, answer in answers.items():
        for module in re.findall(r"python -m utilities\.(\w+)", answer):
            assert (ROOT / "utilities" / module / "__main__.py").is_file(), fact
        for variable in re.findall(r"\b(?:COURSE|FINETUNING)_\w+", answer):
            assert variable in package, fact
    for answer in answers.values():
        for kind, name in re.findall(r"^The (function|class) (\w+)", answer):
            keyword = {"function": "def", "class": "class"}[kind]
            assert re.search(rf"^{keyword} {name}\b", package, flags=re.MULTILINE), name
        for key in re.findall(r"^The key (\w+)", answer):
            assert key in {**TrainingConfig.model_fields, **EvaluationConfig.model_fields}, key
    assert (
        f"{TrainingConfig.model_fields['max_length'].default} tokens"
        in (answers["max_length_default"])
    )
    assert (
        f" {Generation.model_fields['max_new_tokens'].default} new"
        in (answers["max_new_tokens_default"])
    )
    seed = TrainingConfig.model_fields["seed"].default
    assert answers["seed_default"] == f"The default seed is {seed}."
    assert TrainingConfig.model_fields["if_exists"].default in answers["if_exists_default"]
    assert (
        TrainingConfig.model_fields["prompt_format"].default.name
        in (answers["prompt_format_default"])
    )
    assert all(value in answers["precision_values"] for value in get_args(PrecisionChoice))
    assert models.DEFAULT_MODEL in answers["default_model"]
    assert offline.NAME in answers["offline_model"]
    assert offline.FETCH_COMMAND in answers["fetch_model"]
    assert all(profile in answers["profiles"] for profile in get_args(Profile))
    assert FILE_NAME in answers["prompt_format_file"]
    assert project["license"] in answers["code_license"]
    assert all(
        heading in answers["prompt_template"]
        for heading in re.findall(r"### \w+:", QUESTION_ANSWER.template)
    )
    assert answers["pinned_versions"].startswith("constraints.txt ")
    assert answers["assistant_data"] == f"The data is in {FOLDER.relative_to(ROOT).as_posix()}."
    assert (ROOT / "constraints.txt").is_file()
    numbers = [f.removeprefix("notebook_") for f in answers if re.fullmatch(r"notebook_\d+", f)]
    for number in numbers:
        (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
        topic = path.stem.removeprefix(f"{number}_").replace("_", " ")
        assert answers[f"notebook_{number}"] == f"Notebook {number} is about {topic}."
    assert answers["course_pages"].endswith("build/course.")
    assert '"build" / "course"' in (ROOT / "execute_notebooks.py").read_text(encoding="utf-8")
    assert project["requires-python"] == ">=3.11,<3.14"
    assert answers["course_python"] == "Python 3.11, 3.12 or 3.13."


SHARED = ROOT.parent / "shared" / "data" / "lamini_docs.jsonl"


@pytest.mark.skipif(
    not SHARED.is_file(), reason="the real rows of the original course are not here"
)
def test_the_original_course_s_rows_are_read_and_the_empty_one_is_named(caplog):
    with pytest.raises(DataError, match=r"line 424: 'answer' is empty"):
        read_rows(SHARED, QUESTION_ANSWER)
    skipping = Source(kwargs={"path": str(SHARED)}, on_bad_rows="skip")
    assert len(read_rows(skipping, QUESTION_ANSWER)) == 1399
    assert "1 bad row(s) left out" in caplog.text


def test_lines_are_plain_json_objects():
    for path in FOLDER.glob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert json.dumps(json.loads(line), ensure_ascii=False) == line
        assert path.read_bytes().endswith(b"\n"), os.fspath(path)
