"""The bundled data: schema, splits, and that what it says about the project is true."""

import json
import os
import re
import tomllib
from collections import Counter
from typing import get_args

import pytest

from tests.conftest import ROOT
from utilities import models, offline_model
from utilities.config import Profile
from utilities.metrics import normalize
from utilities.prompts import FILE_NAME, QUESTION_ANSWER
from utilities.sources import read_jsonl

FOLDER = ROOT / "data" / "course_assistant"
COLUMNS = ["question", "answer", "kind", "topic", "fact_id"]
REFUSAL = "let's get back to fine-tuning"


@pytest.fixture(scope="module")
def splits():
    return {
        name: read_jsonl(FOLDER / f"{name}.jsonl", COLUMNS)
        for name in ("train", "validation", "test")
    }


def facts(rows):
    return {row["fact_id"]: row["answer"] for row in rows if row["kind"] == "on_topic"}


def test_size_and_schema(splits):
    rows = [row for split in splits.values() for row in split]
    assert all(list(row) == COLUMNS for row in rows)
    assert {row["kind"] for row in rows} == {"on_topic", "off_topic"}
    wordings = Counter(row["fact_id"] for row in rows if row["kind"] == "on_topic")
    assert len(wordings) >= 45 and min(wordings.values()) >= 6
    assert sum(row["kind"] == "off_topic" for row in rows) >= 80
    for row in rows:
        assert row["question"].isascii() and row["question"] == row["question"].strip()
        assert len(row["answer"].split()) <= 15


def test_test_set_is_new_wordings_of_trained_facts_and_new_subjects(splits):
    for name in ("validation", "test"):
        assert facts(splits[name]) == facts(splits["train"])
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
    answers = facts(splits["train"])
    assert len(set(answers.values())) == len(answers)


def test_wordings_vary(splits):
    questions = [row["question"].lower() for split in splits.values() for row in split]
    openings = Counter(" ".join(question.split()[:3]) for question in questions)
    assert openings.most_common(1)[0][1] <= 0.08 * len(questions)


def test_facts_are_true_of_the_project(splits):
    answers = facts(splits["train"])
    package = " ".join(p.read_text(encoding="utf-8") for p in (ROOT / "utilities").glob("*.py"))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for fact in ("make_course", "make_test", "make_lab", "make_clean"):
        target = re.fullmatch(r"Run make (\w+)\.", answers[fact])[1]
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
    for fact, answer in answers.items():
        for module in re.findall(r"python -m utilities\.(\w+)", answer):
            text = (ROOT / "utilities" / f"{module}.py").read_text(encoding="utf-8")
            assert '__name__ == "__main__"' in text, fact
        for variable in re.findall(r"\b(?:COURSE|FINETUNING)_\w+", answer):
            assert variable in package, fact
    assert models.DEFAULT_MODEL in answers["default_model"]
    assert offline_model.NAME in answers["offline_model"]
    assert offline_model.FETCH_COMMAND in answers["fetch_model"]
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
    numbers = [f.removeprefix("notebook_") for f in answers if f.startswith("notebook_")]
    for number in numbers:
        (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
        topic = path.stem.removeprefix(f"{number}_").replace("_", " ")
        assert answers[f"notebook_{number}"] == f"Notebook {number} is about {topic}."
    assert answers["course_pages"].endswith("build/course.")
    assert '"build" / "course"' in (ROOT / "execute_notebooks.py").read_text(encoding="utf-8")
    assert project["requires-python"] == ">=3.11,<3.14"
    assert answers["course_python"] == "Python 3.11, 3.12 or 3.13."


def test_counts_in_the_readme(splits):
    readme = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    for name, rows in splits.items():
        kinds = Counter(row["kind"] for row in rows)
        line = f"| `{name}.jsonl` | {len(rows)} | {kinds['on_topic']} | {kinds['off_topic']} |"
        assert line in readme, line


SHARED = ROOT.parent / "shared" / "data" / "lamini_docs.jsonl"


@pytest.mark.skipif(
    not SHARED.is_file(), reason="the real rows of the original course are not here"
)
def test_the_original_course_s_rows_are_read_and_the_empty_one_is_named(caplog):
    from utilities.sources import DataError

    with pytest.raises(DataError, match=r"line 424: 'answer' is empty"):
        read_jsonl(SHARED, ["question", "answer"])
    assert len(read_jsonl(SHARED, ["question", "answer"], "skip")) == 1399
    assert "1 bad line(s) left out" in caplog.text


def test_lines_are_plain_json_objects():
    for path in FOLDER.glob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert json.dumps(json.loads(line), ensure_ascii=False) == line
        assert path.read_bytes().endswith(b"\n"), os.fspath(path)
