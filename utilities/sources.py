"""Reading rows: JSON Lines files into lists of dicts, each fault named by file and line."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jsonlines

from utilities.config import LabError, nearest

logger = logging.getLogger(__name__)

OnBadRows = Literal["stop", "skip"]
Only = Mapping[str, str | tuple[str, ...]]


class DataError(LabError):
    """Data that cannot be used as it is; the message names file, line and remedy."""


def read_jsonl(
    path: str | Path,
    columns: Sequence[str],
    on_bad_rows: OnBadRows = "stop",
    only: Only | None = None,
) -> list[dict[str, Any]]:
    """Read a JSON Lines file: one JSON object a line, UTF-8.

    Args:
        path: the file.
        columns: the columns every row must have, each a string with more than white space.
            Further columns are kept as they are.
        on_bad_rows: `stop` raises on a bad line; `skip` leaves it out and logs a warning.
        only: see `select_rows`; None keeps all rows.

    Returns:
        The rows, in the order of the file.

    Raises:
        DataError: the file is missing or has no rows, or (with `stop`) lines are bad. The message
            names up to five of them.

    Example:
        `read_jsonl("train.jsonl", ["question", "answer"])[0]["question"]`
    """
    path = Path(path)
    rows, faults = [], []
    try:
        with path.open("rb") as file:
            reader = jsonlines.Reader(file)
            for number, row in _numbered(reader):
                fault = row if isinstance(row, str) else _fault(row, columns)
                if fault:
                    faults.append(f"{path}, line {number}: {fault}")
                else:
                    rows.append(row)
    except FileNotFoundError:
        raise DataError(f"{path}: no such data file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    if faults and on_bad_rows == "stop":
        more = [f"… and {len(faults) - 5} more"] if len(faults) > 5 else []
        remedy = "Mend these lines, or set on_bad_rows to `skip` to leave them out."
        raise DataError("\n".join([*faults[:5], *more, remedy]))
    if not rows:
        raise DataError(f"{path}: no usable row in it ({len(faults)} bad)")
    if faults:
        logger.warning("%d bad line(s) left out; the first: %s", len(faults), faults[0])
    return select_rows(rows, only, path) if only else rows


def select_rows(
    rows: Sequence[dict[str, Any]], only: Only, source: object = "the data"
) -> list[dict[str, Any]]:
    """Keep the rows that have a certain value, or one of several, in certain columns.

    Args:
        rows: any dicts.
        only: for each column the value wanted, or a tuple of values.
        source: what the rows come from, for the message.

    Raises:
        DataError: no row has such a column or value; the message names those there are.

    Example:
        >>> select_rows([{"part": "core"}, {"part": "more"}], {"part": "core"})
        [{'part': 'core'}]
    """
    kept = list(rows)
    for column, wanted in only.items():
        values = {str(row[column]) for row in kept if column in row}
        wanted = {wanted} if isinstance(wanted, str) else set(wanted)
        if not values:
            columns = dict.fromkeys(name for row in rows for name in row)
            raise DataError(f"{source}: no row has the column {column!r}{nearest(column, columns)}")
        if missing := wanted - values:
            found = ", ".join(sorted(values)[:10])
            raise DataError(f"{source}: no row has {missing} in {column!r}; found: {found}")
        kept = [row for row in kept if str(row.get(column)) in wanted]
    return kept


def _numbered(reader: jsonlines.Reader):
    """Yield (line number, row), or (line number, fault as text) for a line that is no object."""
    number = 0
    while True:
        number += 1
        try:
            yield number, reader.read(type=dict)
        except EOFError:
            return
        except jsonlines.InvalidLineError as error:
            found = "an empty line" if not error.line.strip() else repr(error.line.strip()[:80])
            yield number, f"expected one JSON object, found {found}"


def _fault(row: dict[str, Any], columns: Sequence[str]) -> str | None:
    """Say what is wrong with a row, or return None."""
    for column in columns:
        if column not in row:
            found = f"it has {', '.join(map(repr, row)) or 'no columns'}"
            return f"lacks the column {column!r}{nearest(column, row)} ({found})"
        value = row[column]
        if not isinstance(value, str):
            return f"{column!r} must be text, found {type(value).__name__}: {value!r:.80}"
        if not value.strip():
            return f"{column!r} is empty; write the text, or delete the line"
    return None
