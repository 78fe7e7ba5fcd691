"""Rows from anywhere: one `source` block says where they are and how their columns are called.

    source:
      method: files                  # or load_dataset, load_from_disk
      kwargs: {path: data/*.jsonl}   # what the method takes
      columns: {question: Question}  # the format's column: the source's

A row comes out with the columns that the prompt format needs, whatever the source calls them, and
with all its own. A fault is told with file and row. Nothing is guessed: where columns could mean
two things, the message asks for `columns`.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from utilities.config import ConfigPath, StrictModel, from_file, nearest
from utilities.prompts import FORMATS, ChatFormat, PromptFormat
from utilities.readers import (
    DataError,
    RawRow,
    find_files,
    load_dataset,
    read_dataset,
    read_files,
    read_saved,
    read_table,
)

logger = logging.getLogger(__name__)

OnBadRows = Literal["stop", "skip"]
Scalar = str | bool | int | float
Only = Mapping[str, Scalar | tuple[Scalar, ...]]

# What each method takes, as far as a misspelt key can be told.
METHODS: dict[str, tuple[Callable[..., Iterator[RawRow]], str, set[str] | None]] = {
    "files": (read_files, "path", {"path", "split", "format", "delimiter"}),
    "load_dataset": (read_dataset, "path", None),
    "load_from_disk": (read_saved, "dataset_path", {"dataset_path", "split"}),
}


class Source(StrictModel):
    """Where rows come from.

    Attributes:
        method: `files` (JSONL, JSON, CSV, TSV, parquet), `load_dataset` (the hub, or any builder
            of the library `datasets`) or `load_from_disk` (what `save_to_disk` wrote).
        kwargs: what the method takes: see `readers.read_files`, `datasets.load_dataset`, and
            `readers.read_saved`.
        columns: for a column that the prompt format needs, the name it has in the source.
        only: rows to keep, by column and value, or several values.
        on_bad_rows: `stop` at rows that cannot be used, or `skip` them with a warning.
        patch: a file of corrections, as `utilities.audit` writes it.
        limit: take the first rows only.
    """

    method: Literal["files", "load_dataset", "load_from_disk"] = "files"
    kwargs: dict[str, Any]
    columns: dict[str, str] = Field(default_factory=dict)
    only: Only | None = None
    on_bad_rows: OnBadRows = "stop"
    patch: ConfigPath | None = None
    limit: int | None = Field(default=None, ge=1)

    @field_validator("kwargs")
    @classmethod
    def _fit_the_method(cls, kwargs: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "method" not in info.data:
            return kwargs
        _, needed, valid = METHODS[info.data["method"]]
        if "streaming" in kwargs:
            raise ValueError("rows are read one by one from the disk anyway; leave streaming out")
        if unknown := [key for key in kwargs if valid and key not in valid]:
            takes = f"{info.data['method']} takes {', '.join(sorted(valid))}"
            raise ValueError(f"unknown key {unknown[0]!r}{nearest(unknown[0], valid)} {takes}")
        if needed not in kwargs:
            raise ValueError(f"{info.data['method']} needs the key {needed!r}")
        places = kwargs[needed] if isinstance(kwargs[needed], list) else [kwargs[needed]]
        if not places or not all(isinstance(p, str | Path) and str(p) for p in places):
            raise ValueError(f"{needed} must be text, found {kwargs[needed]!r}")
        mark = kwargs.get("delimiter")
        if mark is not None and (not isinstance(mark, str) or len(mark) != 1 or mark in "\r\n"):
            raise ValueError(f"delimiter must be one character, found {mark!r}")
        return {**kwargs, needed: _from_config_folder(kwargs[needed], info)}


def _from_config_folder(value: Any, info: ValidationInfo) -> Any:
    """Make file names start at the config file's folder, and leave hub ids and addresses alone."""
    if isinstance(value, list):
        return [_from_config_folder(each, info) for each in value]
    is_hub_id = info.data["method"] == "load_dataset" and not str(value).startswith((".", "~", "/"))
    return value if is_hub_id or "://" in str(value) else str(from_file(Path(value), info))


def _from_path(value: Any) -> Any:
    return {"kwargs": {"path": str(value)}} if isinstance(value, str | Path) else value


ConfigSource = Annotated[Source, BeforeValidator(_from_path)]
"""A source in a config: the block, or just the path of a file."""

AnySource = Source | str | Path | Sequence[Mapping[str, Any]] | Any
"""A `Source`, the path of a file, or rows in memory: a list of dicts, a DataFrame, a `Dataset`."""


def read_rows(source: AnySource, prompt_format: PromptFormat) -> list[dict[str, Any]]:
    """Read the rows of a source that a prompt format can use.

    Args:
        source: where the rows are.
        prompt_format: says which columns they need.

    Returns:
        The rows in their order, each with all its columns, and with those the format needs.

    Raises:
        DataError: nothing can be read, no row is left, the columns could mean two things, or (with
            `on_bad_rows: stop`) rows are bad; the message names up to five of them.

    Example:
        `read_rows("train.jsonl", QUESTION_ANSWER)[0]["question"]`
    """
    return list(stream_rows(source, prompt_format))


def stream_rows(
    source: AnySource, prompt_format: PromptFormat, counts: Counter | None = None
) -> Iterator[dict[str, Any]]:
    """Yield what `read_rows` returns one by one, for sources larger than memory.

    What is wrong with the source as a whole, such as a value of `only` that no row has, can only be
    told at its end.

    Args:
        source: where the rows are.
        prompt_format: says which columns they need.
        counts: gets how many rows were `read`, how many of them were `bad`, and how many came out
            as `rows`.
    """
    counts = Counter() if counts is None else counts
    source, settings, name = resolve(source)
    rows = _counted(raw_rows(source), counts)
    if settings.only:
        rows = _selected(rows, settings.only, name)
    usable = _usable(rows, prompt_format, settings, name, counts)
    yield from islice(usable, settings.limit)


def _counted(rows: Iterator[RawRow], counts: Counter) -> Iterator[RawRow]:
    for row in rows:
        counts["read"] += 1
        yield row


def resolve(source: AnySource) -> tuple[AnySource, Source, str]:
    """Return a source (of a path, the `Source`), its settings, and its name for messages."""
    if isinstance(source, str | Path):
        source = Source(kwargs={"path": str(source)})
    if isinstance(source, Source):
        return source, source, str(source.kwargs[METHODS[source.method][1]])
    return source, Source(kwargs={"path": "memory"}), "the data"


def raw_rows(source: AnySource) -> Iterator[RawRow]:
    """Yield every row of a source as it stands there, faulty ones included; patched if it says so.

    Raises:
        DataError: nothing can be read, or the patch was made for other rows.
    """
    source, _, _ = resolve(source)
    if not isinstance(source, Source):
        return read_table(source)
    rows = METHODS[source.method][0](**source.kwargs)
    return _patched(rows, source.patch) if source.patch else rows


def wanted_values(only: Only | None) -> dict[str, set[str]]:
    """Return, as text, the values that a selection wants of each column."""
    return {
        column: set(map(str, values if isinstance(values, tuple | list) else [values]))
        for column, values in (only or {}).items()
    }


def _selected(rows: Iterator[RawRow], only: Only, name: str) -> Iterator[RawRow]:
    """Keep the rows that have the wanted values; say at the end which of them no row had."""
    wanted = wanted_values(only)
    found: dict[str, set[str]] = {column: set() for column in only}
    columns: dict[str, None] = {}
    for row in rows:
        columns |= dict.fromkeys(row.values)
        has = {column: str(row.values[column]) for column in only if column in row.values}
        for column, value in has.items():
            if value in wanted[column] or len(found[column]) < 10:
                found[column].add(value)
        if row.fault or all(has.get(column) in values for column, values in wanted.items()):
            yield row
    for column, values in wanted.items():
        if not found[column]:
            raise DataError(f"{name}: no row has the column {column!r}{nearest(column, columns)}")
        if missing := values - found[column]:
            told = ", ".join(sorted(found[column])[:10])
            raise DataError(f"{name}: no row has {missing} in {column!r}; found: {told}")


def _usable(
    rows: Iterator[RawRow],
    prompt_format: PromptFormat,
    source: Source,
    name: str,
    counts: Counter,
) -> Iterator[dict[str, Any]]:
    """Yield the rows that fit the format; stop at the others, or skip them with a warning."""
    head = list(islice(rows, 100))
    found = dict.fromkeys(column for row in head for column in row.values)
    to_format = columns_for(prompt_format, list(found), source.columns, name) if found else dict
    faults = []
    for raw in chain(head, rows):
        if raw.values.keys() - found.keys():  # a column that only comes later may change the matter
            found |= dict.fromkeys(raw.values)
            to_format = columns_for(prompt_format, list(found), source.columns, name)
        values = raw.fault or to_format(raw.values)
        fault = values if isinstance(values, str) else prompt_format.fault(values)
        if fault:
            counts["bad"] += 1
            faults += [f"{raw.place}: {fault}"] * (counts["bad"] <= 5)
        elif not faults or source.on_bad_rows == "skip":
            counts["rows"] += 1
            yield values
    bad = counts["bad"]
    if bad and source.on_bad_rows == "stop":
        more = [f"… and {bad - 5} more"] * (bad > 5)
        remedy = "Mend these rows, or set on_bad_rows to `skip` to leave them out."
        raise DataError("\n".join([*faults, *more, remedy]))
    if not counts["rows"]:
        first = f"; the first: {faults[0]}" if faults else ""
        raise DataError(f"{name}: no usable row in it ({counts['read']} read, {bad} bad{first})")
    if bad:
        logger.warning("%s: %d bad row(s) left out; the first: %s", name, bad, faults[0])


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


def row_hash(values: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that stand for the content of a row."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def raw_hash(row: RawRow) -> str:
    """Return the hash by which a patch knows a row, also one that cannot be read."""
    return row_hash({"": row.fault} if row.fault else row.values)


class PatchEntry(StrictModel):
    """One correction: a line of a patch file.

    Attributes:
        row: which row of the source, counted from 1 over all its files.
        sha256: `raw_hash` of the row as it was, so that a patch never meets another row.
        action: `drop` the row, or `replace` columns of it.
        values: the new columns, for `replace`.
        reason: why, for people.
    """

    row: int = Field(ge=1)
    sha256: str
    action: Literal["drop", "replace"]
    values: dict[str, Any] = Field(default_factory=dict)
    reason: str = ""


def _patched(rows: Iterable[RawRow], patch: Path) -> Iterator[RawRow]:
    entries: dict[int, PatchEntry] = {}
    for entry in read_patch(patch):
        if entry.row in entries:
            raise DataError(f"{patch} corrects row {entry.row} twice")
        entries[entry.row] = entry
    for number, row in enumerate(rows, 1):
        entry = entries.pop(number, None)
        if entry and entry.sha256 != raw_hash(row):
            raise DataError(
                f"{row.place} is not the row that {patch} was made for; run the audit again"
            )
        if entry is None:
            yield row
        elif entry.action == "replace":
            if not entry.values or set(entry.values) - set(row.values):
                raise DataError(
                    f"{patch}: the correction of row {number} must give new `values` of its "
                    f"columns {', '.join(map(repr, row.values))}, found {entry.values}"
                )
            yield RawRow(row.place, {**row.values, **entry.values})
    if entries:
        raise DataError(f"{patch} corrects row {min(entries)}, which the source does not have")


def read_patch(path: Path) -> list[PatchEntry]:
    """Read a patch file: JSON Lines, one `PatchEntry` each.

    Raises:
        DataError: it is missing, or a line is no correction.
    """
    entries = []
    for raw in read_files(path, format="jsonl"):
        try:
            if raw.fault:
                raise ValueError(raw.fault)
            entries.append(PatchEntry.model_validate(raw.values))
        except ValueError as error:
            raise DataError(f"{raw.place}: no correction: {error}") from None
    return entries


def fingerprint(source: Source) -> str:
    """Return a hash of what a source holds, so that nothing made of an older state is reused.

    Of files it covers every byte, of remote ones what their place tells (size, version), of a hub
    dataset its commit. Where the files lie does not matter.
    """
    settings = source.model_dump(mode="json", exclude={"patch"})
    settings["kwargs"].pop(METHODS[source.method][1])
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name in _files_of(source):
        if "://" in name:
            import fsspec

            files, place = fsspec.core.url_to_fs(name)
            digest.update(files.ukey(place).encode())
        else:
            with open(name, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    if source.method == "load_dataset":
        digest.update(load_dataset(**source.kwargs)._fingerprint.encode())
    return digest.hexdigest()[:16]


def _files_of(source: Source) -> list[str]:
    patch = find_files(source.patch) if source.patch else []
    if source.method == "files":
        return find_files(source.kwargs["path"]) + patch
    if source.method == "load_from_disk":
        folder = Path(source.kwargs["dataset_path"])
        return [str(file) for file in sorted(folder.rglob("*")) if file.is_file()] + patch
    return patch
