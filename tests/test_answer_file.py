import json
import random

import pytest

from tests.conftest import ROWS, tiny_model
from utilities.inference.answer_file import collect
from utilities.inference.answers import Answer
from utilities.inference.generation import Generation
from utilities.inference.local_model import LocalModel
from utilities.prompts.built_in import QUESTION_ANSWER

PROMPTS = [QUESTION_ANSWER.prompt(row) for row in ROWS * 3]
SETTINGS = Generation(max_new_tokens=6, batch_tokens=250)


class Killed(BaseException):
    """What no part of the program catches, as little as a signal."""


class Dying:
    """Answers like another one, and is killed after some answers."""

    def __init__(self, answerer, after):
        self.answerer, self.after, self.asked = answerer, after, 0

    def answers(self, prompts, settings, skip=()):
        for each in self.answerer.answers(prompts, settings, skip):
            if self.asked == self.after:
                raise Killed
            self.asked += 1
            yield each


@pytest.fixture(scope="module")
def local(tokenizer):
    return LocalModel(tiny_model("llama"), tokenizer)


@pytest.fixture(scope="module")
def expected(local, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "a.jsonl"
    return collect(path, local, PROMPTS, SETTINGS, {"name": "tiny"})


def test_interrupted_anywhere_it_ends_with_the_same_answers(local, expected, tmp_path):
    draw = random.Random(1)
    for number in range(20):
        path, calls = tmp_path / f"{number}.jsonl", 0
        while True:
            dying = Dying(local, draw.randrange(1, len(PROMPTS)))
            save_every = draw.randrange(1, 8)
            try:
                found = collect(path, dying, PROMPTS, SETTINGS, {"name": "tiny"}, save_every)
                break
            except Killed:
                calls += 1
            torn = path.read_bytes()  # a power cut may tear the last line at any byte
            path.write_bytes(torn[: len(torn) - draw.choice([0, 0, 1, 7])])
        assert found == expected and calls < 200


def test_answers_are_there_as_soon_as_they_are_made(local, tmp_path):
    path = tmp_path / "a.jsonl"
    with pytest.raises(Killed):
        collect(path, Dying(local, 7), PROMPTS, SETTINGS, {}, save_every=3)
    assert len(path.read_text().splitlines()) == 1 + 7


class Counting:
    def __init__(self, fails=()):
        self.asked, self.fails = [], set(fails)

    def answers(self, prompts, settings, skip=()):
        for place in range(len(prompts)):
            if place not in skip:
                self.asked.append(place)
                failed = place in self.fails
                yield (
                    place,
                    Answer("", "error", error="no") if failed else Answer("x", "end_of_text"),
                )


def test_only_what_is_missing_or_failed_is_asked_for(tmp_path):
    path, first, again = tmp_path / "a.jsonl", Counting(fails=[1]), Counting()
    found = collect(path, first, ["a", "b", "c"], SETTINGS, {})
    assert [answer.error for answer in found] == [None, "no", None]
    found = collect(path, again, ["a", "b", "c"], SETTINGS, {})
    assert again.asked == [1] and [answer.text for answer in found] == ["x"] * 3


def test_a_good_answer_is_kept_when_its_batch_is_asked_again(tmp_path):
    class Batchwise(Counting):
        def answers(self, prompts, settings, skip=()):
            return super().answers(prompts, settings)

    path = tmp_path / "a.jsonl"
    collect(path, Batchwise(fails=[1]), ["a", "b"], SETTINGS, {})
    found = collect(path, Batchwise(fails=[0]), ["a", "b"], SETTINGS, {})
    assert [answer.text for answer in found] == ["x", "x"]


@pytest.mark.parametrize("other", ["model", "settings", "prompts"])
def test_answers_to_something_else_are_made_anew(tmp_path, other):
    path, again = tmp_path / "a.jsonl", Counting()
    collect(path, Counting(), ["a", "b"], SETTINGS, {"name": "one"})
    origin = {"name": "two" if other == "model" else "one"}
    settings = SETTINGS.model_copy(update={"seed": 7}) if other == "settings" else SETTINGS
    collect(path, again, ["a", "c" if other == "prompts" else "b"], settings, origin)
    assert again.asked == [0, 1]
    assert json.loads(path.read_text().splitlines()[0])["model"] == origin


def test_line_separators_of_unicode_stay_in_their_row(tmp_path):
    class Odd:
        def answers(self, prompts, settings, skip=()):
            yield 0, Answer("a\u2028b\r\nc\x85", "end_of_text")

    path = tmp_path / "a.jsonl"
    (first,) = collect(path, Odd(), ["a"], SETTINGS, {})
    (second,) = collect(path, Counting(), ["a"], SETTINGS, {})
    assert first == second
