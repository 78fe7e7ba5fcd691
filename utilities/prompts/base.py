"""Prompt formats: the one place where a row becomes text.

A format turns a row into an example `{prompt, response}`. Training and generation use the same
object, which is saved beside the data and the model, so that a model gets prompts of the form that
it was trained on.
"""

import json
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ValidationError

from utilities.config import StrictModel
from utilities.errors import PromptError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


FILE_NAME = "prompt_format.json"


class PromptFormat(StrictModel):
    """Base class of the prompt formats."""

    saved_key: ClassVar[str]
    """The key of a saved format that only formats of this class have."""

    name: str
    """The format's name in configs and in the saved file."""
    stop: tuple[str, ...] = ()
    """Strings that end a generated answer, for models that do not stop by themselves."""

    @property
    @abstractmethod
    def prompt_columns(self) -> list[str]:
        """The columns that the prompt needs."""

    @property
    @abstractmethod
    def columns(self) -> list[str]:
        """The columns that a training row needs."""

    @property
    def optional_columns(self) -> list[str]:
        """Columns that are used if a row has them, such as `contexts`."""
        return []

    def bind(self, tokenizer: "PreTrainedTokenizerBase") -> "PromptFormat":
        """Return the format for this tokenizer; only `chat` depends on it."""
        return self

    def without_last_context(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the row without its last context, or None if it has no context."""
        return None

    @abstractmethod
    def fault(self, row: Mapping[str, Any]) -> str | None:
        """Return why a row does not fit the format, or None if it fits."""

    @abstractmethod
    def prompt(self, row: Mapping[str, Any]) -> str:
        """Return the prompt of a row: the text that a model continues.

        Raises:
            PromptError: the row lacks a column.
        """

    @abstractmethod
    def example(self, row: Mapping[str, Any]) -> Mapping[str, str | list[str]]:
        """Return the training example `{"prompt": …, "response": …}` of a row.

        Both are text; for a conversation with several answers both are lists of equal length.

        Raises:
            PromptError: the row lacks a column.
        """

    def request(self, row: Mapping[str, Any]) -> str:
        """Return the request of a row, without the template's text, to compare rows by."""
        names = [*self.prompt_columns, *self.optional_columns] or self.columns
        return "\n".join(str(row[name]) for name in names if row.get(name))

    def reference(self, row: Mapping[str, Any]) -> str:
        """Return the reference answer of a row."""
        response = self.example(row)["response"]
        return str(response if isinstance(response, str) else response[-1]).strip()

    def save(self, folder: str | Path) -> Path:
        """Write the format to `prompt_format.json` in a folder, and return that path."""
        path = Path(folder) / FILE_NAME
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        return path

    @staticmethod
    def load(folder: str | Path) -> "PromptFormat":
        """Load the format that was saved in a folder.

        Raises:
            PromptError: the folder has no saved format, or the file is damaged.
        """
        path = Path(folder) / FILE_NAME
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            # The package's __init__ imports all subclasses, so they are known here.
            classes = {subclass.saved_key: subclass for subclass in PromptFormat.__subclasses__()}
            for key, subclass in classes.items():
                if key in values:
                    return subclass.model_validate(values)
            raise ValueError(f"it has none of the keys {', '.join(classes)}")
        except FileNotFoundError:
            raise PromptError(
                f"{folder} holds no {FILE_NAME}; name the prompt format of the training"
            ) from None
        except (ValueError, TypeError, ValidationError) as error:
            raise PromptError(f"{path} is damaged: {error}") from None


def not_text(value: Any) -> str | None:
    """Describe a value that is neither text nor a list of texts; return None for text."""
    items = value if isinstance(value, list | tuple) else [value]
    for item in items:
        if not isinstance(item, str):
            return f"{type(item).__name__}: {item!r:.80}"
        if not item.isascii() and not _is_encodable(item):
            return f"half of a character (a lone surrogate) in {item!a:.80}"
    return None


def _is_encodable(text: str) -> bool:
    """Whether text has no lone surrogate; JSON can hold one half of an emoji's pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
