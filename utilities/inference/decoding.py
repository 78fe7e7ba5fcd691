"""The decoding loop: one token for every prompt of a batch, again and again.

A prompt whose answer has ended leaves the batch at once, so that no arithmetic is spent on it. The
key/value cache has room for the longest possible answer from the beginning; growing it, as
libraries do, copies all of it for each token. Neither changes the answers: prompts are padded on
the left, padding is masked, and positions are counted without it.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from transformers import (
    Cache,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from utilities.inference.generation import Generation
from utilities.inference.key_value_cache import preallocated_cache, preallocated_layers
from utilities.inference.padding import padded
from utilities.models.output_head import has_plain_head, hidden_in_place_of_logits, likeliest
from utilities.upstream import cache_argument

PART_TOKENS = 1024  # tokens of prompts in one forward pass


@dataclass(frozen=True)
class Token:
    """One token of one answer.

    Attributes:
        index: of the prompt, in the batch as it was at first.
        id: of the token.
        log_probability: the model's own, in nats, before temperature and penalties; NaN when the
            logits are not finite.
    """

    index: int
    id: int
    log_probability: float


class Batch:
    """Prompts that are answered together.

    Args:
        model: a causal language model, in evaluation mode.
        prompts: token ids, at least one each.
        settings: how tokens are chosen; beams are not done here.
        pad_token_id: fills up short prompts; any id, since padding is masked.
        seeds: one per prompt; its random numbers depend on this and on the settings' own seed.
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
        self.length = max(map(len, prompts))  # tokens of a row so far, padding included
        capacity = self.length + settings.max_new_tokens
        self.cache = preallocated_cache(model, capacity)
        self.cache_argument = cache_argument(model)
        self.padding = torch.tensor([self.length - len(ids) for ids in prompts])
        self.ids = torch.full((len(prompts), capacity), pad_token_id)
        self.ids[:, : self.length] = padded(prompts, pad_token_id)[0]
        self.indices = list(range(len(prompts)))  # of the prompts that are left, row by row
        self.steps = 0
        self.head = model.get_output_embeddings()
        greedy = not settings.temperature and settings.repetition_penalty == 1
        greedy = greedy and not settings.no_repeat_ngram_size
        # Then the likeliest token is all that is needed, not the logits of all.
        self.fast = greedy and model.device.type == "cpu" and has_plain_head(model)
        if settings.temperature:
            generators = [np.random.default_rng([settings.seed, seed]) for seed in seeds]
            uniform = np.stack([each.random(settings.max_new_tokens) for each in generators])
            self.uniform = torch.from_numpy(uniform).float()
        self.penalties = _penalties(settings)
        self.warpers = _warpers(settings)

    @torch.inference_mode()
    def step(self) -> list[Token]:
        """Write one more token for every prompt that is left."""
        with hidden_in_place_of_logits(self.head) if self.fast else contextlib.nullcontext():
            if self.steps:
                output = self._forward(slice(None), self.length - 1, self.cache)
            else:
                output = self._read_prompts()
        if self.fast:  # then the output is what goes into the head
            chosen, best, total = likeliest(output, self.head.weight)
            log_probabilities = best - total
        else:
            logits = output.float()
            chosen = self._choose(logits)
            log_probabilities = logits.gather(1, chosen[:, None])[:, 0] - logits.logsumexp(1)
        chosen = chosen.cpu()
        self.ids[:, self.length] = chosen
        self.length, self.steps = self.length + 1, self.steps + 1
        tokens = zip(self.indices, chosen.tolist(), log_probabilities.tolist(), strict=True)
        return [Token(*token) for token in tokens]

    def _forward(self, rows: slice, start: int, cache: Cache) -> torch.Tensor:
        """Run the model on the columns from `start` on; return its output at the last one."""
        first = 0 if cache is self.cache else start  # another cache holds nothing before `start`
        padding = self.padding[rows, None]
        columns = torch.arange(first, self.length)
        mask = (columns >= padding).long() if (padding > first).any() else None
        positions = (columns[start - first :] - padding).clamp(min=0)
        output = self.model(
            input_ids=self._to_device(self.ids[rows, start : self.length]),
            attention_mask=None if mask is None else self._to_device(mask),
            position_ids=self._to_device(positions),
            use_cache=True,
            logits_to_keep=1,
            **{self.cache_argument: cache},
        )
        return output.logits[:, -1]

    def _read_prompts(self) -> torch.Tensor:
        """Read the prompts in parts of similar length, so that little padding is read."""
        layers = preallocated_layers(self.cache)
        if layers is None:
            return self._forward(slice(None), 0, self.cache)
        batch_size, outputs = len(self.indices), []
        starts = self.padding.tolist()
        first = 0
        while first < batch_size:
            last = first + 1
            start = starts[first]
            while (
                last < batch_size
                and (last + 1 - first) * (self.length - min(start, starts[last])) <= PART_TOKENS
            ):
                start = min(start, starts[last])
                last += 1
            part, rows = preallocated_cache(self.model, self.length - start), slice(first, last)
            outputs.append(self._forward(rows, start, part))
            for layer, read in zip(layers, preallocated_layers(part) or (), strict=True):
                layer.copy_rows(rows, read, batch_size, self.length)
            first = last
        return torch.cat(outputs)

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.model.device)

    def _choose(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the next token of each row: the likeliest, or one that is drawn."""
        scores = logits
        if self.penalties:  # row by row, or padding would count as text
            histories = [
                self._to_device(ids[pad : self.length])[None]
                for ids, pad in zip(self.ids, self.padding.tolist(), strict=True)
            ]
            rows = zip(histories, logits.clone()[:, None], strict=True)
            scores = torch.cat([_apply(self.penalties, history, row) for history, row in rows])
        if not self.settings.temperature:
            return scores.argmax(1)
        # Inverse transform sampling: the first token at which the cumulated probability passes a
        # uniform random number. Each prompt has numbers of its own, so batches change nothing.
        cumulated = _apply(self.warpers, self.ids, scores).softmax(1).cumsum(1)
        # The last sum may miss 1 by rounding.
        point = self.uniform[:, self.steps, None].to(cumulated.device) * cumulated[:, -1:]
        chosen = torch.searchsorted(cumulated, point, right=True)
        return chosen.clamp(max=cumulated.shape[1] - 1)[:, 0]

    @torch.inference_mode()
    def drop(self, ended: set[int]) -> None:
        """Take prompts out of the batch; rows from its end move into their positions.

        Args:
            ended: indices of prompts, as in `Token.index`.
        """
        if not ended:
            return
        left = len(self.indices) - len(ended)
        staying = [row for row, index in enumerate(self.indices) if index not in ended]
        # Rows within the new size stay in their positions, so that few rows are copied.
        movers = iter([row for row in staying if row >= left])
        rows = [row if self.indices[row] not in ended else next(movers) for row in range(left)]
        self.indices = [self.indices[row] for row in rows]
        order = torch.tensor(rows, dtype=torch.long)
        self.ids, self.padding = self.ids[order], self.padding[order]
        if self.settings.temperature:
            self.uniform = self.uniform[order]
        if left:
            self.cache.batch_select_indices(self._to_device(order))


def _penalties(settings: Generation) -> LogitsProcessorList:
    """Return what changes logits by the text so far."""
    processors = LogitsProcessorList()
    if settings.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
    if settings.no_repeat_ngram_size:
        processors.append(NoRepeatNGramLogitsProcessor(settings.no_repeat_ngram_size))
    return processors


def _warpers(settings: Generation) -> LogitsProcessorList:
    """Return what changes logits before a token is drawn."""
    processors = LogitsProcessorList()
    if settings.temperature:
        processors.append(TemperatureLogitsWarper(settings.temperature))
    if settings.top_k:
        processors.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p:
        processors.append(TopPLogitsWarper(settings.top_p))
    return processors


def _apply(
    processors: LogitsProcessorList, ids: torch.Tensor, logits: torch.Tensor
) -> torch.Tensor:
    # The library asks for types that no function of torch returns.
    return processors(cast(torch.LongTensor, ids), cast(torch.FloatTensor, logits))
