"""Shards of rows turned into files, in one process or several."""

import json
import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
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
from utilities.features.tokenization import (
    tokenize_rows,
)
from utilities.prompts.base import PromptFormat

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


def run_shards(
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
