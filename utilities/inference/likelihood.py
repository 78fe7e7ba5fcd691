"""What a model thinks of texts: how likely they are, and where they lie among its states."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from utilities.features.tokenization import encode_texts
from utilities.inference.padding import BATCH_TOKENS, batches, padded
from utilities.models.output_head import has_plain_head, hidden_in_place_of_logits, likeliest


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
            sums[place] = chances.cpu().double().sum().item()  # some GPUs have no float64
    return sums


@torch.inference_mode()
def choice_log_probabilities(
    model: PreTrainedModel,
    questions: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]],
    pad: int,
    batch_tokens: int = BATCH_TOKENS,
    progress: Callable[[int], object] = lambda done: None,
) -> list[list[tuple[float, bool]]]:
    """Return how likely each choice is after its question, which is read once for all of them.

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
    found: list[list[tuple[float, bool]]] = [[] for _ in questions]
    sizes = [sum(len(asked) + len(choice) for choice in choices) for asked, choices in questions]
    head = model.get_output_embeddings()
    fast = model.device.type == "cpu" and has_plain_head(model)
    for places in _within(sizes, batch_tokens):
        chosen = [questions[place] for place in places]
        with hidden_in_place_of_logits(head) if fast else contextlib.nullcontext():
            first, rest = _read_choices(model, chosen, pad)
        targets = [choice for _, choices in chosen for choice in choices]
        owner = [n for n, (_, choices) in enumerate(chosen) for _ in choices]
        states = torch.cat([first[owner], rest])
        tokens = [choice[0] for choice in targets]
        tokens = torch.tensor(tokens + [t for choice in targets for t in choice[1:]])
        scores, greedy = _of_tokens(states, tokens.to(states.device), head.weight if fast else None)
        scores = scores.cpu().double()  # some GPUs have no float64
        sums, start = scores[: len(targets)].tolist(), len(targets)
        all_greedy = greedy[: len(targets)].tolist()
        for n, choice in enumerate(targets):
            part = slice(start, start + len(choice) - 1)
            sums[n] += scores[part].sum().item()
            all_greedy[n] &= bool(greedy[part].all())
            start = part.stop
            found[places[owner[n]]].append((sums[n], all_greedy[n]))
        progress(len(places))
    return found


def _read_choices(
    model: PreTrainedModel,
    questions: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]],
    pad: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what comes out at the questions' ends, and at all but the last tokens of choices."""
    ids, mask = padded([asked for asked, _ in questions], pad)
    cache = DynamicCache(config=model.config)
    output = _run(model, ids, mask, past_key_values=cache, use_cache=True, logits_to_keep=1)
    first = output.logits[:, -1]
    owner = [n for n, (_, choices) in enumerate(questions) for _ in choices]
    read = [choice[:-1] for _, choices in questions for choice in choices]
    longest = max(map(len, read))
    if not longest:
        return first, first[:0]
    cache.batch_select_indices(torch.tensor(owner, device=model.device))
    lengths = torch.tensor([len(choice) for choice in read])
    more = torch.tensor([[*choice, *[pad] * (longest - len(choice))] for choice in read])
    real = torch.arange(longest) < lengths[:, None]
    start = mask.sum(1)[owner]
    output = model(
        input_ids=more.to(model.device),
        attention_mask=torch.cat([mask[owner], real.long()], dim=1).to(model.device),
        position_ids=(start[:, None] + torch.arange(longest)).to(model.device),
        past_key_values=cache,
        use_cache=True,
    )
    return first, output.logits[real.to(model.device)]


def _of_tokens(
    states: torch.Tensor, tokens: torch.Tensor, weight: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-probabilities of tokens, and whether each is the likeliest.

    `states` are logits; with a head's `weight`, what goes into the head.
    """
    if weight is None:
        logits = states.float()
        scores = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(1)
        return scores, logits.argmax(1) == tokens
    chosen, _, total = likeliest(states, weight)
    return (states * weight[tokens]).float().sum(1) - total, chosen == tokens


def _within(sizes: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield places of like size, the largest first, whose sum is within a budget."""
    places: list[int] = []
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
        if places and sum(sizes[p] for p in places) + sizes[place] > budget:
            yield places
            places = []
        places.append(place)
    if places:
        yield places


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


def _run(model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, **options):
    return model(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        position_ids=(mask.cumsum(1) - 1).clamp(min=0).to(model.device),
        **options,
    )
