"""Batches of like length, and padding on the left."""

from collections.abc import Iterator, Sequence

import torch

BATCH_TOKENS = 16384


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Yield places of rows of like length, the longest first: what fails, fails early."""
    places: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if places and (len(places) + 1) * lengths[places[0]] > batch_tokens:
            yield places
            places = []
        places.append(place)
    if places:
        yield places


def padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids padded on the left, and the mask; both int64 of shape (rows, longest)."""
    longest = max(map(len, rows))
    padding = [longest - len(ids) for ids in rows]
    ids = [[pad] * n + list(ids) for n, ids in zip(padding, rows, strict=True)]
    return torch.tensor(ids), torch.tensor([[0] * n + [1] * (longest - n) for n in padding])
