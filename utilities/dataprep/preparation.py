"""Data preparation: from a source to a dataset on disk that training reads as it is.

    python -m utilities.dataprep configs/starting_point/dataprep.yaml [key=value …]

Rows are streamed and tokenized in shards, so the source may be larger than memory. A finished shard
is kept: the same command, started again after an interruption, continues from there. The dataset
appears as a whole at the end; until then everything is in `NAME.partial`. The dataset's fingerprint
covers source, prompt format, tokenizer and settings, and nothing with another one is reused.
"""

import contextlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from itertools import repeat
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets.table import MemoryMappedTable, concat_tables
from pyarrow import parquet
from transformers import PreTrainedTokenizerBase

from utilities import models
from utilities.dataprep.prepared import PREPARED_RECORD, Prepared
from utilities.dataprep.settings import DataprepConfig, Split
from utilities.dataprep.shards import ShardMaker, run_shards
from utilities.errors import DataError, nearest
from utilities.features.tokenization import check_max_length, tokenizer_fingerprint
from utilities.files import ResultKind, fingerprint_of, partial_path, replace_folder, versions
from utilities.prompts.base import PromptFormat
from utilities.rows import sources
from utilities.rows.near_duplicates import join_groups
from utilities.rows.sources import ConfigSource, stream_rows
from utilities.rows.splitting import assign_parts

PREPARED_DATASET = ResultKind("prepared dataset", PREPARED_RECORD, "dataset_path", DataError)


def prepare(config: DataprepConfig, progress: bool = False) -> Prepared:
    """Prepare a dataset as a config says: read, split, format, tokenize, pack, write.

    Args:
        config: source, target and settings.
        progress: show a progress bar.

    Raises:
        LabError: of the module where the fault lies. An older dataset is left untouched.
    """
    target = dict(config.writer.kwargs)
    folder = Path(target.pop("dataset_path"))
    with _readable_errors(folder):
        PREPARED_DATASET.check_writable(folder, config.if_exists)
    choice = models.choose(config.base_model, weights=False)
    tokenizer = models.load_tokenizer(choice)
    prompt_format = config.prompt_format.bind(tokenizer)
    check_max_length(prompt_format, tokenizer, config.max_length)
    record = _record(config, choice, tokenizer, prompt_format)
    with _readable_errors(folder):
        prepared = PREPARED_DATASET.reusable(
            folder, config.if_exists, record["fingerprint"], Prepared.open
        ) or _make(config, folder, record, tokenizer, prompt_format, progress)
    if config.writer.method == "push_to_hub":
        _push(prepared, **target)
    return prepared


def _record(
    config: DataprepConfig,
    choice: models.ModelChoice,
    tokenizer: PreTrainedTokenizerBase,
    prompt_format: PromptFormat,
) -> dict[str, Any]:
    """Return what decides the dataset, and the fingerprint of it."""
    apart = {"source", "base_model", "prompt_format", "writer"}
    without_effect = {"num_proc", "if_exists"}
    record: dict[str, Any] = {
        "source": config.source.model_dump(mode="json"),
        "model": choice.record(),
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "prompt_format": prompt_format.model_dump(mode="json"),
        "settings": config.model_dump(mode="json", exclude=apart | without_effect),
        "format": "parquet" if config.writer.method == "parquet" else "arrow",
    }
    # The content of the source counts, not its name; the reason why a model was chosen doesn't.
    compared = {**record, "source": sources.fingerprint(config.source), "model": choice.name}
    return {**record, "fingerprint": fingerprint_of(compared)}


@contextlib.contextmanager
def _readable_errors(folder: Path) -> Iterator[None]:
    """Turn errors of the disk and of worker processes into a DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot write {folder}: {error}") from None
    except BrokenProcessPool:
        raise DataError(
            "a worker process was killed, perhaps for lack of memory; lower rows_per_shard or "
            "num_proc and run it again: it continues from the shards that are finished"
        ) from None


def _make(
    config: DataprepConfig,
    folder: Path,
    record: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    prompt_format: PromptFormat,
    progress: bool,
) -> Prepared:
    """Tokenize what is not tokenized yet, put the shards together, and write the dataset."""
    partial = partial_path(folder)
    shards = _folder_for_shards(partial, record["fingerprint"])
    make = ShardMaker(config, tokenizer, prompt_format, shards)
    record["counts"] = _tokenize(config, prompt_format, make, progress)
    record["versions"] = versions()
    parts = {name: sorted(shards.glob(f"{name}-*.arrow")) for name in record["counts"]["parts"]}
    dataset = partial / "dataset"
    shutil.rmtree(dataset, ignore_errors=True)  # of a process that was killed here
    dataset.mkdir()
    if record["format"] == "parquet":
        _write_parquet(parts, dataset)
    else:
        _save_to_disk(parts, dataset, record["fingerprint"])
    prompt_format.save(dataset)
    (dataset / PREPARED_RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    replace_folder(dataset, folder)
    shutil.rmtree(partial)
    return Prepared(folder, record)


def _folder_for_shards(partial: Path, fingerprint: str) -> Path:
    """Return the folder of the shards with this fingerprint; those with others are removed."""
    shards = partial / f"shards-{fingerprint}"
    if partial.exists():
        names = [path.name for path in partial.iterdir()]
        foreign = [name for name in names if not re.fullmatch("shards-.*|dataset", name)]
        if foreign:
            raise DataError(
                f"{partial} holds {foreign[0]}, so it is left untouched; move it out of the way"
            )
        if not shards.exists():
            shutil.rmtree(partial)
    shards.mkdir(parents=True, exist_ok=True)
    return shards


def _tokenize(
    config: DataprepConfig, prompt_format: PromptFormat, make: ShardMaker, progress: bool
) -> dict[str, Any]:
    """Make all shards; return the counts of rows read, bad and used, and those of each part."""
    read: Counter[str] = Counter()
    rows = stream_rows(config.source, prompt_format, read)
    names = ["train"]
    if config.split:
        names += config.split.sizes
        parts = _parts(config.source, config.split, prompt_format)
        rows_with_parts = _zip_unchanged(rows, parts)
    else:
        rows_with_parts = zip(rows, repeat("train"), strict=False)
    made = run_shards(make, rows_with_parts, config, progress)
    counts = {name: made.get(name, {}) for name in names}
    if empty := {name: part for name, part in counts.items() if not part.get("kept")}:
        raise DataError(f"no row has anything to learn at max_length {config.max_length}: {empty}")
    return {"read": read["read"], "bad": read["bad"], "rows": read["rows"], "parts": counts}


def _zip_unchanged(
    rows: Iterator[dict[str, Any]], parts: Iterable[str]
) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield rows with their parts; the source was read before to make the parts."""
    try:
        yield from zip(rows, parts, strict=True)
    except DataError:  # raised while reading; it is a ValueError too
        raise
    except ValueError:
        raise DataError("the source was changed while it was read; run it again") from None


def _parts(source: ConfigSource, split: Split, prompt_format: PromptFormat) -> list[str]:
    """Read the source once to decide which part each row belongs to."""
    keys, texts, strata = [], [], []
    for row in stream_rows(source, prompt_format):
        text = prompt_format.request(row)
        try:
            keys.append("\n".join(str(row[column]) for column in split.group_by) or text)
            strata.append(str(row[split.stratify_by]) if split.stratify_by else "")
        except KeyError as error:
            column = error.args[0]
            raise DataError(f"split: no column {column!r}{nearest(column, row)}") from None
        if split.near_duplicates:
            texts.append(text)
    if split.near_duplicates:
        keys = join_groups(keys, texts, split.near_duplicates)
    return assign_parts(keys, split.sizes, split.seed, strata if split.stratify_by else None)


def _write_parquet(parts: dict[str, list[Path]], dataset: Path) -> None:
    """Write each shard of each part as a parquet file."""
    for name, shards in parts.items():
        for number, shard in enumerate(shards):
            path = dataset / f"{name}-{number:05d}-of-{len(shards):05d}.parquet"
            with pa.memory_map(str(shard)) as source, pa.ipc.open_stream(source) as stream:
                parquet.write_table(stream.read_all(), path)


def _save_to_disk(parts: dict[str, list[Path]], dataset: Path, fingerprint: str) -> None:
    """Write the parts by `save_to_disk`, a file per shard.

    Shards are memory-mapped and copied in small batches, so memory stays constant.
    """
    made = {}
    for name, shards in parts.items():
        table = concat_tables([MemoryMappedTable.from_file(str(shard)) for shard in shards])
        # A fingerprint that `datasets` makes by itself depends on when the files were written.
        own = f"{fingerprint}-{name}"
        made[name] = datasets.Dataset(table, split=datasets.NamedSplit(name), fingerprint=own)
    with _without_progress_bars():
        if len(made) == 1:
            ((name, part),) = made.items()
            part.save_to_disk(dataset, num_shards=len(parts[name]))
        else:
            counts = {name: len(shards) for name, shards in parts.items()}
            datasets.DatasetDict(made).save_to_disk(dataset, num_shards=counts)


@contextlib.contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Keep `datasets` from drawing a bar of its own for each part."""
    had_bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if had_bars:
            datasets.enable_progress_bars()


def _push(prepared: Prepared, repo_id: str, **kwargs: Any) -> None:
    parts = {part: prepared.examples(part).features for part in prepared.parts}
    try:
        datasets.DatasetDict(parts).push_to_hub(repo_id, **kwargs)
    except Exception as error:  # the hub client raises many kinds, one remedy fits all
        raise DataError(
            f"{repo_id} could not be pushed: {error}\n"
            f"The dataset is complete in {prepared.folder}; "
            "set HF_TOKEN to a token that may write, and run again with if_exists=reuse"
        ) from error
