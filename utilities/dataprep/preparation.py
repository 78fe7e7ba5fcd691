"""Data preparation: from a source to a dataset on disk that training reads as it is.

    python -m utilities.dataprep configs/starting_point/dataprep.yaml [key=value …]

Rows are read one by one and handled in shards, so the source may be larger than memory. A shard
that is done stays done: a run that was stopped goes on where it was when it is started again. The
dataset appears whole or not at all; until then it is called `NAME.partial`. Its fingerprint covers
source, prompt format, tokenizer and settings, and nothing that was made of others is reused.
"""

import json
import os
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
from pyarrow import parquet
from transformers import PreTrainedTokenizerBase

from utilities import models
from utilities.dataprep.prepared import PREPARED_RECORD, Prepared
from utilities.dataprep.settings import DataprepConfig
from utilities.dataprep.shards import ShardMaker, run_shards
from utilities.errors import DataError, nearest
from utilities.features.tokenization import (
    check_max_length,
    tokenizer_fingerprint,
)
from utilities.files import IfExists, fingerprint_of, is_in_the_way, replace_folder, versions
from utilities.prompts.base import PromptFormat
from utilities.rows import sources
from utilities.rows.near_duplicates import join_groups
from utilities.rows.sources import stream_rows
from utilities.rows.splitting import assign_parts


def prepare(config: DataprepConfig, progress: bool = False) -> Prepared:
    """Do all that a config says: read, split, format, tokenize, pack, write.

    Args:
        config: where from, where to, and how.
        progress: show a progress bar.

    Raises:
        LabError: of the module where the fault lies. What was there before is still there.
    """
    choice = models.choose(config.base_model, weights=False)
    tokenizer = models.load_tokenizer(choice)
    prompt_format = config.prompt_format.bind(tokenizer)
    check_max_length(prompt_format, tokenizer, config.max_length)
    settings = config.model_dump(
        mode="json", exclude={"source", "base_model", "prompt_format", "num_proc", "if_exists"}
    )
    method, kwargs = settings["writer"]["method"], settings.pop("writer")["kwargs"]
    record = {
        "source": config.source.model_dump(mode="json"),
        "model": choice.record(),
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "prompt_format": prompt_format.model_dump(mode="json"),
        "settings": settings,
        "format": "parquet" if method == "parquet" else "arrow",
    }
    same = {**record, "source": sources.fingerprint(config.source), "model": choice.name}
    record["fingerprint"] = fingerprint_of(same)
    folder = Path(kwargs["dataset_path"])
    try:
        prepared = _existing(folder, record["fingerprint"], config.if_exists)
        if prepared is None:
            prepared = _make(config, folder, record, tokenizer, prompt_format, progress)
    except OSError as error:
        raise DataError(f"cannot write {folder}: {error}") from None
    except BrokenProcessPool:
        raise DataError(
            "a worker process was killed, perhaps for want of memory; lower rows_per_shard or "
            "num_proc and run it again, it goes on where it was"
        ) from None
    if method == "push_to_hub":
        _push(prepared, **kwargs)
    return prepared


def _existing(folder: Path, fingerprint: str, if_exists: IfExists) -> Prepared | None:
    if is_in_the_way(folder, PREPARED_RECORD):
        raise DataError(
            f"{folder} is there and is no prepared dataset, so it stays; "
            "choose another dataset_path"
        )
    if folder.exists() and if_exists == "refuse":
        raise DataError(
            f"{folder} exists already; choose another dataset_path, "
            "or set if_exists to `reuse` or `overwrite`"
        )
    if if_exists == "reuse" and (folder / PREPARED_RECORD).is_file():
        prepared = Prepared.open(folder)
        return prepared if prepared.record["fingerprint"] == fingerprint else None
    return None


def _make(
    config: DataprepConfig,
    folder: Path,
    record: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    prompt_format: PromptFormat,
    progress: bool,
) -> Prepared:
    partial = folder.with_name(folder.name + ".partial")
    shards = partial / f"shards-{record['fingerprint']}"
    if partial.exists():
        others = [
            f.name for f in partial.iterdir() if not re.fullmatch("shards-.*|dataset", f.name)
        ]
        if others:
            raise DataError(f"{partial} holds {others[0]}, so it stays; move it out of the way")
        if not shards.exists():
            shutil.rmtree(partial)  # of another source or other settings
    shards.mkdir(parents=True, exist_ok=True)
    read = Counter()
    rows = stream_rows(config.source, prompt_format, read)
    parts = _parts(config, prompt_format) if config.split else repeat("train")
    make = ShardMaker(config, tokenizer, prompt_format, shards)
    counts = run_shards(make, _with_parts(rows, parts, bool(config.split)), config, progress)
    names = ["train", *(config.split.sizes if config.split else ())]
    counts = {name: dict(counts.get(name, {})) for name in names}
    if empty := [name for name in names if not counts[name].get("kept")]:
        told = {name: counts[name] for name in empty}
        raise DataError(f"no row has anything to learn at max_length {config.max_length}: {told}")
    record["counts"] = {"read": read["read"], "bad": read["bad"], "rows": read["rows"]}
    record["counts"]["parts"] = counts
    record["versions"] = versions()
    dataset = partial / "dataset"
    shutil.rmtree(dataset, ignore_errors=True)
    _assemble(shards, dataset, names, record)
    prompt_format.save(dataset)
    (dataset / PREPARED_RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    replace_folder(dataset, folder)
    shutil.rmtree(partial)
    return Prepared(folder, record)


def _with_parts(
    rows: Iterator[dict[str, Any]], parts: Iterable[str], as_many: bool
) -> Iterator[tuple[dict[str, Any], str]]:
    try:
        yield from zip(rows, parts, strict=as_many)
    except DataError:  # a ValueError too
        raise
    except ValueError:
        raise DataError("the source was changed while it was read; run it again") from None


def _parts(config: DataprepConfig, prompt_format: PromptFormat) -> list[str]:
    """Read the source once to say which part each row belongs to."""
    split = config.split
    keys, texts, strata = [], [], []
    for row in stream_rows(config.source, prompt_format):
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


def _assemble(shards: Path, dataset: Path, names: list[str], record: dict[str, Any]) -> None:
    """Put the shards into the layout of `save_to_disk`, or write them as parquet."""
    dataset.mkdir()
    for name in names:
        files = sorted(shards.glob(f"{name}-*.arrow"))
        if record["format"] == "parquet":
            for number, file in enumerate(files):
                place = dataset / f"{name}-{number:05d}-of-{len(files):05d}.parquet"
                with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as stream:
                    parquet.write_table(stream.read_all(), place)
            continue
        folder = dataset / name if len(names) > 1 else dataset
        _save_to_disk(files, folder, f"{record['fingerprint']}-{name}", name)
    if len(names) > 1 and record["format"] == "arrow":
        (dataset / "dataset_dict.json").write_text(json.dumps({"splits": names}))


def _save_to_disk(files: list[Path], folder: Path, fingerprint: str, part: str) -> None:
    """Lay out files as `datasets.Dataset.save_to_disk` does, without reading them through memory."""
    folder.mkdir(exist_ok=True)
    with pa.memory_map(str(files[0])) as source, pa.ipc.open_stream(source) as stream:
        features = datasets.Features.from_arrow_schema(stream.schema)
    datasets.DatasetInfo(features=features).write_to_directory(str(folder))
    names = [f"data-{number:05d}-of-{len(files):05d}.arrow" for number in range(len(files))]
    for file, name in zip(files, names, strict=True):
        try:
            os.link(file, folder / name)
        except OSError:  # a file system without hard links
            shutil.copyfile(file, folder / name)
    state = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": fingerprint,
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": part,
    }
    (folder / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")


def _push(prepared: Prepared, dataset_path: str, repo_id: str, **kwargs: Any) -> None:
    parts = {part: prepared.examples(part).features for part in prepared.parts}
    try:
        datasets.DatasetDict(parts).push_to_hub(repo_id, **kwargs)
    except Exception as error:  # the hub client raises many kinds, one remedy fits all
        raise DataError(
            f"{repo_id} could not be pushed: {error}\nThe dataset is complete in {dataset_path}; "
            "set HF_TOKEN to a token that may write, and run again with if_exists=reuse"
        ) from error
