"""Packing: several examples in one row of fixed length, without seeing each other.

Attention stays within each example because `position_ids` start at 0 again where an example
begins: transformers reads the borders off them, provided that there is no `attention_mask` and no
cache. An example's first label is −100, as nothing before it may predict it.
"""

from collections.abc import Sequence
from itertools import islice

import numpy as np
import pyarrow as pa
from datasets import Dataset

from utilities.errors import DataError
from utilities.features.tokenization import IGNORE_INDEX, features_from, row_lengths


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Put pieces into as few bins as a greedy pass can: the longest first, each where it fits best.

    "Best-fit decreasing" needs at most 11/9 of the fewest bins possible, plus one (Johnson 1974).
    The free spaces that bins have left are kept as bits of one integer, so the tightest space that
    suffices is found by shifting.

    Args:
        lengths: of the pieces, 1 to `capacity`.
        capacity: what a bin holds.

    Returns:
        For each bin the indices of its pieces, in the order in which they were put in.

    Raises:
        DataError: a piece does not fit into a bin.

    Example:
        >>> best_fit([3, 5, 2, 4], capacity=7)
        [[1, 2], [3, 0]]
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").tolist()
    if order and not (lengths[order[-1]] >= 1 and lengths[order[0]] <= capacity):
        raise DataError(
            f"cannot pack lengths from {lengths[order[-1]]} to {lengths[order[0]]} "
            f"into rows of {capacity}"
        )
    bins: list[list[int]] = []
    with_space: list[list[list[int]]] = [[] for _ in range(capacity + 1)]
    spaces = 0  # bit i: there is a bin with i free
    for index in order:
        length = lengths[index]
        enough = spaces >> length
        if enough:
            space = length + (enough & -enough).bit_length() - 1
            chosen = with_space[space].pop()
            if not with_space[space]:
                spaces ^= 1 << space
        else:
            space, chosen = capacity, []
            bins.append(chosen)
        chosen.append(index)
        if left := space - length:
            with_space[left].append(chosen)
            spaces |= 1 << left
    return bins


def pack(features: Dataset, length: int, pad_token_id: int) -> Dataset:
    """Pack features into rows of one length.

    Args:
        features: with `input_ids`, `labels` and `full_text`, none longer than `length`.
        length: of the rows, in tokens.
        pad_token_id: fills what no example fits into; the padding is a segment of its own.

    Returns:
        A `Dataset` with `input_ids`, `labels` and `position_ids` of that length in each row, and
        `full_text`, the texts one after the other.

    Raises:
        DataError: an example is longer than `length`.
    """
    layout = _Layout(features, length, best_fit(row_lengths(features), length))
    labels = layout.fill("labels", IGNORE_INDEX)
    labels[layout.starts] = IGNORE_INDEX
    columns = {
        "input_ids": layout.fill("input_ids", pad_token_id),
        "labels": labels,
        "position_ids": layout.positions(),
    }
    return layout.dataset(columns)


def pad(features: Dataset, length: int, pad_token_id: int) -> Dataset:
    """Pad each row to one length, for hardware that wants all shapes equal.

    Arguments and errors are those of `pack`.

    Returns:
        A `Dataset` with `input_ids`, `labels`, `attention_mask` (0 on padding) and `full_text`.
    """
    sizes = row_lengths(features)
    if max(sizes, default=0) > length:
        raise DataError(f"cannot pad rows of up to {max(sizes)} tokens to {length}")
    layout = _Layout(features, length, [[index] for index in range(len(sizes))])
    columns = {
        "input_ids": layout.fill("input_ids", pad_token_id),
        "labels": layout.fill("labels", IGNORE_INDEX),
        "attention_mask": layout.fill("attention_mask", 0),
    }
    return layout.dataset(columns)


class _Layout:
    """Where each token goes when examples are put into bins, and the bins laid end to end."""

    def __init__(self, features: Dataset, length: int, bins: list[list[int]]):
        self.table = features.with_format("arrow")[:]
        self.length, self.bins = length, bins
        self.order = np.array([index for members in bins for index in members], dtype=np.int64)
        sizes = np.array(row_lengths(features), dtype=np.int64)
        packed = sizes[self.order]
        per_bin = [len(members) for members in bins]
        padding = length - np.add.reduceat(packed, np.cumsum(per_bin) - per_bin)
        before = np.repeat(np.cumsum(padding) - padding, per_bin)  # padding in the bins before
        self.starts = np.cumsum(packed) - packed + before
        self.padding = padding
        self.within = np.arange(packed.sum()) - np.repeat(np.cumsum(packed) - packed, packed)
        self.source = np.repeat((np.cumsum(sizes) - sizes)[self.order], packed) + self.within
        self.target = np.repeat(self.starts, packed) + self.within

    def fill(self, column: str, padding: int) -> np.ndarray:
        """Return a column's tokens at their new places, int32, (bins × length)."""
        values = self.table[column].combine_chunks().flatten().to_numpy()
        flat = np.full(self.length * len(self.bins), padding, dtype=np.int32)
        flat[self.target] = values[self.source]
        return flat

    def positions(self) -> np.ndarray:
        """Return positions that begin anew in each example, and in the padding."""
        flat = np.full(self.length * len(self.bins), -1, dtype=np.int32)
        flat[self.target] = self.within
        flat[flat < 0] = np.concatenate([np.arange(size) for size in self.padding])
        return flat

    def dataset(self, columns: dict[str, np.ndarray]) -> Dataset:
        """Return the columns, and the bins' texts, as rows."""
        texts = iter(self.table["full_text"].take(pa.array(self.order)).to_pylist())
        joined = ["".join(islice(texts, len(members))) for members in self.bins]
        offsets = np.arange(0, self.length * len(self.bins) + 1, self.length)
        return features_from(columns, offsets, joined)
