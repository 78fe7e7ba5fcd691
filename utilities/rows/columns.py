"""Which columns of the data are the columns that a prompt format needs.

Three ways, the first that applies: columns that the source declares; columns with the format's own
names; the one convention of `CONVENTIONS` that the data's columns follow.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from utilities.errors import DataError, nearest
from utilities.prompts.base import PromptFormat
from utilities.prompts.built_in import FORMATS
from utilities.prompts.chat import ChatFormat

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
"""Column names in common use, by role. A format's own columns follow one of these too, so that two
conventions, role by role, give the new name of each column.
"""


ToFormat = Callable[[dict[str, Any]], dict[str, Any] | str]
"""Returns a row with the format's columns added, or a fault in words."""


def columns_for(
    prompt_format: PromptFormat,
    row_columns: Sequence[str],
    declared: Mapping[str, str],
    name: str,
) -> ToFormat:
    """Return a function that adds the columns of a format to a row.

    Args:
        prompt_format: the format, with `columns` and `optional_columns`.
        row_columns: the columns that the rows have.
        declared: for a column of the format, its name in the rows.
        name: the source's name, for messages.

    Returns:
        A function of a row. It returns the row with the format's columns beside its own; or a
        fault in words, if the row has text that the format would lose.

    Raises:
        DataError: a declared column does not exist, a column is missing, or the columns follow
            several conventions.
    """
    format_columns = [*prompt_format.columns, *prompt_format.optional_columns]
    _check_declared(declared, format_columns, row_columns, prompt_format.name, name)
    conventions = _conventions_of(row_columns)
    if declared:
        renamed = dict(declared)
    elif conventions and not all(column in row_columns for column in prompt_format.columns):
        renamed = _renamed_by_convention(prompt_format, conventions, name)
    else:
        renamed = {}
    _check_present(prompt_format, renamed, row_columns, name)
    # Whoever declares columns, or makes a format, knows what is left out; a convention does not.
    lost = set()
    if not declared and prompt_format.name in FORMATS:
        used = {renamed.get(column, column) for column in format_columns} | set(renamed.values())
        lost = _lost_columns(conventions, used)

    def to_format(row: dict[str, Any]) -> dict[str, Any] | str:
        for column in lost:
            if row.get(column):
                return (
                    f"has text in {column!r}, which the format {prompt_format.name} would lose; "
                    "take another format, or declare `columns`"
                )
        new = {column: row[old] for column, old in renamed.items() if old in row}
        if isinstance(prompt_format, ChatFormat) and "request" in renamed:
            return {**row, "messages": _as_messages(new)}
        return {**row, **new} if new else row

    return to_format


def _check_declared(
    declared: Mapping[str, str],
    format_columns: Sequence[str],
    row_columns: Sequence[str],
    format_name: str,
    name: str,
) -> None:
    """Raise a DataError unless declared columns exist, in the format and in the rows."""
    for column, in_source in declared.items():
        if column not in format_columns:
            raise DataError(
                f"columns: the format {format_name} has no column {column!r}"
                f"{nearest(column, format_columns)} It has: {', '.join(format_columns)}"
            )
        if in_source not in row_columns:
            raise DataError(
                f"{name}: lacks the column {in_source!r}{nearest(in_source, row_columns)} "
                f"It has: {', '.join(row_columns)}"
            )


def _check_present(
    prompt_format: PromptFormat,
    renamed: Mapping[str, str],
    row_columns: Sequence[str],
    name: str,
) -> None:
    """Raise a DataError unless the rows have each column that the format needs."""
    for column in prompt_format.columns:
        if renamed and column == "messages":
            continue  # made from request and response
        if renamed.get(column, column) not in row_columns:
            raise DataError(
                f"{name}: no row has the column {column!r}{nearest(column, row_columns)} "
                f"They have: {', '.join(map(repr, row_columns)) or 'nothing'}. "
                f"Say with `columns:` what {column!r} is called"
            )


def _lost_columns(conventions: Iterable[Mapping[str, str]], used: set[str]) -> set[str]:
    """Return the columns of the conventions that the format uses only in part."""
    lost: set[str] = set()
    for convention in conventions:
        columns = set(convention.values())
        if columns & used:
            lost |= columns - used
    return lost


def _conventions_of(row_columns: Iterable[str]) -> list[dict[str, str]]:
    """Return the conventions that columns follow, without those that a fuller one contains."""
    present = set(row_columns)
    fits = [c for c in CONVENTIONS if set(c.values()) <= present]
    return [c for c in fits if not any(set(c.values()) < set(other.values()) for other in fits)]


def _renamed_by_convention(
    prompt_format: PromptFormat, conventions: list[dict[str, str]], name: str
) -> dict[str, str]:
    """Return for each column of the format its name in the source, role by role.

    Raises:
        DataError: the columns follow several conventions.
    """
    if len(conventions) > 1:
        readings = " or ".join("/".join(c.values()) for c in conventions)
        raise DataError(
            f"{name}: its columns could be read as {readings}; say which with `columns:`, such as "
            f"{{{prompt_format.columns[0]}: {conventions[0]['request']}}}"
        )
    (theirs,) = conventions
    if isinstance(prompt_format, ChatFormat):
        return {role: column for role, column in theirs.items() if role != "context"}
    format_columns = {*prompt_format.columns, *prompt_format.optional_columns}
    for ours in CONVENTIONS:
        if set(ours.values()) == format_columns:
            return {ours[role]: column for role, column in theirs.items() if role in ours}
    return {}


def _as_messages(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": row.get("request")},
        {"role": "assistant", "content": row.get("response")},
    ]
