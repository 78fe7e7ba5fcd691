"""Batches of rows of similar length, and padding on the left."""

from collections.abc import Iterator, Sequence

import torch

BATCH_TOKENS = 16384


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Yield indices of rows of similar length, the longest first.

    If a batch is too large for the memory, the first one is.

    Args:
        lengths: of the rows, in tokens.
        batch_tokens: tokens in a batch, padding included; a longer row is a batch by itself.
    """
    indices: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if indices and (len(indices) + 1) * lengths[indices[0]] > batch_tokens:
            yield indices
            indices = []
        indices.append(index)
    if indices:
        yield indices


def padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids padded on the left, and the attention mask; both int64, (rows, longest)."""
    longest = max(map(len, rows))
    padding = [longest - len(ids) for ids in rows]
    ids = [[pad] * n + list(ids) for n, ids in zip(padding, rows, strict=True)]
    return torch.tensor(ids), torch.tensor([[0] * n + [1] * (longest - n) for n in padding])
