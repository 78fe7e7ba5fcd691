"""Log-probabilities and mean hidden states of texts."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from utilities.features.tokenization import encode_texts
from utilities.inference.padding import BATCH_TOKENS, batches, padded
from utilities.models.output_head import has_plain_head, hidden_in_place_of_logits, likeliest
from utilities.upstream import cache_argument


def log_probabilities(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    responses: Sequence[str],
    batch_tokens: int = BATCH_TOKENS,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the log-probability of each response, given its prompt.

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
    fitting = [index for index, ids in enumerate(after) if len(ids) < context]
    pairs = []
    for index in fitting:
        room = int(min(context - len(after[index]), len(before[index])))
        # There must be one token to continue from.
        pairs.append((before[index][-room:] or end, after[index]))
    values = np.full(len(after), np.nan)
    values[fitting] = log_probabilities_of_ids(model, pairs, tokenizer.pad_token_id, batch_tokens)
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
    for indices in batches([len(a) + len(b) for a, b in pairs], batch_tokens):
        ids, mask = padded([[*pairs[index][0], *pairs[index][1]] for index in indices], pad)
        lengths = [len(pairs[index][1]) for index in indices]
        logits = _forward(model, ids, mask, logits_to_keep=max(lengths) + 1).logits[:, :-1]
        for index, length, row, target in zip(indices, lengths, logits, ids, strict=True):
            scores, target = row[-length:].float(), target[-length:, None].to(row.device)
            log_probabilities = scores.gather(1, target)[:, 0] - scores.logsumexp(1)
            sums[index] = log_probabilities.cpu().double().sum().item()  # some GPUs lack float64
    return sums


@torch.inference_mode()
def choice_log_probabilities(
    model: PreTrainedModel,
    questions: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]],
    pad: int,
    batch_tokens: int = BATCH_TOKENS,
    progress: Callable[[int], object] = lambda done: None,
) -> list[list[tuple[float, bool]]]:
    """Return the log-probability of each choice after its question, which is read only once.

    Args:
        model: a causal language model, in evaluation mode.
        questions: for each, its token ids and those of every choice, at least one token each.
        pad: any token; it is masked.
        batch_tokens: tokens in a batch.
        progress: called with the number of questions that were done.

    Returns:
        For each question and choice, the log-probability in nats, and whether greedy decoding would
        write the choice.
    """
    results: list[list[tuple[float, bool]]] = [[] for _ in questions]
    sizes = [sum(len(ids) + len(choice) for choice in choices) for ids, choices in questions]
    head = model.get_output_embeddings()
    fast = model.device.type == "cpu" and has_plain_head(model)
    for indices in _within(sizes, batch_tokens):
        batch = [questions[index] for index in indices]
        with hidden_in_place_of_logits(head) if fast else contextlib.nullcontext():
            first, rest = _read_choices(model, batch, pad)
        choices = [choice for _, choices in batch for choice in choices]
        owner = [n for n, (_, choices) in enumerate(batch) for _ in choices]
        # A choice's first token is predicted at the end of its question, which all choices share;
        # the other tokens at the one before. So the first tokens of all choices come first, then
        # the other tokens of the first choice, of the second, and so on.
        states = torch.cat([first[owner], rest])
        others = [token for choice in choices for token in choice[1:]]
        tokens = torch.tensor([choice[0] for choice in choices] + others).to(states.device)
        scores, greedy = _of_tokens(states, tokens, head.weight if fast else None)
        scores = scores.cpu().double()  # some GPUs lack float64
        sums, start = scores[: len(choices)].tolist(), len(choices)
        all_greedy = greedy[: len(choices)].tolist()
        for n, choice in enumerate(choices):
            part = slice(start, start + len(choice) - 1)
            sums[n] += scores[part].sum().item()
            all_greedy[n] &= bool(greedy[part].all())
            start = part.stop
            results[indices[owner[n]]].append((sums[n], all_greedy[n]))
        progress(len(indices))
    return results


def _read_choices(
    model: PreTrainedModel,
    questions: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]],
    pad: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the model's output at the questions' ends, and at all but the choices' last tokens."""
    ids, mask = padded([question for question, _ in questions], pad)
    cached: dict[str, Any] = {"use_cache": True}
    cache = cached[cache_argument(model)] = DynamicCache(config=model.config)
    first = _forward(model, ids, mask, logits_to_keep=1, **cached).logits[:, -1]
    owner = [n for n, (_, choices) in enumerate(questions) for _ in choices]
    read = [choice[:-1] for _, choices in questions for choice in choices]
    longest = max(map(len, read))
    if not longest:
        return first, first[:0]
    # Each choice gets a copy of its question's keys and values.
    cache.batch_select_indices(torch.tensor(owner, device=model.device))
    lengths = torch.tensor([len(choice) for choice in read])
    more = torch.tensor([[*choice, *[pad] * (longest - len(choice))] for choice in read])
    real = torch.arange(longest) < lengths[:, None]
    start = mask.sum(1)[owner]
    output = model(
        input_ids=more.to(model.device),
        attention_mask=torch.cat([mask[owner], real.long()], dim=1).to(model.device),
        position_ids=(start[:, None] + torch.arange(longest)).to(model.device),
        **cached,
    )
    return first, output.logits[real.to(model.device)]


def _of_tokens(
    states: torch.Tensor, tokens: torch.Tensor, weight: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tokens' log-probabilities, and whether each is the likeliest.

    `states` are logits, or with the `weight` of a head what goes into the head.
    """
    if weight is None:
        logits = states.float()
        scores = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(1)
        return scores, logits.argmax(1) == tokens
    chosen, _, total = likeliest(states, weight)
    return (states * weight[tokens]).float().sum(1) - total, chosen == tokens


def _within(sizes: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield indices of similar size, the largest first, whose sizes sum up to a budget at most."""
    indices: list[int] = []
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        if indices and sum(sizes[i] for i in indices) + sizes[index] > budget:
            yield indices
            indices = []
        indices.append(index)
    if indices:
        yield indices


@torch.inference_mode()
def mean_states(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    batch_tokens: int = BATCH_TOKENS,
) -> np.ndarray:
    """Return the mean of the last layer's hidden states over the tokens of each text.

    Texts of similar meaning tend to have vectors of similar direction; only roughly so in a small
    language model that was not trained for it.

    Returns:
        float32 of shape (n, hidden size).
    """
    context = getattr(model.config, "max_position_embeddings", None)
    encoded = [ids[:context] or [tokenizer.eos_token_id] for ids in encode_texts(tokenizer, texts)]
    vectors = np.empty((len(encoded), model.config.hidden_size), dtype=np.float32)
    for indices in batches([len(ids) for ids in encoded], batch_tokens):
        ids, mask = padded([encoded[index] for index in indices], tokenizer.pad_token_id)
        output = _forward(model, ids, mask, logits_to_keep=1, output_hidden_states=True)
        states = output.hidden_states[-1].float().cpu() * mask[..., None]
        vectors[indices] = (states.sum(1) / mask.sum(1, keepdim=True)).numpy()
    return vectors


def _forward(model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, **options: Any) -> Any:
    """Run the model on rows that are padded on the left; positions count real tokens only."""
    return model(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        position_ids=(mask.cumsum(1) - 1).clamp(min=0).to(model.device),
        **options,
    )
