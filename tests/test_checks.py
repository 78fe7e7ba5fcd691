"""The exercises' checks: right answers pass, plausible wrong ones are told what failed."""

import re
from importlib import import_module
from pathlib import Path

import nbformat
import pytest

from tests.conftest import ROOT
from utilities.checks import Fault, attempt, exercise, expect, given, same_numbers

ANSWER_FILES = sorted(Path(__file__).with_name("exercise_answers").glob("[a-z]*.py"))
CHECKS = sorted((ROOT / "utilities" / "checks").glob("[a-z]*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MUSEUM_TAG = re.compile(r"museum:(\w+):(broken|mended)")


def exercises(module):
    return {name: each for name, each in vars(module).items() if hasattr(each, "is_exercise")}


def table_of(path):
    return import_module(f"tests.exercise_answers.{path.stem}").ANSWERS


def answers(kind):
    return [
        pytest.param(path.stem, name, answer, id=f"{path.stem}-{name}-{number}")
        for path in ANSWER_FILES
        for name, table in table_of(path).items()
        for number, answer in enumerate(table[kind])
    ]


def check_named(module, name):
    return exercises(import_module(f"utilities.checks.{module}"))[name]


@pytest.mark.parametrize(("module", "name", "answer"), answers("right"))
def test_right_answers_pass(module, name, answer):
    result = check_named(module, name)(answer)
    assert result.passed, result


@pytest.mark.parametrize(("module", "name", "answer"), answers("wrong"))
def test_wrong_answers_are_told_what_failed(module, name, answer):
    wrong, part = answer
    result = check_named(module, name)(wrong)
    assert result.state == "not yet"
    assert part in result.message
    assert len(part) >= 8, "a part that tells this fault from others"


@pytest.mark.parametrize("path", ANSWER_FILES, ids=lambda path: path.stem)
def test_every_exercise_has_enough_answers(path):
    table = table_of(path)
    assert set(table) == set(exercises(import_module(f"utilities.checks.{path.stem}")))
    assert 3 <= len(table) <= 5
    for name, each in table.items():
        assert len(each["right"]) >= 2, name
        assert len(each["wrong"]) >= 5, name
        assert len({part for _, part in each["wrong"]}) >= 2, "one fault for all tells nothing"


def test_every_module_of_checks_has_its_table():
    stems = {path.stem for path in CHECKS if not path.stem.startswith("museum_")}
    assert stems == {path.stem for path in ANSWER_FILES}
    assert stems <= {path.stem[3:] for path in NOTEBOOKS}


@pytest.mark.parametrize("path", ANSWER_FILES, ids=lambda path: path.stem)
def test_a_stub_is_not_started(path):
    for name, table in table_of(path).items():
        check = check_named(path.stem, name)
        assert check(...).state == "not started", name
        if callable(table["right"][0]):
            assert check(lambda *arguments, **named: None).state == "not started", name


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_exercises_of_a_notebook_are_whole(path):
    notebook = nbformat.read(path, as_version=4)
    text = "\n".join(cell.source for cell in notebook.cells)
    stem = path.stem[3:]
    table = table_of(Path(f"{stem}.py"))
    parts = re.split(r"^### Exercise \d+ · ", text, flags=re.MULTILINE)[1:]
    assert len(parts) == len(table)
    for part in parts:
        assert re.search(r"^\*\d+ minutes · (easy|medium|hard)\*$", part, flags=re.MULTILINE)
        assert "**Objective.**" in part
        assert [f"Hint {level}" in part for level in (1, 2, 3)] == [True] * 3
        assert "**Extension.**" in part
        assert re.search(r"^checks\.\w+\(", part, flags=re.MULTILINE)
    assert set(re.findall(r"^checks\.(\w+)\(", text, flags=re.MULTILINE)) == set(table)

    solutions = nbformat.read(path.parent / "solutions" / path.name, as_version=4)
    solved = "\n".join(cell.source for cell in solutions.cells)
    titles = re.findall(r"^### (Exercise \d+ · .+)$", text, flags=re.MULTILINE)
    assert re.findall(r"^## (Exercise \d+ · .+)$", solved, flags=re.MULTILINE) == titles
    for name in table:
        assert re.search(rf"result = checks\.{name}\(.*\)\nassert result\.passed", solved), name


def exhibits():
    """Yield the pairs of the bug museum: notebook, name, the broken cell, the mended one."""
    for path in NOTEBOOKS:
        pairs = {}
        for cell in nbformat.read(path, as_version=4).cells:
            for tag in cell.metadata.get("tags", []):
                if found := MUSEUM_TAG.fullmatch(tag):
                    pairs.setdefault(found[1], {})[found[2]] = cell.source
        for name, pair in pairs.items():
            yield pytest.param(path.stem[3:], name, pair, id=f"{path.stem}-{name}")


def defined_in(source, name):
    namespace = {}
    exec(compile(source, name, "exec"), namespace)
    return namespace[name]


@pytest.mark.parametrize(("notebook", "name", "pair"), list(exhibits()))
def test_exhibits_of_the_museum(notebook, name, pair):
    check = check_named(f"museum_{notebook}", name)
    broken = check(defined_in(pair["broken"], f"{name}_broken"))
    mended = check(defined_in(pair["mended"], f"{name}_mended"))
    assert broken.state == "not yet", broken
    assert mended.passed, mended


def test_the_museum_is_large():
    pairs = list(exhibits())
    assert len(pairs) >= 12
    assert {pair.values[0] for pair in pairs} >= {"data_preparation", "training", "evaluation"}
    for notebook in {pair.values[0] for pair in pairs}:
        shown = {pair.values[1] for pair in pairs if pair.values[0] == notebook}
        assert shown == set(exercises(import_module(f"utilities.checks.museum_{notebook}")))


def test_the_frame_of_a_check():
    @exercise
    def doubles(answer):
        """Numbers are doubled."""
        found = attempt(answer, [1, 2])
        expect(len(found) == 2, "a number is lost")
        expect(same_numbers(found, [2, 4]), "the second number is wrong")

    assert (
        repr(doubles(lambda numbers: [2 * n for n in numbers])) == "✓ Passed: Numbers are doubled."
    )
    assert doubles(lambda numbers: numbers[:1]).message == "a number is lost"
    assert doubles(lambda numbers: None).state == "not started"
    assert doubles(...).state == "not started"
    assert "needs the function itself" in doubles([2, 4]).message
    assert doubles(lambda numbers: 1 / 0).message.startswith(
        "called with ([1, 2]), your function raises ZeroDivisionError"
    )
    assert "wrong form" in doubles(lambda numbers: 3).message
    assert doubles.__name__ == "doubles"


def test_a_value_may_be_given_in_parts():
    for stub in (None, ..., [1, ...], {"a": ...}):
        with pytest.raises(Exception) as caught:
            given(stub)
        assert type(caught.value).__name__ == "NotStarted"
    assert given({"a": 1}) == {"a": 1}
    with pytest.raises(Fault):
        expect([], "empty")


def test_what_a_learner_gets_is_a_copy():
    @exercise
    def keeps(answer):
        """The list stays."""
        case = [1]
        attempt(answer, case)
        expect(case == [1], "the list was changed")

    assert keeps(lambda numbers: numbers.append(2) or numbers).passed


def test_same_numbers():
    assert same_numbers((1, 2.0), [1, 2])
    assert not same_numbers([1], [1, 2])
    assert not same_numbers(["one"], [1])
    assert not same_numbers(None, [1])
