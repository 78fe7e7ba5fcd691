"""Shards: the source's rows, some thousands at a time, tokenized into Arrow files.

They are made in one process or several. A shard's counts are written last, so a shard that has
them is complete, and is not made again after an interruption.
"""

import json
import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from utilities.dataprep.settings import DataprepConfig
from utilities.errors import NothingToLearn
from utilities.features.packing import pack, pad
from utilities.features.tokenization import tokenize_rows
from utilities.files import atomic_write
from utilities.prompts.base import PromptFormat

Shard = list[tuple[dict[str, Any], str]]
"""Rows, and the part that each belongs to."""


Counts = dict[str, dict[str, int]]
"""For each part, what became of its rows; see `TokenizedExamples.counts`."""


@dataclass(frozen=True)
class ShardMaker:
    """Tokenizes one shard into an Arrow file per part; pickled for the worker processes."""

    config: DataprepConfig
    tokenizer: PreTrainedTokenizerBase
    prompt_format: PromptFormat
    folder: Path

    def done(self, number: int) -> Path:
        """Return the path of a shard's counts, which only a complete shard has."""
        return self.folder / f"{number:05d}.json"

    def __call__(self, number: int, shard: Shard) -> Counts:
        """Make a shard, unless it is complete already; return the counts of each part."""
        if self.done(number).is_file():
            return json.loads(self.done(number).read_text(encoding="utf-8"))
        counts = {}
        for part in dict.fromkeys(part for _, part in shard):
            rows = [row for row, of_part in shard if of_part == part]
            counts[part] = self._part(rows, self.folder / f"{part}-{number:05d}.arrow")
        with atomic_write(self.done(number)) as file:  # last: it says that the others are complete
            file.write_text(json.dumps(counts), encoding="utf-8")
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
            pack_rows = {"best_fit": pack, "pad": pad}[config.packing]
            length = config.packed_length or config.max_length
            features = pack_rows(features, length, self.tokenizer.pad_token_id)
            counts = {**counts, "packed_rows": len(features), "positions": len(features) * length}
        table = features.data.table
        with (
            atomic_write(path) as partial,
            pa.OSFile(str(partial), "wb") as file,
            pa.ipc.new_stream(file, table.schema) as stream,
        ):
            stream.write_table(table)
        return counts


def run_shards(
    make: ShardMaker,
    rows: Iterable[tuple[dict[str, Any], str]],
    config: DataprepConfig,
    progress: bool,
) -> Counts:
    """Make all shards, in `num_proc` processes.

    Args:
        make: makes one.
        rows: of the source, each with its part; read as they are needed.
        config: `rows_per_shard` and `num_proc` are used.
        progress: show a progress bar.

    Returns:
        The sums of the shards' counts, for each part that has a row.
    """
    totals: dict[str, Counter[str]] = {}
    with tqdm(desc="preparing", unit="row", disable=not progress) as bar:
        for size, counts in _in_processes(make, _cut(rows, config.rows_per_shard), config.num_proc):
            for part, of_part in counts.items():
                totals.setdefault(part, Counter()).update(of_part)
            bar.update(size)
    return {part: dict(total) for part, total in totals.items()}


def _cut(rows: Iterable[tuple[dict[str, Any], str]], size: int) -> Iterator[Shard]:
    rows = iter(rows)
    while shard := list(islice(rows, size)):
        yield shard


def _in_processes(
    make: ShardMaker, shards: Iterator[Shard], num_proc: int
) -> Iterator[tuple[int, Counts]]:
    """Yield the number of rows of each shard and its counts, in order."""
    if num_proc == 1:
        for number, shard in enumerate(shards):
            yield len(shard), make(number, shard)
        return
    # Spawned, since a fork would copy locks that the tokenizer's threads hold. The processes share
    # the cores: RAYON_NUM_THREADS sets how many threads the tokenizer of each starts.
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
            if len(waiting) > num_proc:  # so that memory holds a few shards, not the whole source
                size, future = waiting.popleft()
                yield size, future.result()
        for size, future in waiting:
            yield size, future.result()
