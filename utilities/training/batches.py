"""Batch sampler, and the grouping of a step's rows into passes through the model.

A step learns from a fixed number of rows, however many passes, accumulation steps or processes do
the work. Rows of similar length go together, because padding costs as much as text. Which rows, and
in which order, depends on the seed and the epoch only, so that an interrupted run can be resumed.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from datasets import Dataset

from utilities.features.tokenization import IGNORE_INDEX

Order = Literal["group_by_length", "random", "sequential"]


STEPS_SORTED_TOGETHER = 50


class RowChoice(NamedTuple):
    """A row's number, and whether it is learned from; if not it only keeps processes in step."""

    row: int
    learned: bool = True


class StepBatches(torch.utils.data.Sampler):
    """Batch sampler of one process: yields batches, `accumulation` of them a step.

    Each step's rows are the same for any number of processes and accumulation steps, as long as
    their product with `batch_rows` is. An epoch's last step may be smaller.

    Args:
        lengths: lengths of the rows, in tokens.
        batch_rows: rows in a batch of one process.
        accumulation: batches of one process in a step.
        seed: seed of the order.
        order: `group_by_length` sorts the rows of 50 shuffled steps by length, cuts them into
            steps, and shuffles those; `random` and `sequential` do not look at lengths.
        process: rank of this process, from 0.
        processes: number of processes.
        drop_last: leave out the epoch's last step if it is smaller.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_rows: int,
        accumulation: int = 1,
        seed: int = 42,
        order: Order = "group_by_length",
        process: int = 0,
        processes: int = 1,
        drop_last: bool = False,
    ):
        self.lengths, self.seed, self.order = lengths, seed, order
        self.accumulation, self.process, self.processes = accumulation, process, processes
        self.drop_last = drop_last
        self.rows_together = batch_rows * processes
        self.step_rows = self.rows_together * accumulation
        self.epoch = 0

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        full_steps, rows_left = divmod(len(self.lengths), self.step_rows)
        last = 0 if self.drop_last else -(-rows_left // self.rows_together)  # rounded up
        return full_steps * self.accumulation + last

    def __iter__(self) -> Iterator[list[RowChoice]]:
        """Yield the batches of this process in epoch `self.epoch`."""
        for step in self._steps():
            for start in range(0, len(step), self.rows_together):
                rows = step[start : start + self.rows_together]
                own = rows[self.process :: self.processes]
                if own:
                    yield [RowChoice(row) for row in own]
                else:  # all processes have to make the same number of batches
                    yield [RowChoice(rows[0], learned=False)]

    def _steps(self) -> list[list[int]]:
        """Return the rows of each step of the epoch; all processes compute the same."""
        shuffle = random.Random(f"{self.seed} {self.epoch}").shuffle
        rows = list(range(len(self.lengths)))
        if self.order != "sequential":
            shuffle(rows)
        if self.order == "group_by_length":
            pool = self.step_rows * STEPS_SORTED_TOGETHER
            pools = (rows[start : start + pool] for start in range(0, len(rows), pool))
            rows = [row for part in pools for row in sorted(part, key=lambda r: -self.lengths[r])]
        starts = range(0, len(rows), self.step_rows)
        steps = [rows[start : start + self.step_rows] for start in starts]
        # A smaller step is the epoch's last one, so it takes no part in the shuffle.
        last = [steps.pop()] if steps and len(steps[-1]) < self.step_rows else []
        if self.order == "group_by_length":
            shuffle(steps)
        return steps if self.drop_last else steps + last


class RowsByChoice(torch.utils.data.Dataset):
    """Dataset of features, indexed by `RowChoice`."""

    def __init__(self, features: Dataset):
        columns = ("input_ids", "labels", "position_ids")
        self.features = features.select_columns([c for c in columns if c in features.features])

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.features)

    def __getitem__(self, choice: RowChoice) -> dict[str, list[int]]:
        """Return a row; if it is not learned from, with all labels `IGNORE_INDEX`."""
        row = self.features[choice.row]
        if not choice.learned:
            row["labels"] = [IGNORE_INDEX] * len(row["labels"])
        return row


def into_passes(
    lengths: Sequence[int], max_tokens: int, pass_cost: int, max_rows: int | None = None
) -> list[list[int]]:
    """Group rows into passes through the model so that the total cost is least.

    A pass costs the number of its rows times the length of the longest, to which all are padded,
    plus a constant for reading the weights and adding up gradients. With rows sorted by length, the
    best groups are contiguous; dynamic programming finds them.

    Args:
        lengths: lengths of the rows, in tokens.
        max_tokens: most tokens of a pass, padding included; a longer row has a pass of its own.
        pass_cost: overhead of a pass, in tokens.
        max_rows: most rows of a pass; None for no limit.

    Returns:
        The indices of each pass's rows, longest row first.

    Example:
        >>> into_passes([10, 90, 10, 88], max_tokens=1000, pass_cost=20)
        [[1, 3], [0, 2]]
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    # best[n], for the first n rows of the order: the least cost, and where its last pass begins.
    best: list[tuple[int, int]] = [(0, 0)]
    for end in range(1, len(order) + 1):
        choices = []
        for start in range(end - 1, -1, -1):
            rows, longest = end - start, lengths[order[start]]
            if rows > 1 and (rows * longest > max_tokens or rows > (max_rows or rows)):
                break
            choices.append((best[start][0] + rows * longest + pass_cost, start))
        best.append(min(choices))
    passes, end = [], len(order)
    while end:
        start = best[end][1]
        passes.append(order[start:end])
        end = start
    return passes[::-1]
