"""Prompt formats: the one place where a row becomes text.

A format turns a row into an example `{prompt, response}`. Training and generation use the same
object, which is saved beside the model, so that a model is always asked the way it was taught.
"""

import json
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError, field_validator

from utilities.config import LabError, StrictModel, nearest

FILE_NAME = "prompt_format.json"


class PromptError(LabError):
    """A prompt format that is unknown, broken, or does not fit the row."""


def _columns(template: str) -> list[str]:
    """Return the column names that a template fills in, in order, without repeats."""
    names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    return list(dict.fromkeys(names))


class PromptFormat(StrictModel):
    """A template for the prompt and one for the response, with `{column}` for a row's values.

    Attributes:
        name: how the format is called in configs and in the saved file.
        template: the prompt, up to the place where the response begins.
        response: the response; what follows it is the end-of-text token, never more text.
        stop: strings that end a generated answer, for models that do not stop by themselves.

    Example:
        >>> QUESTION_ANSWER.prompt({"question": "What is an epoch?"})
        '### Question:\\nWhat is an epoch?\\n\\n### Answer:\\n'
    """

    name: str = "custom"
    template: str = Field(min_length=1)
    response: str = Field(min_length=1)
    stop: tuple[str, ...] = ()

    @field_validator("template", "response")
    @classmethod
    def _fills_in_columns(cls, text: str) -> str:
        try:
            columns = _columns(text)
        except ValueError as error:
            raise ValueError(f"{error}; write {{{{ and }}}} for braces in the text") from None
        if not columns or not all(column.isidentifier() for column in columns):
            raise ValueError("expected at least one {column} to fill in, each a plain name")
        return text

    @property
    def prompt_columns(self) -> list[str]:
        """The columns that the prompt needs."""
        return _columns(self.template)

    @property
    def columns(self) -> list[str]:
        """The columns that a training row needs."""
        return list(dict.fromkeys(self.prompt_columns + _columns(self.response)))

    def prompt(self, row: Mapping[str, Any]) -> str:
        """Return the text a model is given.

        Raises:
            PromptError: the row lacks a column that the template names.
        """
        return _fill(self.template, row)

    def example(self, row: Mapping[str, Any]) -> dict[str, str]:
        """Return the training example `{"prompt": str, "response": str}` of a row.

        Raises:
            PromptError: the row lacks a column that the templates name.
        """
        return {"prompt": self.prompt(row), "response": _fill(self.response, row)}

    def save(self, folder: str | Path) -> Path:
        """Write the format as `prompt_format.json` into a folder; return the file."""
        path = Path(folder) / FILE_NAME
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, folder: str | Path) -> "PromptFormat":
        """Read the format that was saved in a folder.

        Raises:
            PromptError: the folder holds none, or the file is damaged.
        """
        path = Path(folder) / FILE_NAME
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise PromptError(
                f"{folder} holds no {FILE_NAME}; name the prompt format it was trained with"
            ) from None
        except (json.JSONDecodeError, UnicodeDecodeError, ValidationError) as error:
            raise PromptError(f"{path} is damaged: {error}") from None


def _fill(template: str, row: Mapping[str, Any]) -> str:
    try:
        return template.format_map(row)
    except KeyError as error:
        column = error.args[0]
        raise PromptError(
            f"the prompt format needs the column {column!r}{nearest(column, row)} "
            f"The row has: {', '.join(map(str, row))}"
        ) from None


QUESTION_ANSWER = PromptFormat(
    name="question_answer",
    template="### Question:\n{question}\n\n### Answer:\n",
    response="{answer}",
    stop=("\n### Question:",),  # a new line: an answer may speak of the heading
)

FORMATS: dict[str, PromptFormat] = {QUESTION_ANSWER.name: QUESTION_ANSWER}


def get_format(name: str) -> PromptFormat:
    """Return the built-in format of that name.

    Raises:
        PromptError: there is none; the message lists those there are.
    """
    if name not in FORMATS:
        raise PromptError(
            f"unknown prompt format {name!r}{nearest(name, FORMATS)} "
            f"Valid: {', '.join(FORMATS)}, or a mapping with `template` and `response`"
        )
    return FORMATS[name]


def _by_name(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return get_format(value)
    except PromptError as error:  # pydantic collects ValueErrors beside the other faults
        raise ValueError(str(error)) from None


ConfigPromptFormat = Annotated[PromptFormat, BeforeValidator(_by_name)]
"""A prompt format in a config: the name of a built-in one, or its fields."""
