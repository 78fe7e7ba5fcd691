"""A key/value cache whose storage is allocated once."""

from typing import Any

import torch
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer


class PreallocatedLayer(DynamicLayer):
    """The keys and values of one layer, in storage that is allocated once.

    The library's layer grows: it copies all of its content for each token. `keys` and `values` are
    views of the storage here: of the rows still in the batch, up to the last token.

    Args:
        capacity: tokens that the storage has room for.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, capacity: int):
        super().__init__()
        self.capacity = capacity

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate the storage, by the shapes of the first keys and values."""
        super().lazy_initialization(key_states, value_states)
        rows, heads, _, width = key_states.shape
        self.stored_keys = key_states.new_empty(rows, heads, self.capacity, width)
        shape = (rows, heads, self.capacity, value_states.shape[-1])
        self.stored_values = value_states.new_empty(shape)
        self.length = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the keys and values of new tokens; return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.length
        self._view(len(key_states), start + key_states.shape[-2])
        self.keys[:, :, start:] = key_states
        self.values[:, :, start:] = value_states
        return self.keys, self.values

    def copy_rows(
        self, rows: slice, other: "PreallocatedLayer", batch_size: int, length: int
    ) -> None:
        """Copy some prompts' keys and values, right-aligned, from a layer of their own.

        Args:
            rows: of this layer, to be written.
            other: the layer to copy from; it may hold fewer tokens.
            batch_size: rows of this layer.
            length: tokens of this layer, padding included.
        """
        if not self.is_initialized:
            shapes = [t[:1].expand(batch_size, -1, -1, -1) for t in (other.keys, other.values)]
            self.lazy_initialization(*shapes)
        start = length - other.length
        for stored, new in ((self.stored_keys, other.keys), (self.stored_values, other.values)):
            stored[rows, :, :start] = 0  # masked, but it must be a number
            stored[rows, :, start:length] = new
        self._view(batch_size, length)

    def _view(self, rows: int, length: int) -> None:
        self.length = length
        self.keys = self.stored_keys[:rows, :, :length]
        self.values = self.stored_values[:rows, :, :length]

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows; only those that change their position are copied."""
        (targets,) = torch.nonzero(
            indices != torch.arange(len(indices), device=self.device), as_tuple=True
        )
        sources = indices[targets]
        self.stored_keys[targets, :, : self.length] = self.keys[sources]
        self.stored_values[targets, :, : self.length] = self.values[sources]


def preallocated_cache(model: PreTrainedModel, capacity: int) -> Cache:
    """Return an empty cache for a model, with room for `capacity` tokens.

    Layers of other kinds, with a sliding window or a recurrent state, are the library's own.
    """
    layers = DynamicCache(config=model.config).layers
    # The type itself is compared: the layers of other kinds are its subclasses.
    return Cache(
        [PreallocatedLayer(capacity) if type(layer) is DynamicLayer else layer for layer in layers]
    )


def preallocated_layers(cache: Cache) -> list[PreallocatedLayer] | None:
    """Return the layers of a cache, or None where one of them is of another kind."""
    layers = [layer for layer in cache.layers if isinstance(layer, PreallocatedLayer)]
    return layers if len(layers) == len(cache.layers) else None
