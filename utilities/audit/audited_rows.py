"""Rows as the audit sees them: read with their faults, mended, and bare of templates."""

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from utilities.audit.text_checks import Text, mend, template_frames
from utilities.errors import DataError
from utilities.prompts.base import PromptFormat
from utilities.prompts.chat import ChatFormat
from utilities.rows.columns import ToFormat, columns_for
from utilities.rows.patches import PatchEntry, raw_hash, read_patch
from utilities.rows.readers import RawRow
from utilities.rows.sources import AnySource, raw_rows, resolve, wanted_values


class Fault(NamedTuple):
    """Why a row cannot be used.

    Attributes:
        code: `unreadable` or `empty`.
        detail: the reason, in words.
        drop: whether the patch drops the row; else people decide.
    """

    code: str
    detail: str
    drop: bool


class Row(NamedTuple):
    """One row as the audit sees it.

    Attributes:
        number: of the row in the source, from 1, before any patch.
        place: file and line, or the like, for messages.
        sha256: `row_hash` of the row before any patch.
        values: the row with the format's columns.
        fault: why the row cannot be used, or None.
        texts: those that the format uses.
        prompt: the question, without template; all of the text, in a format without prompt columns.
        response: the last answer, without template.
        mended: the columns that mending changes, with their new values.
    """

    number: int
    place: str
    sha256: str
    values: dict[str, Any]
    fault: Fault | None
    texts: tuple[Text, ...] = ()
    prompt: str = ""
    response: str = ""
    mended: Mapping[str, Any] = MappingProxyType({})


def read_for_checks(
    source: AnySource, prompt_format: PromptFormat
) -> tuple[list[Row], list[PatchEntry]]:
    """Read the rows of a source, faulty ones included.

    Args:
        source: the rows; of a `Source`, `only`, `limit` and `patch` count.
        prompt_format: says which columns are prompt and response.

    Returns:
        (the rows, after the source's own patch; the entries of that patch).

    Raises:
        DataError: no row can be read, or none fits the format.
    """
    source, settings, name = resolve(source)
    raws = list(raw_rows(source))
    patch, originals = [], raws  # as they are without the patch
    if settings.patch:
        patch = read_patch(settings.patch)
        originals = list(raw_rows(settings.model_copy(update={"patch": None})))
    dropped = {entry.row for entry in patch if entry.action == "drop"}
    numbers = [n for n in range(1, len(originals) + 1) if n not in dropped]
    readable = [raw.values for raw in raws if not raw.fault]
    if not readable:
        first = f"; the first: {raws[0].place}: {raws[0].fault}" if raws else ""
        raise DataError(f"{name}: no row can be read ({len(raws)} found{first})")
    columns = dict.fromkeys(column for values in readable for column in values)
    to_format = columns_for(prompt_format, list(columns), settings.columns, name)
    selected = wanted_values(settings.only)
    frames = template_frames(prompt_format)
    rows = [
        _row(number, raw, raw_hash(originals[number - 1]), prompt_format, to_format, frames)
        for number, raw in zip(numbers, raws, strict=True)
        if raw.fault or all(str(raw.values.get(c)) in values for c, values in selected.items())
    ][: settings.limit]
    if not comparable_rows(rows):
        faults = [f"{row.place}: {row.fault.detail}" for row in rows if row.fault]
        first = f"; the first: {faults[0]}" if faults else ""
        raise DataError(
            f"{name}: no row fits the format {prompt_format.name} ({len(rows)} looked at{first}). "
            "Name another `prompt_format`, or the `columns` of the source"
        )
    return rows, patch


def _row(
    number: int,
    raw: RawRow,
    digest: str,
    prompt_format: PromptFormat,
    to_format: ToFormat,
    frames: Sequence[re.Pattern[str]],
) -> Row:
    """Return a row with its texts mended, and its prompt and response without template.

    Args:
        number: of the row.
        raw: the row as it was read.
        digest: hash of the row before any patch.
        prompt_format: says which columns are prompt and response.
        to_format: maps the source's columns to the format's; returns a text if it cannot.
        frames: of `template_frames`.
    """
    values = to_format(raw.values)
    if raw.fault:
        return Row(number, raw.place, digest, {}, Fault("unreadable", raw.fault, drop=True))
    if isinstance(values, str):
        return Row(number, raw.place, digest, {}, Fault("unreadable", values, drop=False))
    # A patch speaks of the source's columns, so texts are mended there. Which of them the format
    # uses is known by identity: `to_format` renames columns and passes their values on.
    taken = [values.get(c) for c in (*prompt_format.columns, *prompt_format.optional_columns)]
    taken += _texts_in(values.get("messages"))  # columns may have been made into messages
    used = {c: v for c, v in raw.values.items() if any(v is value for value in taken)}
    texts = [mend(c, text, frames) for c, v in used.items() for text in _texts_in(v)]
    bare = {text.found: text.bare for text in texts}
    mended = {text.found: text.mended for text in texts}
    without_template = {c: change_texts(v, bare.__getitem__) for c, v in used.items()}
    compared = to_format({**raw.values, **without_template})
    if isinstance(compared, str):
        return Row(number, raw.place, digest, {}, Fault("unreadable", compared, drop=False))
    prompt, response = _prompt_and_response(compared, prompt_format)
    fault = _fault(compared, prompt_format, prompt, response)
    new = {c: change_texts(v, mended.__getitem__) for c, v in used.items()}
    changed = {c: v for c, v in new.items() if v != used[c]}
    return Row(number, raw.place, digest, values, fault, tuple(texts), prompt, response, changed)


def _prompt_and_response(values: dict[str, Any], prompt_format: PromptFormat) -> tuple[str, str]:
    """Return what is compared with other rows: all of the prompt's text, and the last response."""
    parts: tuple[list[Any], list[Any]]
    if isinstance(prompt_format, ChatFormat):
        messages = values.get("messages")
        turns = [m for m in messages if isinstance(m, dict)] if isinstance(messages, list) else []
        answers = [i for i, turn in enumerate(turns) if turn.get("role") == "assistant"]
        last = answers[-1] if answers else len(turns)
        parts = (turns[:last], turns[last : last + 1])
    else:
        in_prompt = [*prompt_format.prompt_columns, *prompt_format.optional_columns]
        in_prompt = in_prompt or prompt_format.columns
        in_response = [column for column in prompt_format.columns if column not in in_prompt]
        parts = ([values.get(c) for c in in_prompt], [values.get(c) for c in in_response])
    prompt, response = ("\n".join(_texts_in(part)).strip() for part in parts)
    return prompt, response


def _fault(
    values: dict[str, Any], prompt_format: PromptFormat, prompt: str, response: str
) -> Fault | None:
    detail = prompt_format.fault(values)
    if detail is None:
        return None
    present = {column: values[column] for column in prompt_format.columns if column in values}
    empty = [column for column, value in present.items() if _is_blank(value)]
    if empty:
        return Fault("empty", f"in {', '.join(empty)}", drop=True)
    if isinstance(prompt_format, ChatFormat) and prompt and not response:
        return Fault("empty", detail, drop=True)
    # A value of another type, a number for example, may be an answer: people decide.
    is_incomplete = any(column not in values for column in prompt_format.columns)
    return Fault("unreadable", detail, drop=is_incomplete)


def comparable_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that can be compared: all but the unreadable ones."""
    return [row for row in rows if not (row.fault and row.fault.code == "unreadable")]


def _is_blank(value: Any) -> bool:
    if value is None:
        return True
    items = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(item, str) and not item.strip() for item in items)


def _texts_in(value: Any) -> list[str]:
    """Return the texts in a value: text, a list of texts, or messages."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list | tuple):
        return [text for item in value for text in _texts_in(item)]
    if isinstance(value, dict) and "content" in value:
        return _texts_in(value["content"])
    return []


def change_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Return a value with its texts changed: text, a list of texts, or messages."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list | tuple):
        return [change_texts(item, change) for item in value]
    if isinstance(value, dict) and "content" in value:
        return {**value, "content": change_texts(value["content"], change)}
    return value
