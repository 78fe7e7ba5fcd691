"""Patches: corrections of rows, kept in a file beside the data."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from utilities.config import StrictModel
from utilities.errors import DataError
from utilities.rows.readers import RawRow, read_files


def row_hash(values: Mapping[str, Any]) -> str:
    """Return a hash of a row's content: 16 hexadecimal digits of its SHA-256."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def raw_hash(row: RawRow) -> str:
    """Return the hash by which a patch identifies a row, also a row that cannot be read."""
    return row_hash({"": row.fault} if row.fault else row.values)


class PatchEntry(StrictModel):
    """One correction: a line of a patch file."""

    row: int = Field(ge=1)
    """Number of the row in the source, counted from 1 over all its files."""
    sha256: str
    """`raw_hash` of the row before the correction, so that no other row is changed by mistake."""
    action: Literal["drop", "replace"]
    """`drop` the row, or `replace` columns of it."""
    values: dict[str, Any] = Field(default_factory=dict)
    """The new values by column, for `replace`."""
    reason: str = ""
    """Why the row is corrected, for people."""


def patched(rows: Iterable[RawRow], patch: Path) -> Iterator[RawRow]:
    """Yield rows with the corrections of a patch file, without the dropped rows.

    Raises:
        DataError: the patch was made for other rows.
    """
    entries: dict[int, PatchEntry] = {}
    for entry in read_patch(patch):
        if entry.row in entries:
            raise DataError(f"{patch} corrects row {entry.row} twice")
        entries[entry.row] = entry
    for number, row in enumerate(rows, 1):
        if number not in entries:
            yield row
            continue
        entry = entries.pop(number)
        if entry.sha256 != raw_hash(row):
            raise DataError(
                f"{row.place} is not the row that {patch} was made for; run the audit again"
            )
        if entry.action == "replace":
            if not entry.values or set(entry.values) - set(row.values):
                raise DataError(
                    f"{patch}: the correction of row {number} must give new `values` of its "
                    f"columns {', '.join(map(repr, row.values))}, found {entry.values}"
                )
            yield RawRow(row.place, {**row.values, **entry.values})
    if entries:
        raise DataError(f"{patch} corrects row {min(entries)}, which the source does not have")


def read_patch(path: Path) -> list[PatchEntry]:
    """Read a patch file: JSON Lines, one `PatchEntry` per line.

    Raises:
        DataError: the file is missing, or a line is not a correction.
    """
    entries = []
    for raw in read_files(path, format="jsonl"):
        try:
            if raw.fault:
                raise ValueError(raw.fault)
            entries.append(PatchEntry.model_validate(raw.values))
        except ValueError as error:
            raise DataError(f"{raw.place}: not a correction: {error}") from None
    return entries
