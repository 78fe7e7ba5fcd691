"""Prompt formats: the one place where a row becomes text.

A format turns a row into an example `{prompt, response}`. Training and generation use the same
object, which is saved beside the data and the model, so that a model is always asked the way it was
taught.
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
    """What every prompt format can do."""

    saved_key: ClassVar[str]
    """The key by which a saved format of this kind is told from the other kinds."""

    name: str
    """How the format is called in configs and in the saved file."""
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
        """Columns that are used where a row has them, such as `contexts`."""
        return []

    def bind(self, tokenizer: "PreTrainedTokenizerBase") -> "PromptFormat":
        """Return the format as it is with this tokenizer; only `chat` depends on it."""
        return self

    def without_last_context(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the row with one context fewer, or None when it has none to give up."""
        return None

    @abstractmethod
    def fault(self, row: Mapping[str, Any]) -> str | None:
        """Say in what a row does not fit, or return None."""

    @abstractmethod
    def prompt(self, row: Mapping[str, Any]) -> str:
        """Return the text a model is given.

        Raises:
            PromptError: the row lacks a column.
        """

    @abstractmethod
    def example(self, row: Mapping[str, Any]) -> dict[str, str | list[str]]:
        """Return the training example `{"prompt": …, "response": …}` of a row.

        Both are text; of a conversation with several answers both are lists of as many texts.

        Raises:
            PromptError: the row lacks a column.
        """

    def asked(self, row: Mapping[str, Any]) -> str:
        """Return what a row asks, without the format's own words; a split compares rows by it."""
        names = [*self.prompt_columns, *self.optional_columns] or self.columns
        return "\n".join(str(row[name]) for name in names if row.get(name))

    def reference(self, row: Mapping[str, Any]) -> str:
        """Return the answer of a row, as a right answer to its prompt would read."""
        response = self.example(row)["response"]
        return str(response if isinstance(response, str) else response[-1]).strip()

    def save(self, folder: str | Path) -> Path:
        """Write the format as `prompt_format.json` into a folder; return the file."""
        path = Path(folder) / FILE_NAME
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        return path

    @staticmethod
    def load(folder: str | Path) -> "PromptFormat":
        """Read the format that was saved in a folder.

        Raises:
            PromptError: the folder holds none, or the file is damaged.
        """
        path = Path(folder) / FILE_NAME
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            # The package imports every kind, so all of them are known here.
            kinds = {kind.saved_key: kind for kind in PromptFormat.__subclasses__()}
            for key, kind in kinds.items():
                if key in values:
                    return kind.model_validate(values)
            raise ValueError(f"it has none of the keys {', '.join(kinds)}")
        except FileNotFoundError:
            raise PromptError(
                f"{folder} holds no {FILE_NAME}; name the prompt format it was trained with"
            ) from None
        except (ValueError, TypeError, ValidationError) as error:
            raise PromptError(f"{path} is damaged: {error}") from None


def not_text(value: Any) -> str | None:
    """Return what a value is that is neither text nor a list of texts, else None."""
    items = value if isinstance(value, list | tuple) else [value]
    for item in items:
        if not isinstance(item, str):
            return f"{type(item).__name__}: {item!r:.80}"
        if not item.isascii() and not _is_whole(item):
            return f"half of a character (a lone surrogate) in {item!a:.80}"
    return None


def _is_whole(text: str) -> bool:
    """Say whether each character is one; JSON can hold half of an emoji, which is no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
