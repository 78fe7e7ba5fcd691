"""Packing: several examples in one row of fixed length, without attention across examples.

`position_ids` start at 0 again where an example begins. From that transformers infers where
examples begin and keeps attention within each, provided that there is no `attention_mask` and no
cache. The first label of an example is −100, as nothing before it may predict it.
"""

from collections.abc import Sequence
from itertools import islice

import numpy as np
import pyarrow as pa
from datasets import Dataset

from utilities.errors import DataError
from utilities.features.tokenization import IGNORE_INDEX, features_from, row_lengths


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Pack pieces into bins by best-fit decreasing: the longest first, each into the fullest bin.

    It needs at most 11/9 of the fewest bins possible, plus one (Johnson 1974). The sizes of free
    space that bins have are bits of one integer, so that the smallest one that suffices is its
    lowest bit at or above the piece's length.

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
    with_space: list[list[list[int]]] = [[] for _ in range(capacity + 1)]  # bins, by free space
    spaces = 0  # bit i is set if a bin has i free
    for index in order:
        length = lengths[index]
        enough = spaces >> length  # the spaces of `length` or more, counted from there
        if enough:
            # x & -x is the lowest bit of x.
            space = length + (enough & -enough).bit_length() - 1
            chosen = with_space[space].pop()
            if not with_space[space]:  # that was the last bin of this space
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
        pad_token_id: fills the rest of a row; the padding is a segment of its own.

    Returns:
        A `Dataset` with `input_ids`, `labels` and `position_ids` of that length in each row, and
        `full_text`, the texts joined.

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
    """Pad each row to one length, for hardware that needs equal shapes.

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
    """Where each token goes when examples are put into bins and the bins are joined.

    All tokens of a column are one flat array, and moved by one indexed assignment: token
    `source[i]` of the old array becomes token `target[i]` of the new one. Loops over examples would
    take longer than tokenization.

    Attributes:
        starts: where each example begins in the new array.
        padding: tokens that each bin has left over.
        within: each token's position in its example.
    """

    def __init__(self, features: Dataset, length: int, bins: list[list[int]]):
        self.table = features.with_format("arrow")[:]
        self.length, self.bins = length, bins
        self.order = np.array([index for members in bins for index in members], dtype=np.int64)
        sizes = np.array(row_lengths(features), dtype=np.int64)
        packed = sizes[self.order]
        per_bin = np.array([len(members) for members in bins], dtype=np.int64)
        # `cumsum(x) - x` is what comes before each element, so where it begins.
        self.padding = length - np.add.reduceat(packed, np.cumsum(per_bin) - per_bin)
        padding_before = np.repeat(np.cumsum(self.padding) - self.padding, per_bin)
        tokens_before = np.cumsum(packed) - packed
        self.starts = tokens_before + padding_before
        self.within = np.arange(packed.sum()) - np.repeat(tokens_before, packed)
        self.source = np.repeat((np.cumsum(sizes) - sizes)[self.order], packed) + self.within
        self.target = np.repeat(self.starts, packed) + self.within

    def fill(self, column: str, padding: int) -> np.ndarray:
        """Return a column's tokens at their new positions, int32 of shape (bins × length,)."""
        values = self.table[column].combine_chunks().flatten().to_numpy()
        flat = np.full(self.length * len(self.bins), padding, dtype=np.int32)
        flat[self.target] = values[self.source]
        return flat

    def positions(self) -> np.ndarray:
        """Return positions that start at 0 in each example, and in the padding of each bin."""
        flat = np.full(self.length * len(self.bins), -1, dtype=np.int32)
        flat[self.target] = self.within
        # What is still −1 is the padding, bin by bin.
        flat[flat < 0] = np.concatenate([np.arange(size) for size in self.padding])
        return flat

    def dataset(self, columns: dict[str, np.ndarray]) -> Dataset:
        """Return a dataset of these columns and of the bins' joined texts."""
        texts = iter(self.table["full_text"].take(pa.array(self.order)).to_pylist())
        joined = ["".join(islice(texts, len(members))) for members in self.bins]
        offsets = np.arange(0, self.length * len(self.bins) + 1, self.length)
        return features_from(columns, offsets, joined)
