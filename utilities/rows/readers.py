"""Readers: raw rows from files, saved datasets, the hub, and tables in memory, one at a time.

Every row comes with its location in words, such as `train.jsonl, line 7`, so that a later message
can name it. A fault in one row does not end the reading; a fault that leaves nothing to read raises
a `DataError`.
"""

import csv
import glob
import json
import lzma
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from utilities.errors import DataError, nearest


class RawRow(NamedTuple):
    """One row as it is in the source.

    Attributes:
        place: file and line or row number, for messages.
        values: the row's columns; empty if the row could not be read.
        fault: why the row could not be read, or None.
    """

    place: str
    values: dict[str, Any]
    fault: str | None = None


def read_files(
    path: str | Path | Sequence[str | Path],
    split: str | None = None,
    format: str | None = None,
    delimiter: str | None = None,
) -> Iterator[RawRow]:
    """Yield the rows of files, in the order of their names.

    Args:
        path: a file, a pattern such as `data/*.jsonl`, an address such as `s3://bucket/rows.csv`,
            or a list of them. Compressed files (`.gz`, `.bz2`, `.xz`, `.zst`) are decompressed.
        split: the array to read from a JSON file with several.
        format: `jsonl`, `json`, `csv`, `tsv` or `parquet`; by default that of the file name.
        delimiter: the character between the fields of a CSV file.

    Raises:
        DataError: a file is missing or cannot be read.
    """
    options = {"split": split, "delimiter": delimiter}
    for name in find_files(path):
        file_format = format or format_of(name)
        if file_format not in READERS:
            raise DataError(f"{name}: unknown format {file_format!r}; valid: {', '.join(READERS)}")
        is_csv = file_format in {"csv", "tsv"}
        if (split is not None and file_format != "json") or (delimiter and not is_csv):
            raise DataError(f"{name}: `split:` is for JSON files, `delimiter:` for CSV files")
        read = READERS[file_format]
        try:
            with _open(name) as file:
                yield from read(file, name, **options)
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise DataError(f"{name}: cannot be read: {error}") from None


def find_files(path: str | Path | Sequence[str | Path]) -> list[str]:
    """Return the files that a path, a pattern, an address, or a list of them matches.

    Raises:
        DataError: one of them matches no file, or is a folder.
    """
    if not isinstance(path, str | Path):
        return [name for part in path for name in find_files(part)]
    name = str(path)
    if "://" in name:
        return _find_remote(name)
    local = Path(name).expanduser()
    if local.is_dir():
        raise DataError(f"{local} is a folder; name its files, such as {local / '*.jsonl'}")
    if local.is_file():
        return [str(local)]
    files = sorted(file for file in glob.glob(str(local), recursive=True) if Path(file).is_file())
    if not files:
        if glob.has_magic(name):
            raise DataError(f"{local}: no data file fits this pattern")
        beside = [file.name for file in local.parent.glob("*")] if local.parent.is_dir() else []
        raise DataError(f"{local}: no such data file{nearest(local.name, beside)}")
    return files


def _find_remote(address: str) -> list[str]:
    import fsspec

    try:
        file_system, path = fsspec.core.url_to_fs(address)
        names = sorted(file_system.glob(path)) if glob.has_magic(address) else [path]
        names = [name for name in names if file_system.isfile(name)]
    except ImportError as error:
        protocol = address.split("://")[0]
        remedy = "pip install 'finetuning-lab[s3]'" if protocol == "s3" else str(error)
        raise DataError(
            f"{address}: no installed package reads {protocol}:// addresses; {remedy}"
        ) from None
    except ValueError as error:
        raise DataError(f"{address}: {error}") from None
    except Exception as error:  # every file system raises errors of its own
        raise DataError(f"{address}: cannot be reached: {type(error).__name__}: {error}") from None
    if not names:
        raise DataError(f"{address}: no such data file")
    return [file_system.unstrip_protocol(name) for name in names]


def _open(name: str) -> IO[bytes]:
    import fsspec

    return fsspec.open(name, "rb", compression="infer").open()


def format_of(name: str) -> str:
    """Return the format that a file's name tells, a key of `READERS`.

    Raises:
        DataError: the name tells none.
    """
    suffixes = [suffix.lstrip(".").lower() for suffix in Path(name).suffixes]
    if suffixes and suffixes[-1] in {"gz", "bz2", "xz", "zst"}:
        suffixes.pop()
    suffix = suffixes[-1] if suffixes else ""
    suffix = {"ndjson": "jsonl"}.get(suffix, suffix)
    if suffix not in READERS:
        raise DataError(
            f"{name}: cannot tell its format from its name; say `format:` {', '.join(READERS)}"
        )
    return suffix


def _lines(file: IO[bytes]) -> Iterator[tuple[str, str | None]]:
    """Yield (line, fault) of UTF-8 text, without the byte-order mark that Excel writes."""
    for number, line in enumerate(file):
        try:
            yield line.decode("utf-8-sig" if number == 0 else "utf-8"), None
        except UnicodeDecodeError as error:
            byte = f"byte 0x{line[error.start]:02x} at position {error.start + 1}"
            yield "", f"not UTF-8 ({byte}); save the file as UTF-8"


def _jsonl(file: IO[bytes], name: str, **_: Any) -> Iterator[RawRow]:
    for number, (line, fault) in enumerate(_lines(file), 1):
        values: dict[str, Any] = {}
        if not fault:
            values, fault = _json_object(line)
        yield RawRow(f"{name}, line {number}", values, fault)


def _json_object(line: str) -> tuple[dict[str, Any], str | None]:
    """Return (the object, None) of a line, or ({}, the fault)."""
    if not line.strip():
        return {}, "expected one JSON object, found an empty line"
    reason = ""
    try:
        value = json.loads(line)
        if isinstance(value, dict):
            return value, None
    except (ValueError, RecursionError) as error:
        reason = f" ({error})"
    return {}, f"expected one JSON object, found {line.strip()[:80]!r}{reason}"


def _json(file: IO[bytes], name: str, split: str | None, **_: Any) -> Iterator[RawRow]:
    try:
        content = json.loads(file.read().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: not UTF-8 at byte {error.start + 1}; save it as UTF-8") from None
    except (ValueError, RecursionError) as error:
        hint = "; if each line is an object, say `format: jsonl`" if "Extra" in str(error) else ""
        raise DataError(f"{name}: not valid JSON: {error}{hint}") from None
    if isinstance(content, dict):
        splits = [key for key, value in content.items() if isinstance(value, list)]
        split = choose_split(name, splits, split)
        content, name = content[split], f"{name}, {split!r}"
    elif split is not None:
        raise DataError(f"{name}: `split` is {split!r}, but the file is one list of rows")
    if not isinstance(content, list):
        raise DataError(f"{name}: expected a list of rows, found {type(content).__name__}")
    for number, row in enumerate(content, 1):
        if isinstance(row, dict):
            yield RawRow(f"{name}, row {number}", row)
        else:
            yield RawRow(f"{name}, row {number}", {}, f"expected an object, found {row!r:.80}")


def choose_split(name: str, splits: Sequence[str], split: str | None) -> str:
    """Return the name of the split to read.

    Raises:
        DataError: there is no such split, or none is named and there are several.
    """
    names = ", ".join(map(repr, splits)) or "none"
    if split is None:
        if len(splits) != 1:
            raise DataError(f"{name}: say which `split:` of it to take; it has: {names}")
        return splits[0]
    split = str(split)  # YAML may read a name as a number
    if split not in splits:
        raise DataError(f"{name} has no split {split!r}{nearest(split, splits)} It has: {names}")
    return split


def _csv(file: IO[bytes], name: str, delimiter: str | None, **_: Any) -> Iterator[RawRow]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # the default refuses fields over 128 KiB
    line = 0  # of the last line read; a quoted field may hold several

    def text() -> Iterator[str]:
        nonlocal line
        for content, fault in _lines(file):
            line += 1
            if fault:
                raise DataError(f"{name}, line {line}: {fault}")
            yield content

    rows = csv.reader(text(), delimiter=delimiter or ",", strict=True)
    header: list[str] | None = None
    while True:
        start = line + 1
        try:
            fields = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{name}, line {start}: not valid CSV: {error}") from None
        if not fields:
            continue  # an empty line
        if header is None:
            header = _header(fields, name)
        elif len(fields) != len(header):
            fault = f"expected {len(header)} fields ({', '.join(header)}), found {len(fields)}"
            yield RawRow(f"{name}, line {start}", {}, fault)
        else:
            yield RawRow(f"{name}, line {start}", dict(zip(header, fields, strict=True)))


def _header(fields: list[str], name: str) -> list[str]:
    if len(set(fields)) < len(fields):
        raise DataError(f"{name}: a column is named twice in the first line: {', '.join(fields)}")
    if len(fields) == 1 and any(mark in fields[0] for mark in ";\t|"):
        raise DataError(
            f"{name}: only one column, {fields[0]!r}; if another character than a comma separates "
            "the fields, name it with `delimiter:`"
        )
    return fields


def _tsv(file: IO[bytes], name: str, delimiter: str | None, **_: Any) -> Iterator[RawRow]:
    return _csv(file, name, delimiter or "\t")


def _parquet(file: IO[bytes], name: str, **_: Any) -> Iterator[RawRow]:
    import pyarrow
    from pyarrow import parquet

    try:
        batches = parquet.ParquetFile(file).iter_batches(batch_size=1_000)
        rows = (row for batch in batches for row in batch.to_pylist())
        yield from numbered(rows, name)
    except (pyarrow.ArrowInvalid, UnicodeDecodeError) as error:
        raise DataError(f"{name}: not a valid parquet file: {error}") from None


READERS: dict[str, Callable[..., Iterator[RawRow]]] = {
    "jsonl": _jsonl,
    "json": _json,
    "csv": _csv,
    "tsv": _tsv,
    "parquet": _parquet,
}


def numbered(rows: Iterable[Mapping[str, Any]], name: str) -> Iterator[RawRow]:
    """Yield rows with their number, counted from 1."""
    for number, row in enumerate(rows, 1):
        yield RawRow(f"{name}, row {number}", dict(row))


def read_table(table: Any, name: str = "the data") -> Iterator[RawRow]:
    """Yield the rows of a table in memory: a DataFrame, a `Dataset`, or a list of dicts."""
    if hasattr(table, "to_dict") and hasattr(table, "notna"):  # a DataFrame; NaN becomes None
        table = table.astype(object).where(table.notna(), None).to_dict(orient="records")
    return numbered(table, name)


def read_dataset(path: str, **kwargs: Any) -> Iterator[RawRow]:
    """Yield the rows of `datasets.load_dataset(path, **kwargs)`; see `load_dataset` here."""
    return _rows_of(load_dataset(path, **kwargs), f"dataset {path}", None)


def load_dataset(path: str, split: str | None = None, **kwargs: Any) -> Any:
    """Return one split of `datasets.load_dataset`, memory-mapped.

    One probe of 3 seconds at most decides whether the hub is reachable; if not, the cache is used.

    Raises:
        DataError: the dataset is gated or missing, the hub is not reachable and the cache has no
            copy, or there is no such split.
    """
    import datasets

    from utilities.hub import probe

    local = Path(path).exists() or path in {"csv", "json", "parquet", "arrow", "text"}
    state = "there" if local else probe(path, "dataset")
    was_offline = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = was_offline or state != "there"
    try:
        loaded = datasets.load_dataset(path, **kwargs)
    except (OSError, ValueError, TypeError, datasets.exceptions.DatasetsError) as error:
        reason = f"{state}, and the cache does not have it" if state != "there" else str(error)
        raise DataError(
            f"dataset {path} is not available: {reason}. Check the name and the network "
            "(gated datasets need HF_TOKEN)"
        ) from None
    finally:
        datasets.config.HF_HUB_OFFLINE = was_offline
    return loaded[choose_split(f"dataset {path}", list(loaded), split)]


def read_saved(dataset_path: str | Path, split: str | None = None) -> Iterator[RawRow]:
    """Yield the rows of a dataset that `save_to_disk` wrote.

    Raises:
        DataError: the folder holds no dataset, or there is no such split.
    """
    import datasets

    try:
        loaded = datasets.load_from_disk(str(dataset_path))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{dataset_path} holds no dataset of save_to_disk: {error}") from None
    return _rows_of(loaded, str(dataset_path), split)


def _rows_of(loaded: Any, name: str, split: str | None) -> Iterator[RawRow]:
    if isinstance(loaded, dict):
        split = choose_split(name, list(loaded), split)
        loaded, name = loaded[split], f"{name}, {split!r}"
    elif split is not None:
        raise DataError(f"{name}: `split` is {split!r}, but the dataset has only one part")
    rows = (
        dict(zip(batch, values, strict=True))
        for batch in loaded.iter(1_000)
        for values in zip(*batch.values(), strict=True)
    )
    return numbered(rows, name)
