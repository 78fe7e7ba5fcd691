"""Which columns of the data are the columns that a prompt format needs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from utilities.errors import DataError, nearest
from utilities.prompts.base import PromptFormat
from utilities.prompts.built_in import FORMATS
from utilities.prompts.chat import ChatFormat

# How sources call a request and its response. A format's own columns are one of these too, so that
# two of them, role by role, say what is renamed to what.
CONVENTIONS = (
    {"request": "question", "response": "answer"},
    {"request": "Question", "response": "Answer"},
    {"request": "instruction", "response": "output"},
    {"request": "instruction", "context": "input", "response": "output"},
    {"request": "instruction", "response": "response"},
    {"request": "instruction", "context": "input", "response": "response"},
    {"request": "instruction", "context": "context", "response": "response"},
    {"request": "input", "response": "output"},
    {"request": "input", "response": "response"},
    {"request": "input", "context": "contexts", "response": "response"},
    {"request": "prompt", "response": "completion"},
    {"request": "prompt", "response": "response"},
)


ToFormat = Callable[[dict[str, Any]], dict[str, Any] | str]


def columns_for(
    prompt_format: PromptFormat, found: Sequence[str], declared: Mapping[str, str], name: str
) -> ToFormat:
    """Decide how rows get the columns that a format needs.

    What is declared counts; else columns of the format's own names; else the one convention that
    the columns follow.

    Args:
        prompt_format: needs certain columns.
        found: the columns that the rows have.
        declared: for a column of the format, the name it has in the rows.
        name: of the source, for messages.

    Returns:
        A function from a row's columns to those of the format beside them, or to a fault in words
        when the row holds text that the format would lose.

    Raises:
        DataError: a declared column does not exist, or the columns follow several conventions.
    """
    wanted = [*prompt_format.columns, *prompt_format.optional_columns]
    for column, in_source in declared.items():
        if column not in wanted:
            raise DataError(
                f"columns: the format {prompt_format.name} has no column {column!r}"
                f"{nearest(column, wanted)} It has: {', '.join(wanted)}"
            )
        if in_source not in found:
            raise DataError(
                f"{name}: lacks the column {in_source!r}{nearest(in_source, found)} "
                f"It has: {', '.join(found)}"
            )
    followed = _conventions(found)
    if declared:
        renamed = dict(declared)
    elif all(column in found for column in prompt_format.columns) or not followed:
        renamed = {}
    else:
        renamed = _by_convention(prompt_format, followed, name)
    for column in prompt_format.columns:
        if renamed and column == "messages":
            continue  # made from request and response
        if renamed.get(column, column) not in found:
            raise DataError(
                f"{name}: no row has the column {column!r}{nearest(column, found)} "
                f"They have: {', '.join(map(repr, found)) or 'nothing'}. "
                f"Say with `columns:` what {column!r} is called"
            )
    used = {renamed.get(column, column) for column in wanted} | set(renamed.values())
    lost = set().union(*(c.values() for c in followed if used & set(c.values()))) - used
    if declared or prompt_format.name not in FORMATS:
        lost = set()  # whoever names the columns knows what they want

    def to_format(row: dict[str, Any]) -> dict[str, Any] | str:
        for column in lost:
            if row.get(column):
                return (
                    f"has text in {column!r}, which the format {prompt_format.name} would lose; "
                    "take another format, or declare `columns`"
                )
        if not renamed:
            return row
        new = {column: row[place] for column, place in renamed.items() if place in row}
        if isinstance(prompt_format, ChatFormat) and "request" in renamed:
            return {**row, "messages": _as_messages(new)}
        return {**row, **new}

    return to_format


def _conventions(found: Iterable[str]) -> list[dict[str, str]]:
    """Return the conventions that columns follow, without those that a fuller one contains."""
    found = set(found)
    fits = [c for c in CONVENTIONS if set(c.values()) <= found]
    return [c for c in fits if not any(set(c.values()) < set(other.values()) for other in fits)]


def _by_convention(
    prompt_format: PromptFormat, followed: list[dict[str, str]], name: str
) -> dict[str, str]:
    """Return the format's column → the source's, role by role."""
    if len(followed) > 1:
        told = " or ".join("/".join(c.values()) for c in followed)
        raise DataError(
            f"{name}: its columns could be read as {told}; say which with `columns:`, such as "
            f"{{{prompt_format.columns[0]}: {followed[0]['request']}}}"
        )
    (theirs,) = followed
    if isinstance(prompt_format, ChatFormat):
        return {role: column for role, column in theirs.items() if role != "context"}
    wanted = {*prompt_format.columns, *prompt_format.optional_columns}
    for ours in CONVENTIONS:
        if set(ours.values()) == wanted:
            return {ours[role]: column for role, column in theirs.items() if role in ours}
    return {}


def _as_messages(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": row.get("request")},
        {"role": "assistant", "content": row.get("response")},
    ]
