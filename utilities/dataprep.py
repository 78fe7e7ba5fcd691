"""Data preparation: from a source to a dataset on disk that training reads as it is.

    python -m utilities.dataprep configs/starting_point/dataprep.yaml [key=value …]

Rows are read one by one and handled in shards, so the source may be larger than memory. A shard
that is done stays done: a run that was stopped goes on where it was when it is started again. The
dataset appears whole or not at all; until then it is called `NAME.partial`. Its fingerprint covers
source, prompt format, tokenizer and settings, and nothing that was made of others is reused.
"""

import json
import multiprocessing
import os
import re
import shutil
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice, repeat
from pathlib import Path
from typing import Annotated, Any, Literal

import datasets
import pyarrow as pa
from pyarrow import parquet
from pydantic import Field, ValidationInfo, field_validator
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from utilities import models, plots, sources
from utilities.config import (
    ModelName,
    StrictModel,
    command_line,
    from_file,
    nearest,
)
from utilities.folders import (
    IfExists,
    fingerprint_of,
    is_in_the_way,
    replace_folder,
    versions,
)
from utilities.packing import pack, pad
from utilities.prompts import QUESTION_ANSWER, ConfigPromptFormat, PromptFormat
from utilities.readers import DataError
from utilities.sources import ConfigSource, stream_rows
from utilities.splitting import assign_parts, check_sizes, join_groups
from utilities.tokenization import (
    NothingToLearn,
    Shorten,
    TokenizedExamples,
    check_max_length,
    tokenize_rows,
    tokenizer_fingerprint,
)

RECORD = "dataprep.json"


class Split(StrictModel):
    """How rows are divided; see `splitting.split_rows`.

    Attributes:
        sizes: for each part beside `train`, a share of the rows (below 1) or a number of them.
        group_by: columns; rows that agree in them stay together. By default what is asked is
            compared, so a question never stands on both sides.
        near_duplicates: rows whose questions share this much of their words (Jaccard similarity)
            stay together too; null leaves that out. It needs the questions in memory.
        stratify_by: a column; each part gets its share of every value.
        seed: another seed gives another split.
    """

    sizes: dict[Annotated[str, Field(pattern=r"^\w+$")], float] = Field(min_length=1)
    group_by: tuple[str, ...] = ()
    near_duplicates: float | None = Field(default=0.8, gt=0, le=1)
    stratify_by: str | None = None
    seed: int = Field(default=42, ge=0)

    @field_validator("sizes")
    @classmethod
    def _can_be_met(cls, sizes: dict[str, float]) -> dict[str, float]:
        try:
            check_sizes(sizes)
        except DataError as error:  # pydantic collects ValueErrors beside the other faults
            raise ValueError(str(error)) from None
        return sizes


WRITERS = {
    "save_to_disk": ({"dataset_path"}, set()),
    "parquet": ({"dataset_path"}, set()),
    "push_to_hub": ({"dataset_path", "repo_id"}, {"private", "revision", "commit_message"}),
}


class Writer(StrictModel):
    """Where the dataset goes.

    Attributes:
        method: `save_to_disk` (for `datasets.load_from_disk`, and the fastest), `parquet` (for any
            other tool), or `push_to_hub`, which writes to the disk first.
        kwargs: `dataset_path`, the folder to make. For the hub also `repo_id`, and `private`,
            `revision` or `commit_message`; the access token comes from the variable HF_TOKEN.
    """

    method: Literal["save_to_disk", "parquet", "push_to_hub"] = "save_to_disk"
    kwargs: dict[str, Any]

    @field_validator("kwargs")
    @classmethod
    def _fit_the_method(cls, kwargs: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "method" not in info.data:
            return kwargs
        needed, optional = WRITERS[info.data["method"]]
        for key in kwargs:
            if key not in needed | optional:
                raise ValueError(f"unknown key {key!r}{nearest(key, needed | optional)}")
        if missing := needed - set(kwargs):
            raise ValueError(f"{info.data['method']} needs {' and '.join(sorted(missing))}")
        path = kwargs["dataset_path"]
        if not isinstance(path, str) or not path or "://" in path:
            raise ValueError(f"dataset_path must be a folder on this machine, found {path!r}")
        return {**kwargs, "dataset_path": str(from_file(Path(path), info))}


class DataprepConfig(StrictModel):
    """What `python -m utilities.dataprep` reads.

    Attributes:
        source: where the rows are; see `sources.Source`.
        base_model: whose tokenizer makes the ids; train the same model.
        prompt_format: how a row becomes text.
        max_length: tokens a row may have, prompt, response and end together.
        shorten: what a longer row loses; see `tokenization.Shorten`.
        packing: `none` (a row is an example, padding is left to training), `best_fit` (rows of
            `packed_length` tokens, several examples in each), or `pad` (rows padded to it).
        packed_length: tokens of a packed or padded row; null stands for `max_length`.
        split: how to divide the rows; null keeps them together.
        writer: where the dataset goes.
        rows_per_shard: rows of the source that are handled at a time.
        num_proc: processes. One uses every core for tokenizing already; more help where reading
            and formatting take longer than that.
        if_exists: what to do with a dataset that is there: `refuse`; `reuse` it when its
            fingerprint is the same, and make it anew when it is not; or `overwrite` it.
    """

    source: ConfigSource
    base_model: ModelName = "auto"
    prompt_format: ConfigPromptFormat = QUESTION_ANSWER
    max_length: int = Field(default=512, ge=3)
    shorten: Shorten = "prompt_left"
    packing: Literal["none", "best_fit", "pad"] = "none"
    packed_length: int | None = Field(default=None, ge=3)
    split: Split | None = None
    writer: Writer
    rows_per_shard: int = Field(default=10_000, ge=1)
    num_proc: int = Field(default=1, ge=1)
    if_exists: IfExists = "refuse"

    @field_validator("packed_length")
    @classmethod
    def _holds_a_row(cls, length: int | None, info: ValidationInfo) -> int | None:
        if length is not None and length < info.data.get("max_length", 0):
            raise ValueError(f"shorter than max_length ({info.data['max_length']})")
        return length


@dataclass(frozen=True)
class Prepared:
    """A prepared dataset.

    Attributes:
        folder: where it is.
        record: model, settings, counts and fingerprint, as in `dataprep.json`.
    """

    folder: Path
    record: dict[str, Any]

    @classmethod
    def open(cls, folder: str | Path) -> "Prepared":
        """Read a folder that `prepare` made.

        Raises:
            DataError: it is not one.
        """
        try:
            record = json.loads((Path(folder) / RECORD).read_text(encoding="utf-8"))
            complete = {"fingerprint", "counts", "tokenizer", "format", "model"} <= set(record)
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"{folder} is no prepared dataset: {error}") from None
        if not complete:
            raise DataError(f"{folder} is no prepared dataset: its {RECORD} is damaged")
        return cls(Path(folder), record)

    @property
    def parts(self) -> list[str]:
        """The names of its parts: `train`, and those that were split off."""
        return list(self.record["counts"]["parts"])

    def examples(self, part: str = "train") -> TokenizedExamples:
        """Return the features and counts of a part, ready for `training.train`.

        Raises:
            DataError: there is no such part.
        """
        if part not in self.parts:
            raise DataError(f"{self.folder} has no part {part!r}{nearest(part, self.parts)}")
        try:
            if self.record["format"] == "parquet":
                files = sorted(map(str, self.folder.glob(f"{part}-*.parquet")))
                features = datasets.Dataset.from_parquet(files, split=part)
            else:
                loaded = datasets.load_from_disk(str(self.folder))
                features = loaded[part] if isinstance(loaded, dict) else loaded
        except (OSError, ValueError) as error:
            raise DataError(f"{self.folder} is damaged; prepare it anew: {error}") from None
        return TokenizedExamples(features, self.record["counts"]["parts"][part])

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise a DataError when the data was made with another tokenizer than this one."""
        if self.record["tokenizer"] != tokenizer_fingerprint(tokenizer):
            made_for = self.record["model"]["name"]
            raise DataError(
                f"{self.folder} was prepared with the tokenizer of {made_for}; its ids mean "
                "something else to this model. Prepare the data with the same base_model"
            )


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
    if is_in_the_way(folder, RECORD):
        raise DataError(
            f"{folder} is there and is no prepared dataset, so it stays; "
            "choose another dataset_path"
        )
    if folder.exists() and if_exists == "refuse":
        raise DataError(
            f"{folder} exists already; choose another dataset_path, "
            "or set if_exists to `reuse` or `overwrite`"
        )
    if if_exists == "reuse" and (folder / RECORD).is_file():
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
    counts = _run_shards(make, _with_parts(rows, parts, bool(config.split)), config, progress)
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
    (dataset / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    replace_folder(dataset, folder)
    shutil.rmtree(partial)
    return Prepared(folder, record)


def _with_parts(
    rows: Iterator[dict[str, Any]], parts: Iterable[str], as_many: bool
) -> Iterator[tuple[dict[str, Any], str]]:
    try:
        yield from zip(rows, parts, strict=as_many)
    except ValueError:
        raise DataError("the source was changed while it was read; run it again") from None


def _parts(config: DataprepConfig, prompt_format: PromptFormat) -> list[str]:
    """Read the source once to say which part each row belongs to."""
    split = config.split
    keys, texts, strata = [], [], []
    for row in stream_rows(config.source, prompt_format):
        text = prompt_format.asked(row)
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


Shard = list[tuple[dict[str, Any], str]]


@dataclass(frozen=True)
class ShardMaker:
    """Turns one shard's rows into a file per part; what a worker process is given."""

    config: DataprepConfig
    tokenizer: PreTrainedTokenizerBase
    prompt_format: PromptFormat
    folder: Path

    def done(self, number: int) -> Path:
        """Return the file that says that a shard is complete, and holds its counts."""
        return self.folder / f"{number:05d}.json"

    def __call__(self, number: int, shard: Shard) -> dict[str, dict[str, int]]:
        """Make a shard, unless it is there; return the counts of each part."""
        if self.done(number).is_file():
            return json.loads(self.done(number).read_text(encoding="utf-8"))
        counts = {}
        for part in dict.fromkeys(part for _, part in shard):
            rows = [row for row, of in shard if of == part]
            counts[part] = self._part(rows, self.folder / f"{part}-{number:05d}.arrow")
        unfinished = self.done(number).with_suffix(".unfinished")
        unfinished.write_text(json.dumps(counts), encoding="utf-8")
        os.replace(unfinished, self.done(number))
        return counts

    def _part(self, rows: list[dict[str, Any]], path: Path) -> dict[str, int]:
        config = self.config
        try:
            features, counts = tokenize_rows(
                rows, self.prompt_format, self.tokenizer, config.max_length, config.shorten
            )
        except NothingToLearn as nothing:
            return nothing.counts
        if config.packing != "none":
            lay_out = {"best_fit": pack, "pad": pad}[config.packing]
            length = config.packed_length or config.max_length
            features = lay_out(features, length, self.tokenizer.pad_token_id)
            counts = {**counts, "packed_rows": len(features), "positions": len(features) * length}
        table = features.data.table
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
        return counts


def _run_shards(
    make: ShardMaker, rows: Iterable[tuple[dict, str]], config: DataprepConfig, progress: bool
) -> dict[str, Counter]:
    """Make all shards, in as many processes as asked; return the sums of their counts."""
    totals: dict[str, Counter] = {}
    rows = iter(rows)
    shards = iter(lambda: list(islice(rows, config.rows_per_shard)), [])
    with tqdm(desc="preparing", unit="row", disable=not progress) as bar:
        for size, counts in _in_processes(make, shards, config.num_proc):
            for part, of_part in counts.items():
                totals.setdefault(part, Counter()).update(of_part)
            bar.update(size)
    return totals


def _in_processes(
    make: Callable, shards: Iterator[Shard], num_proc: int
) -> Iterator[tuple[int, dict[str, dict[str, int]]]]:
    if num_proc == 1:
        for number, shard in enumerate(shards):
            yield len(shard), make(number, shard)
        return
    # Spawned: a fork would copy the tokenizer's threads half-way. Each has its share of cores.
    threads = str(max(1, (os.cpu_count() or 1) // num_proc))
    pool = ProcessPoolExecutor(
        num_proc,
        multiprocessing.get_context("spawn"),
        initializer=os.putenv,
        initargs=("RAYON_NUM_THREADS", threads),
    )
    with pool:
        waiting: deque[tuple[int, Future]] = deque()
        for number, shard in enumerate(shards):
            waiting.append((len(shard), pool.submit(make, number, shard)))
            if len(waiting) > num_proc:  # so that memory holds a few shards, never the source
                size, future = waiting.popleft()
                yield size, future.result()
        for size, future in waiting:
            yield size, future.result()


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
    """Lay out files as `Dataset.save_to_disk` does, without reading them through memory."""
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


def summary(prepared: Prepared, tokenizer: PreTrainedTokenizerBase, examples: int = 3) -> str:
    """Say in words what became of the rows, stage by stage, and show the first examples.

    What is learned stands in square brackets.
    """
    record, counts = prepared.record, prepared.record["counts"]
    lines = [
        f"model:    {record['model']['name']}, because {record['model']['reason']}",
        f"read:     {counts['read']:,} rows, {counts['bad']:,} of them bad, "
        f"{counts['rows']:,} used",
    ]
    for part, of_part in counts["parts"].items():
        told = [f"{name.replace('_', ' ')} {n:,}" for name, n in of_part.items() if n]
        lines.append(f"{part + ':':<9} {', '.join(told)}")
        if "positions" in of_part:
            lines.append(
                f"{'':<9} {of_part['tokens'] / of_part['positions']:.1%} of positions used"
            )
    features = prepared.examples().features
    for number in range(min(examples, len(features))):
        lines += [f"--- row {number + 1}", str(plots.mask_view(features[number], tokenizer))]
    return "\n".join([*lines, f"wrote:    {prepared.folder}"])


def _report(config: DataprepConfig) -> None:
    prepared = prepare(config, progress=True)
    tokenizer = models.load_tokenizer(models.choose(config.base_model, weights=False))
    sys.stdout.write(summary(prepared, tokenizer) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Prepare data from a config file on the command line."""
    purpose = "Prepare a dataset for training from a YAML file."
    return command_line(DataprepConfig, _report, "utilities.dataprep", purpose, argv)


if __name__ == "__main__":
    sys.exit(main())
