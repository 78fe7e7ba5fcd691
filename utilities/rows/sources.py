"""Sources of rows: one `source` block says where they are and what their columns are called.

    source:
      method: files                  # or load_dataset, load_from_disk
      kwargs: {path: data/*.jsonl}   # arguments of the method
      columns: {question: Question}  # the format's column: the source's

A row gets the columns that the prompt format needs, whatever the source calls them, and keeps its
own. A message about a fault names file and row. Nothing is guessed: where columns could mean two
things, the message asks for `columns`.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from utilities.config import ConfigPath, StrictModel, from_file, keys_by_method
from utilities.errors import DataError, nearest
from utilities.prompts.base import PromptFormat
from utilities.rows.columns import ToFormat, columns_for
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


MAX_NAMED = 5
"""Bad rows that a message names, at most."""


OnBadRows = Literal["stop", "skip"]


Scalar = str | bool | int | float


Only = Annotated[
    Mapping[str, Scalar | tuple[Scalar, ...]],
    Field(title="mapping of columns to a value or a list of values"),
]


class Method(NamedTuple):
    """A way to read rows.

    Attributes:
        read: the function that yields the rows.
        location: the key of `kwargs` that says where the rows are.
        keys: all keys that it takes; None where they depend on the dataset's builder.
    """

    read: Callable[..., Iterator[RawRow]]
    location: str
    keys: set[str] | None


METHODS = {
    "files": Method(read_files, "path", {"path", "split", "format", "delimiter"}),
    "load_dataset": Method(read_dataset, "path", None),
    "load_from_disk": Method(read_saved, "dataset_path", {"dataset_path", "split"}),
}


class Source(StrictModel):
    """Where rows come from."""

    model_config = ConfigDict(
        json_schema_extra=keys_by_method(
            "files", {name: ({key}, valid) for name, (_, key, valid) in METHODS.items()}
        )
    )

    method: Literal["files", "load_dataset", "load_from_disk"] = "files"
    """`files` (JSONL, JSON, CSV, TSV, parquet), `load_dataset` (the hub, or any builder of the
    library `datasets`) or `load_from_disk` (what `save_to_disk` wrote).
    """
    kwargs: dict[str, Any]
    """Arguments of the method: see `readers.read_files`, `datasets.load_dataset`, and
    `readers.read_saved`.
    """
    columns: dict[str, str] = Field(default_factory=dict)
    """For a column that the prompt format needs, its name in the source."""
    only: Only | None = None
    """Which rows to keep: for a column, the value or the values that a row must have."""
    on_bad_rows: OnBadRows = "stop"
    """`stop` at rows that cannot be used, or `skip` them with a warning."""
    patch: ConfigPath | None = None
    """A file of corrections, as `utilities.audit` writes it."""
    limit: int | None = Field(default=None, ge=1)
    """Number of rows to use at most, from the start."""

    @field_validator("kwargs")
    @classmethod
    def _fit_the_method(cls, kwargs: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "method" not in info.data:
            return kwargs
        name = info.data["method"]
        _, location, valid = METHODS[name]
        if "streaming" in kwargs:
            raise ValueError("rows are read one by one from the disk anyway; leave streaming out")
        for key in kwargs:
            if valid is not None and key not in valid:
                takes = f"{name} takes {', '.join(sorted(valid))}"
                raise ValueError(f"unknown key {key!r}{nearest(key, valid)} {takes}")
        if location not in kwargs:
            raise ValueError(f"{name} needs the key {location!r}")
        value = kwargs[location]
        paths = value if isinstance(value, list) else [value]
        if not paths or not all(isinstance(path, str | Path) and str(path) for path in paths):
            raise ValueError(f"{location} must be text, found {value!r}")
        _check_delimiter(kwargs.get("delimiter"))
        return {**kwargs, location: _from_config_folder(value, info)}


def _check_delimiter(value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, str) or len(value) != 1 or value in "\r\n":
        raise ValueError(f"delimiter must be one character, found {value!r}")


def _from_config_folder(value: Any, info: ValidationInfo) -> Any:
    """Resolve file names against the config file's folder, but not hub ids and addresses."""
    if isinstance(value, list):
        return [_from_config_folder(part, info) for part in value]
    is_hub_id = info.data["method"] == "load_dataset" and not str(value).startswith((".", "~", "/"))
    return value if is_hub_id or "://" in str(value) else str(from_file(Path(value), info))


def _from_path(value: Any) -> Any:
    return {"kwargs": {"path": str(value)}} if isinstance(value, str | Path) else value


ConfigSource = Annotated[Source, BeforeValidator(_from_path, json_schema_input_type=Path | Source)]
"""A source in a config: the block, or only the path of a file."""


AnySource = Source | str | Path | Sequence[Mapping[str, Any]] | Any
"""A `Source`, the path of a file, or rows in memory: a list of dicts, a DataFrame, a `Dataset`."""


def read_rows(source: AnySource, prompt_format: PromptFormat) -> list[dict[str, Any]]:
    """Read the rows of a source that a prompt format can use.

    Args:
        source: where the rows are.
        prompt_format: the format, which says what columns the rows need.

    Returns:
        The rows in their order, with all their columns and those that the format needs.

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
    """Yield the rows of `read_rows` one by one, for sources larger than memory.

    A fault of the source as a whole, such as a value of `only` that no row has, is raised at its
    end.

    Args:
        source: where the rows are.
        prompt_format: the format, which says what columns the rows need.
        counts: is increased by the number of rows that were `read`, `bad`, and yielded (`rows`).
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
    """Return a source (for a path, the `Source`), its settings, and its name for messages."""
    if isinstance(source, str | Path):
        source = Source(kwargs={"path": str(source)})
    if isinstance(source, Source):
        return source, source, str(source.kwargs[METHODS[source.method].location])
    return source, Source(kwargs={"path": "memory"}), "the data"


def raw_rows(source: AnySource) -> Iterator[RawRow]:
    """Return all rows of a source, also faulty ones, with the corrections of its patch.

    Raises:
        DataError: nothing can be read, or the patch was made for other rows.
    """
    source, _, _ = resolve(source)
    if not isinstance(source, Source):
        return read_table(source)
    rows = METHODS[source.method].read(**source.kwargs)
    return patched(rows, source.patch) if source.patch else rows


def wanted_values(only: Only | None) -> dict[str, set[str]]:
    """Return for each column of a selection the values that it keeps, as text."""
    return {
        column: set(map(str, values if isinstance(values, tuple | list) else [values]))
        for column, values in (only or {}).items()
    }


def _selected(rows: Iterator[RawRow], only: Only, name: str) -> Iterator[RawRow]:
    """Yield the rows with the selected values; raise at the end if no row has one of them."""
    selected = wanted_values(only)
    # All selected values that occur, and enough others to name some in a message.
    seen: dict[str, set[str]] = {column: set() for column in only}
    columns: dict[str, None] = {}
    for row in rows:
        columns |= dict.fromkeys(row.values)
        texts = {column: str(row.values[column]) for column in only if column in row.values}
        for column, text in texts.items():
            if text in selected[column] or len(seen[column]) < 10:
                seen[column].add(text)
        if row.fault or all(texts.get(column) in values for column, values in selected.items()):
            yield row
    for column, values in selected.items():
        if not seen[column]:
            raise DataError(f"{name}: no row has the column {column!r}{nearest(column, columns)}")
        if missing := values - seen[column]:
            examples = ", ".join(sorted(seen[column])[:10])
            raise DataError(f"{name}: no row has {missing} in {column!r}; found: {examples}")


def _usable(
    rows: Iterator[RawRow],
    prompt_format: PromptFormat,
    source: Source,
    name: str,
    counts: Counter,
) -> Iterator[dict[str, Any]]:
    """Yield the rows that fit the format; stop at the others, or skip them with a warning."""
    head = list(islice(rows, 100))
    columns = dict.fromkeys(column for row in head for column in row.values)
    to_format: ToFormat = dict
    if columns:
        to_format = columns_for(prompt_format, list(columns), source.columns, name)
    faults: list[str] = []
    for raw in chain(head, rows):
        if raw.values.keys() - columns.keys():  # a column that comes later may change the mapping
            columns |= dict.fromkeys(raw.values)
            to_format = columns_for(prompt_format, list(columns), source.columns, name)
        values = raw.fault or to_format(raw.values)
        fault = values if isinstance(values, str) else prompt_format.fault(values)
        if isinstance(values, str) or fault:
            counts["bad"] += 1
            if len(faults) < MAX_NAMED:
                faults.append(f"{raw.place}: {fault}")
        elif not faults or source.on_bad_rows == "skip":
            counts["rows"] += 1
            yield values
    bad = counts["bad"]
    if bad and source.on_bad_rows == "stop":
        if bad > MAX_NAMED:
            faults.append(f"… and {bad - MAX_NAMED} more")
        faults.append("Correct these rows, or set on_bad_rows to `skip` to leave them out.")
        raise DataError("\n".join(faults))
    if not counts["rows"]:
        first = f"; the first: {faults[0]}" if faults else ""
        raise DataError(f"{name}: no usable row in it ({counts['read']} read, {bad} bad{first})")
    if bad:
        logger.warning("%s: %d bad row(s) left out; the first: %s", name, bad, faults[0])


def fingerprint(source: Source) -> str:
    """Return a hash of a source's content and settings: 16 hexadecimal digits.

    It covers every byte of local files, size and version of remote ones, and the fingerprint of a
    dataset of the hub, which changes with its commit. It does not depend on where the files are.
    """
    settings = source.model_dump(mode="json", exclude={"patch"})
    settings["kwargs"].pop(METHODS[source.method].location)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name in _files_of(source):
        if "://" in name:
            import fsspec

            file_system, path = fsspec.core.url_to_fs(name)
            digest.update(file_system.ukey(path).encode())
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
