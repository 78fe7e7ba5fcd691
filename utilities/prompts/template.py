"""Prompt formats of templates with `{column}` placeholders."""

import functools
import string
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import ValidationInfo, field_validator

from utilities.errors import PromptError, nearest
from utilities.prompts.base import PromptFormat, not_text


@functools.cache
def _columns(template: str) -> tuple[str, ...]:
    """Return the names of a template's placeholders, in order, without repeats."""
    names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    return tuple(dict.fromkeys(names))


class TemplateFormat(PromptFormat):
    """A template for the prompt and one for the response, with `{column}` for a row's values.

    Example:
        `QUESTION_ANSWER.prompt({"question": "What is an epoch?"})` is
        `"### Question:\\nWhat is an epoch?\\n\\n### Answer:\\n"`
    """

    saved_key: ClassVar[str] = "template"

    name: str = "custom"
    """How the format is called in configs and in the saved file."""
    template: str | tuple[str, ...]
    """The prompt, up to where the response begins; empty if the loss is on all of the text. Or
    several, from the most columns to the fewest: a row uses the first for which it has all columns.
    """
    response: str
    """The response; the end-of-text token follows it, never more text."""
    list_separator: str = "\n\n"
    """Text between the items of a column that holds a list of texts."""

    @field_validator("template", "response")
    @classmethod
    def _fills_in_columns(
        cls, value: str | tuple[str, ...], info: ValidationInfo
    ) -> str | tuple[str, ...]:
        templates = (value,) if isinstance(value, str) else value
        if templates == ("",) and info.field_name == "template":
            return value
        for text in templates:
            try:
                columns = _columns(text)
            except ValueError as error:
                raise ValueError(f"{error}; write {{{{ and }}}} for braces in the text") from None
            if any(spec or change for _, _, spec, change in string.Formatter().parse(text)):
                raise ValueError("braces hold only the name of a column, without `:` or `!`")
            if not columns or not all(column.isidentifier() for column in columns):
                raise ValueError("expected at least one {column} placeholder, each a plain name")
            if lacking := set(_columns(templates[-1])) - set(columns):
                raise ValueError(f"a template lacks {sorted(lacking)}, which the last one has")
        if not templates:
            raise ValueError("expected a template, found an empty list")
        return value

    @functools.cached_property
    def templates(self) -> tuple[str, ...]:
        """The prompt templates, as a tuple also if there is only one."""
        return (self.template,) if isinstance(self.template, str) else self.template

    @functools.cached_property
    def prompt_columns(self) -> list[str]:
        """The columns that the prompt needs."""
        return list(_columns(self.templates[-1]))

    @functools.cached_property
    def columns(self) -> list[str]:
        """The columns that a training row needs."""
        return list(dict.fromkeys(_columns(self.templates[-1]) + _columns(self.response)))

    @functools.cached_property
    def optional_columns(self) -> list[str]:
        """The columns that only longer templates need; a row may lack them or have them empty."""
        names = dict.fromkeys(name for text in self.templates for name in _columns(text))
        return [name for name in names if name not in self.columns]

    def fault(self, row: Mapping[str, Any]) -> str | None:
        """Return why a row does not fit the format, or None if it fits."""
        for column in self.columns:
            if column not in row:
                columns = f"it has {', '.join(map(repr, row)) or 'no columns'}"
                return f"lacks the column {column!r}{nearest(column, row)} ({columns})"
            if wrong := not_text(row[column]):
                return f"{column!r} must be text, found {wrong}"
            if not self._text(row[column]).strip():
                return f"{column!r} is empty; write the text, or delete the row"
        for column in self.optional_columns:
            value = row.get(column)
            if value is not None and (wrong := not_text(value)):
                return f"{column!r} must be text, a list of texts, or null, found {wrong}"
        return None

    def prompt(self, row: Mapping[str, Any]) -> str:
        """Return the prompt of a row: the text that a model continues."""
        return self._fill(self._template_for(row), row)

    def example(self, row: Mapping[str, Any]) -> dict[str, str]:
        """Return the training example `{"prompt": str, "response": str}` of a row."""
        return {"prompt": self.prompt(row), "response": self._fill(self.response, row)}

    def without_last_context(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the row without the last item of its optional list, or None if it has none."""
        for column in self.optional_columns:
            value = row.get(column)
            items = [value] if isinstance(value, str) else value
            if items:
                return {**row, column: list(items)[:-1]}
        return None

    def _template_for(self, row: Mapping[str, Any]) -> str:
        for template in self.templates[:-1]:
            if all(self._text(row.get(name)).strip() for name in _columns(template)):
                return template
        return self.templates[-1]

    def _fill(self, template: str, row: Mapping[str, Any]) -> str:
        try:
            return template.format_map({name: self._text(row[name]) for name in _columns(template)})
        except KeyError as error:
            column = error.args[0]
            raise PromptError(
                f"the prompt format needs the column {column!r}{nearest(column, row)} "
                f"The row has: {', '.join(map(str, row))}"
            ) from None

    def _text(self, value: Any) -> str:
        if isinstance(value, str):
            return value
        return self.list_separator.join(value) if isinstance(value, Sequence) else ""
