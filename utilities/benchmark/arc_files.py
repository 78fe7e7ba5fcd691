"""ARC from a file: JSONL as AI2 or the hub publish it, or parquet, checked row by row."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from utilities.errors import DataError


def read_arc(path: Path) -> list[dict[str, Any]]:
    """Read multiple-choice items.

    Args:
        path: of a file. A row has `answerKey` and either `question` (text) and `choices` (`text`
            and `label`, two lists), as the hub has it, or `question` with `stem` and `choices` (a
            list of `text` and `label`), as AI2's files do.

    Returns:
        The items, all in the first form.

    Raises:
        DataError: the file cannot be read, is empty, or a row is broken; with its line and reason.
    """
    items = []
    for line, row in _rows(path):
        try:
            items.append(_item(row))
        except (KeyError, TypeError, ValueError) as error:
            fault = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(f"{path}: line {line}: {fault}") from None
    if not items:
        raise DataError(f"{path}: there is no item in it")
    return items


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            yield from enumerate(pyarrow.parquet.read_table(path).to_pylist(), start=1)
            return
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            try:
                yield line, json.loads(content)
            except ValueError as error:
                raise DataError(f"{path}: line {line}: not valid JSON: {error}") from None


def _item(row: Mapping[str, Any]) -> dict[str, Any]:
    question, choices = row["question"], row.get("choices")
    if isinstance(question, Mapping):
        question, choices = question["stem"], question["choices"]
    if choices is None:
        raise KeyError("choices")
    if isinstance(choices, list):
        choices = {key: [choice[key] for choice in choices] for key in ("text", "label")}
    texts, labels = list(choices["text"]), list(choices["label"])
    if not isinstance(question, str) or not question.strip():
        raise ValueError("the question is empty")
    if len(texts) < 2 or len(texts) != len(labels):
        raise ValueError(
            f"{len(texts)} choices and {len(labels)} labels; expected 2 or more of each"
        )
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError("a choice is empty")
    if row["answerKey"] not in labels:
        raise ValueError(
            f"answerKey {row['answerKey']!r} is not one of {', '.join(map(str, labels))}"
        )
    return {
        "question": question,
        "choices": {"text": texts, "label": labels},
        "answerKey": row["answerKey"],
    }
