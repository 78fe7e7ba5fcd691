"""Raw rows out of files, saved datasets, the hub, and tables in memory, one at a time.

Every row comes with its place in words, such as `train.jsonl, line 7`, so that whatever is wrong
with it later can be told where it stands. A fault in one row does not end the reading; a fault that
leaves nothing to read does, as a `DataError`.
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
    """One row as it was found.

    Attributes:
        place: where it stands, for people.
        values: its columns; empty when it could not be read.
        fault: why it could not be read, or None.
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
            or a list of them. Compressed files (`.gz`, `.bz2`, `.xz`, `.zst`) are read as they are.
        split: which array to take of a JSON file that holds several.
        format: `jsonl`, `json`, `csv`, `tsv` or `parquet`; by default the file name tells.
        delimiter: between the fields of a CSV file.

    Raises:
        DataError: a file is missing or cannot be read at all.
    """
    options = {"split": split, "delimiter": delimiter}
    for name in find_files(path):
        form = format or format_of(name)
        if form not in READERS:
            raise DataError(f"{name}: unknown format {form!r}; valid: {', '.join(READERS)}")
        if (split is not None and form != "json") or (delimiter and form not in {"csv", "tsv"}):
            raise DataError(f"{name}: `split:` is for JSON files, `delimiter:` for CSV files")
        read = READERS[form]
        try:
            with _open(name) as file:
                yield from read(file, name, **options)
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise DataError(f"{name}: cannot be read: {error}") from None


def find_files(path: str | Path | Sequence[str | Path]) -> list[str]:
    """Return the files that a path, a pattern, an address, or a list of them stands for.

    Raises:
        DataError: one of them stands for nothing, or for a folder.
    """
    if not isinstance(path, str | Path):
        return [name for each in path for name in find_files(each)]
    name = str(path)
    if "://" in name:
        return _find_remote(name)
    place = Path(name).expanduser()
    if place.is_dir():
        raise DataError(f"{place} is a folder; name its files, such as {place / '*.jsonl'}")
    if place.is_file():
        return [str(place)]
    found = sorted(file for file in glob.glob(str(place), recursive=True) if Path(file).is_file())
    if not found:
        if glob.has_magic(name):
            raise DataError(f"{place}: no data file fits this pattern")
        beside = [file.name for file in place.parent.glob("*")] if place.parent.is_dir() else []
        raise DataError(f"{place}: no such data file{nearest(place.name, beside)}")
    return found


def _find_remote(address: str) -> list[str]:
    import fsspec

    try:
        files, place = fsspec.core.url_to_fs(address)
        found = sorted(files.glob(place)) if glob.has_magic(address) else [place]
        found = [name for name in found if files.isfile(name)]
    except ImportError as error:
        protocol = address.split("://")[0]
        remedy = "pip install 'finetuning-lab[s3]'" if protocol == "s3" else str(error)
        raise DataError(
            f"{address}: nothing here can read {protocol}:// addresses; {remedy}"
        ) from None
    except ValueError as error:
        raise DataError(f"{address}: {error}") from None
    except Exception as error:  # every file system has its own kinds
        raise DataError(f"{address}: cannot be reached: {type(error).__name__}: {error}") from None
    if not found:
        raise DataError(f"{address}: no such data file")
    return [files.unstrip_protocol(name) for name in found]


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
    """Yield (line, fault) of UTF-8 text; a byte-order mark, as Excel writes it, is left out."""
    for number, line in enumerate(file):
        try:
            yield line.decode("utf-8-sig" if number == 0 else "utf-8"), None
        except UnicodeDecodeError as error:
            found = f"byte 0x{line[error.start]:02x} at position {error.start + 1}"
            yield "", f"not UTF-8 ({found}); save the file as UTF-8"


def _jsonl(file: IO[bytes], name: str, **_: Any) -> Iterator[RawRow]:
    for number, (line, fault) in enumerate(_lines(file), 1):
        row = None
        if not fault:
            why = ""
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                why = f" ({error})"
            if not isinstance(row, dict):
                found = repr(line.strip()[:80]) if line.strip() else "an empty line"
                fault = f"expected one JSON object, found {found}{why if line.strip() else ''}"
        yield RawRow(f"{name}, line {number}", {} if fault else row, fault)


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
        raise DataError(
            f"{name}: a split {split!r} was asked for, but the file is one list of rows"
        )
    if not isinstance(content, list):
        raise DataError(f"{name}: expected a list of rows, found {type(content).__name__}")
    for number, row in enumerate(content, 1):
        good = isinstance(row, dict)
        fault = None if good else f"expected an object, found {row!r:.80}"
        yield RawRow(f"{name}, row {number}", row if good else {}, fault)


def choose_split(name: str, splits: Sequence[str], asked: str | None) -> str:
    """Return which of several splits to take.

    Raises:
        DataError: the one asked for is not there, or none was asked for and there is a choice.
    """
    there = ", ".join(map(repr, splits)) or "none"
    asked = str(asked) if asked is not None else None
    if asked is not None and asked not in splits:
        raise DataError(f"{name} has no split {asked!r}{nearest(asked, splits)} It has: {there}")
    if asked is None and len(splits) != 1:
        raise DataError(f"{name}: say which `split:` of it to take; it has: {there}")
    return asked or splits[0]


def _csv(file: IO[bytes], name: str, delimiter: str | None, **_: Any) -> Iterator[RawRow]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    line = 0

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
        raise DataError(f"{name}: a column stands twice in the first line: {', '.join(fields)}")
    if len(fields) == 1 and any(mark in fields[0] for mark in ";\t|"):
        raise DataError(
            f"{name}: only one column, {fields[0]!r}; if another mark than a comma stands between "
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
    """Yield rows with their place, counted from 1."""
    for number, row in enumerate(rows, 1):
        yield RawRow(f"{name}, row {number}", dict(row))


def read_table(table: Any, name: str = "the data") -> Iterator[RawRow]:
    """Yield the rows of what is in memory: a DataFrame, a `Dataset`, or a list of dicts."""
    if hasattr(table, "to_dict") and hasattr(table, "notna"):
        table = table.astype(object).where(table.notna(), None).to_dict(orient="records")
    return numbered(table, name)


def read_dataset(path: str, **kwargs: Any) -> Iterator[RawRow]:
    """Yield the rows of `datasets.load_dataset(path, **kwargs)`; see `load_dataset` here."""
    return _rows_of(load_dataset(path, **kwargs), f"dataset {path}", None)


def load_dataset(path: str, split: str | None = None, **kwargs: Any) -> Any:
    """Return one split of `datasets.load_dataset`, memory-mapped.

    Whether the hub answers is asked once, for 3 seconds at most; without it the cache is used.

    Raises:
        DataError: the dataset is gated, missing, out of reach and not in the cache, or it has no
            such split.
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
        told = f"{state}, and the cache does not have it" if state != "there" else str(error)
        raise DataError(
            f"dataset {path} cannot be had: {told}. Check the name and the network "
            "(gated datasets need HF_TOKEN)"
        ) from None
    finally:
        datasets.config.HF_HUB_OFFLINE = was_offline
    return loaded[choose_split(f"dataset {path}", list(loaded), split)]


def read_saved(dataset_path: str | Path, split: str | None = None) -> Iterator[RawRow]:
    """Yield the rows of a dataset that `save_to_disk` wrote.

    Raises:
        DataError: there is none, or it has no such split.
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
        raise DataError(f"{name}: a split {split!r} was asked for, but it has only one part")
    rows = (
        dict(zip(batch, values, strict=True))
        for batch in loaded.iter(1_000)
        for values in zip(*batch.values(), strict=True)
    )
    return numbered(rows, name)
