import pytest

from tests.conftest import ROWS
from utilities.prompts import FORMATS, QUESTION_ANSWER, PromptError, PromptFormat, get_format


def test_question_answer_is_the_format_of_the_course():
    row = {"question": "Why?", "answer": "So.", "topic": "x"}
    assert QUESTION_ANSWER.example(row) == {
        "prompt": "### Question:\nWhy?\n\n### Answer:\n",
        "response": "So.",
    }
    assert QUESTION_ANSWER.columns == ["question", "answer"]
    assert QUESTION_ANSWER.prompt_columns == ["question"]


@pytest.mark.parametrize("prompt_format", FORMATS.values(), ids=FORMATS)
def test_the_prompt_of_training_is_the_prompt_of_generation(prompt_format):
    for row in ROWS:
        assert prompt_format.example(row)["prompt"] == prompt_format.prompt(row)


def test_braces_in_data_are_text():
    assert "{x} {{y}}" in QUESTION_ANSWER.prompt({"question": "{x} {{y}}"})


def test_saved_and_read_again(tmp_path):
    custom = PromptFormat(name="my own", template="F: {q}\n{{}}A: ", response="{a}", stop=["F:"])
    custom.save(tmp_path)
    assert PromptFormat.load(tmp_path) == custom
    assert custom.prompt({"q": "1"}) == "F: 1\n{}A: "


def test_what_is_wrong_is_told(tmp_path):
    with pytest.raises(PromptError, match="did you mean 'question_answer'"):
        get_format("question_answers")
    with pytest.raises(PromptError, match="needs the column 'question', did you mean 'Question'"):
        QUESTION_ANSWER.prompt({"Question": "?"})
    with pytest.raises(PromptError, match=r"holds no prompt_format\.json"):
        PromptFormat.load(tmp_path)
    (tmp_path / "prompt_format.json").write_text('{"template"')
    with pytest.raises(PromptError, match="damaged"):
        PromptFormat.load(tmp_path)


@pytest.mark.parametrize("template", ["no column", "{}", "{0}", "{a b}", "{open", ""])
def test_templates_that_cannot_work(template):
    with pytest.raises(ValueError):
        PromptFormat(template=template, response="{a}")
