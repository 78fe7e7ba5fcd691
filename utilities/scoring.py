"""What a model thinks of texts: how likely they are, and where they lie among its states."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from utilities.tokenization import encode_texts

BATCH_TOKENS = 16384


def log_probabilities(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    responses: Sequence[str],
    batch_tokens: int = BATCH_TOKENS,
) -> tuple[np.ndarray, np.ndarray]:
    """Return how likely a model finds each response, given its prompt.

    Args:
        model: a causal language model, in evaluation mode.
        tokenizer: the model's own, with a padding token.
        prompts: texts; may be empty. A prompt loses tokens from the left where the context is full.
        responses: as many texts; end-of-text is added to each.
        batch_tokens: tokens in a batch.

    Returns:
        (log-probabilities in nats, float64 of shape (n,); tokens of each response with end-of-text,
        int64 of shape (n,)). The perplexity of a response is exp(-log-probability / tokens). NaN
        where the response alone does not fit the context.
    """
    context = getattr(model.config, "max_position_embeddings", None) or math.inf
    end = [tokenizer.eos_token_id]
    before = encode_texts(tokenizer, prompts, beginning=True)
    after = [ids + end for ids in encode_texts(tokenizer, responses)]
    places = [place for place, ids in enumerate(after) if len(ids) < context]
    pairs = []
    for place in places:
        room = int(min(context - len(after[place]), len(before[place])))
        pairs.append((before[place][-room:] or end, after[place]))
    values = np.full(len(after), np.nan)
    known = log_probabilities_of_ids(model, pairs, tokenizer.pad_token_id, batch_tokens)
    values[places] = known
    return values, np.array([len(ids) for ids in after], dtype=np.int64)


@torch.inference_mode()
def log_probabilities_of_ids(
    model: PreTrainedModel,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    pad: int,
    batch_tokens: int = BATCH_TOKENS,
) -> list[float]:
    """Return the log-probability of each pair's second ids after its first, in nats."""
    sums = [0.0] * len(pairs)
    for places in batches([len(a) + len(b) for a, b in pairs], batch_tokens):
        ids, mask = padded([[*pairs[place][0], *pairs[place][1]] for place in places], pad)
        lengths = [len(pairs[place][1]) for place in places]
        logits = _run(model, ids, mask, logits_to_keep=max(lengths) + 1).logits[:, :-1]
        for place, length, row, target in zip(places, lengths, logits, ids, strict=True):
            scores, target = row[-length:].float(), target[-length:, None].to(row.device)
            chances = scores.gather(1, target)[:, 0] - scores.logsumexp(1)
            sums[place] = chances.double().sum().item()
    return sums


@torch.inference_mode()
def mean_states(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    batch_tokens: int = BATCH_TOKENS,
) -> np.ndarray:
    """Return the mean of the last layer's states over the tokens of each text.

    Texts of like meaning tend to have vectors in like directions; of a small language model that
    was not trained for it, only roughly.

    Returns:
        float32 of shape (n, hidden size).
    """
    context = getattr(model.config, "max_position_embeddings", None)
    encoded = [ids[:context] or [tokenizer.eos_token_id] for ids in encode_texts(tokenizer, texts)]
    vectors = np.empty((len(encoded), model.config.hidden_size), dtype=np.float32)
    for places in batches([len(ids) for ids in encoded], batch_tokens):
        ids, mask = padded([encoded[place] for place in places], tokenizer.pad_token_id)
        output = _run(model, ids, mask, logits_to_keep=1, output_hidden_states=True)
        states = output.hidden_states[-1].float().cpu() * mask[..., None]
        vectors[places] = (states.sum(1) / mask.sum(1, keepdim=True)).numpy()
    return vectors


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


def _run(model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, **options):
    return model(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        position_ids=(mask.cumsum(1) - 1).clamp(min=0).to(model.device),
        **options,
    )
