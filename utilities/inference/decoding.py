"""The loop that writes answers: one token for every prompt of a batch, again and again.

A prompt whose answer has ended leaves the batch at once, so that no arithmetic is spent on it. The
cache of keys and values has room for the longest possible answer from the beginning; growing it,
as libraries do, copies all of it for each token. Neither changes what is written: prompts are
padded on the left, padding is masked, and positions are counted without it.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import (
    DynamicCache,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.cache_utils import DynamicLayer

from utilities.inference.generation import Generation
from utilities.inference.padding import padded
from utilities.models.output_head import has_plain_head, hidden_in_place_of_logits, likeliest

PART_TOKENS = 1024  # of prompts are read at once


@dataclass(frozen=True)
class Token:
    """One token of one answer.

    Attributes:
        place: the prompt's, in the batch as it was at first.
        id: of the token.
        log_probability: the model's own, in nats, before temperature and penalties; NaN when the
            model's scores are not finite.
    """

    place: int
    id: int
    log_probability: float


class _Room(DynamicLayer):
    """One layer's keys and values, in storage that is made once.

    `keys` and `values` are views: of the rows still in the batch, up to the last token.
    """

    capacity = 0  # tokens; set on a subclass

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        rows, heads, _, width = key_states.shape
        self.stored_keys = key_states.new_empty(rows, heads, self.capacity, width)
        shape = (rows, heads, self.capacity, value_states.shape[-1])
        self.stored_values = value_states.new_empty(shape)
        self.length = 0

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_, **__) -> tuple:
        """Add the keys and values of new tokens; return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.length
        self._view(len(key_states), start + key_states.shape[-2])
        self.keys[:, :, start:] = key_states
        self.values[:, :, start:] = value_states
        return self.keys, self.values

    def put(self, place: slice, part: DynamicLayer, rows: int, length: int) -> None:
        """Take over some prompts' keys and values, right-aligned, from a layer of their own."""
        if not self.is_initialized:
            self.lazy_initialization(
                *(t[:1].expand(rows, -1, -1, -1) for t in (part.keys, part.values))
            )
        start = length - part.keys.shape[-2]
        for stored, fresh in ((self.stored_keys, part.keys), (self.stored_values, part.values)):
            stored[place, :, :start] = 0  # masked, but it must be a number
            stored[place, :, start:length] = fresh
        self._view(rows, length)

    def _view(self, rows: int, length: int) -> None:
        self.length = length
        self.keys = self.stored_keys[:rows, :, :length]
        self.values = self.stored_values[:rows, :, :length]

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows; only those that change their place are copied."""
        (targets,) = torch.nonzero(
            indices != torch.arange(len(indices), device=self.device), as_tuple=True
        )
        sources = indices[targets]
        self.stored_keys[targets, :, : self.length] = self.keys[sources]
        self.stored_values[targets, :, : self.length] = self.values[sources]


def _new_cache(model: PreTrainedModel, capacity: int) -> DynamicCache:
    room = type("_Room", (_Room,), {"capacity": capacity})
    cache = DynamicCache(config=model.config)
    cache.layers = [room() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    if cache.layer_class_to_replicate is DynamicLayer:
        cache.layer_class_to_replicate = room
    return cache


class Batch:
    """Prompts that are being answered together.

    Args:
        model: a causal language model, in evaluation mode.
        prompts: token ids, at least one each.
        settings: how tokens are chosen; beams are not done here.
        pad_token_id: fills up short prompts; any id, for it is masked.
        seeds: what the drawing for each prompt depends on, beside the settings' own seed.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        settings: Generation,
        pad_token_id: int,
        seeds: Sequence[int],
    ):
        self.model, self.settings = model, settings
        self.length = max(map(len, prompts))
        capacity = self.length + settings.max_new_tokens
        self.cache = _new_cache(model, capacity)
        self.padding = torch.tensor([self.length - len(ids) for ids in prompts])
        self.ids = torch.full((len(prompts), capacity), pad_token_id)
        self.ids[:, : self.length] = padded(prompts, pad_token_id)[0]
        self.places = list(range(len(prompts)))
        self.done = 0
        self.head = model.get_output_embeddings()
        greedy = not settings.temperature and settings.repetition_penalty == 1
        greedy = greedy and not settings.no_repeat_ngram_size
        self.fast = greedy and model.device.type == "cpu" and has_plain_head(model)
        if settings.temperature:
            draws = [np.random.default_rng([settings.seed, seed]) for seed in seeds]
            uniform = np.stack([draw.random(settings.max_new_tokens) for draw in draws])
            self.uniform = torch.from_numpy(uniform).float()
        self.penalties = LogitsProcessorList()
        if settings.repetition_penalty != 1:
            penalty = RepetitionPenaltyLogitsProcessor(settings.repetition_penalty)
            self.penalties.append(penalty)
        if settings.no_repeat_ngram_size:
            self.penalties.append(NoRepeatNGramLogitsProcessor(settings.no_repeat_ngram_size))
        self.warpers = LogitsProcessorList()
        if settings.temperature:
            self.warpers.append(TemperatureLogitsWarper(settings.temperature))
        if settings.top_k:
            self.warpers.append(TopKLogitsWarper(settings.top_k))
        if settings.top_p:
            self.warpers.append(TopPLogitsWarper(settings.top_p))

    @torch.inference_mode()
    def step(self) -> list[Token]:
        """Write one more token for every prompt that is left."""
        with hidden_in_place_of_logits(self.head) if self.fast else contextlib.nullcontext():
            if self.done:
                found = self._run(slice(None), self.length - 1, self.cache)
            else:
                found = self._read_prompts()
        if self.fast:
            chosen, best, total = likeliest(found, self.head.weight)
            chances = best - total
        else:
            logits = found.float()
            chosen = self._choose(logits)
            chances = logits.gather(1, chosen[:, None])[:, 0] - logits.logsumexp(1)
        chosen = chosen.cpu()
        self.ids[:, self.length] = chosen
        self.length, self.done = self.length + 1, self.done + 1
        new = zip(self.places, chosen.tolist(), chances.tolist(), strict=True)
        return [Token(*each) for each in new]

    def _run(self, rows: slice, start: int, cache: DynamicCache) -> torch.Tensor:
        """Have the model read the columns from `start` on; return what follows the last."""
        first = 0 if cache is self.cache else start  # what lies before is in no other cache
        padding = self.padding[rows, None]
        columns = torch.arange(first, self.length)
        mask = (columns >= padding).long() if (padding > first).any() else None
        positions = (columns[start - first :] - padding).clamp(min=0)
        return self.model(
            input_ids=self._there(self.ids[rows, start : self.length]),
            attention_mask=None if mask is None else self._there(mask),
            position_ids=self._there(positions),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]

    def _read_prompts(self) -> torch.Tensor:
        """Read the prompts in parts of like length, so that little padding is read."""
        rows, layers = len(self.places), self.cache.layers
        if not layers or not all(isinstance(layer, _Room) for layer in layers):
            return self._run(slice(None), 0, self.cache)
        starts, found = self.padding.tolist(), []
        first = 0
        while first < rows:
            last = first + 1
            start = starts[first]
            while (
                last < rows
                and (last + 1 - first) * (self.length - min(start, starts[last])) <= PART_TOKENS
            ):
                start = min(start, starts[last])
                last += 1
            part, place = DynamicCache(config=self.model.config), slice(first, last)
            found.append(self._run(place, start, part))
            for room, layer in zip(layers, part.layers, strict=True):
                room.put(place, layer, rows, self.length)
            first = last
        return torch.cat(found)

    def _there(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.model.device)

    def _choose(self, logits: torch.Tensor) -> torch.Tensor:
        scores = logits
        if self.penalties:  # row by row, or padding would count as text
            histories = [
                self._there(ids[pad : self.length])[None]
                for ids, pad in zip(self.ids, self.padding.tolist(), strict=True)
            ]
            rows = zip(histories, logits.clone()[:, None], strict=True)
            scores = torch.cat([self.penalties(history, row) for history, row in rows])
        if not self.settings.temperature:
            return scores.argmax(1)
        chances = self.warpers(None, scores).softmax(1).cumsum(1)
        # The last sum may miss 1 by rounding.
        point = self.uniform[:, self.done, None].to(chances.device) * chances[:, -1:]
        return torch.searchsorted(chances, point, right=True).clamp(max=chances.shape[1] - 1)[:, 0]

    @torch.inference_mode()
    def drop(self, ended: set[int]) -> None:
        """Take prompts out of the batch; the last ones move into their places.

        Args:
            ended: places as `Token.place` has them.
        """
        if not ended:
            return
        left = len(self.places) - len(ended)
        staying = [slot for slot, place in enumerate(self.places) if place not in ended]
        movers = iter(staying[len([slot for slot in staying if slot < left]) :])
        order = [slot if self.places[slot] not in ended else next(movers) for slot in range(left)]
        self.places = [self.places[slot] for slot in order]
        order = torch.tensor(order, dtype=torch.long)
        self.ids, self.padding = self.ids[order], self.padding[order]
        if self.settings.temperature:
            self.uniform = self.uniform[order]
        if left:
            order = self._there(order)
            for layer in self.cache.layers:
                layer.batch_select_indices(order)
