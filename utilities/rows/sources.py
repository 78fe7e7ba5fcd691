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
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from utilities.config import ConfigPath, StrictModel, from_file
from utilities.errors import DataError, nearest
from utilities.prompts.base import PromptFormat
from utilities.rows.columns import columns_for
from utilities.rows.patches import patched
from utilities.rows.readers import (
    RawRow,
    find_files,
    load_dataset,
    read_dataset,
    read_files,
    read_saved,
    read_table,
)
from utilities.upstream import dataset_fingerprint

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
    """Where rows come from."""

    method: Literal["files", "load_dataset", "load_from_disk"] = "files"
    """`files` (JSONL, JSON, CSV, TSV, parquet), `load_dataset` (the hub, or any builder of the
    library `datasets`) or `load_from_disk` (what `save_to_disk` wrote).
    """
    kwargs: dict[str, Any]
    """What the method takes: see `readers.read_files`, `datasets.load_dataset`, and
    `readers.read_saved`.
    """
    columns: dict[str, str] = Field(default_factory=dict)
    """For a column that the prompt format needs, the name it has in the source."""
    only: Only | None = None
    """Rows to keep, by column and value, or several values."""
    on_bad_rows: OnBadRows = "stop"
    """`stop` at rows that cannot be used, or `skip` them with a warning."""
    patch: ConfigPath | None = None
    """A file of corrections, as `utilities.audit` writes it."""
    limit: int | None = Field(default=None, ge=1)
    """Take the first rows only."""

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
    return patched(rows, source.patch) if source.patch else rows


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
        digest.update(dataset_fingerprint(load_dataset(**source.kwargs)).encode())
    return digest.hexdigest()[:16]


def _files_of(source: Source) -> list[str]:
    patch = find_files(source.patch) if source.patch else []
    if source.method == "files":
        return find_files(source.kwargs["path"]) + patch
    if source.method == "load_from_disk":
        folder = Path(source.kwargs["dataset_path"])
        return [str(file) for file in sorted(folder.rglob("*")) if file.is_file()] + patch
    return patch
