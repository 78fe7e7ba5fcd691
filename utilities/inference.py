"""Generation: batches that answer exactly as one prompt at a time would.

Prompts are sorted by length, so that a batch holds prompts of like length; padded on the left, so
that every answer starts right after its prompt; and answers are cut by tokens, never by characters.
"""

from collections.abc import Sequence

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from utilities.config import LabError
from utilities.tokenization import encode_texts


class GenerationError(LabError):
    """A request for text that the model cannot fulfil."""


def generate_ids(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int = 60,
    batch_size: int = 32,
    progress: bool = False,
) -> list[list[int]]:
    """Return the greedy answer to each prompt as token ids, without the end-of-text token.

    Arguments, order and errors are those of `generate`. In float32 the ids do not depend on
    `batch_size`.
    """
    encoded = encode_texts(tokenizer, prompts, beginning=True)
    return answer_ids(model, tokenizer, encoded, max_new_tokens, batch_size, progress)


@torch.inference_mode()
def answer_ids(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    max_new_tokens: int = 60,
    batch_size: int = 32,
    progress: bool = False,
) -> list[list[int]]:
    """Do the work of `generate_ids` for prompts that are tokenized already."""
    context = getattr(model.config, "max_position_embeddings", None)
    room = context - max_new_tokens if context else None
    if max_new_tokens < 1 or batch_size < 1:
        raise GenerationError(
            f"max_new_tokens ({max_new_tokens}) and batch_size ({batch_size}) must be 1 or more"
        )
    if room is not None and room < 1:
        raise GenerationError(
            f"max_new_tokens is {max_new_tokens}, but the model's context holds {context} tokens, "
            "prompt included; ask for fewer"
        )
    # An empty prompt still needs one token to continue from.
    encoded = [ids[-room:] if room else ids for ids in prompts]
    encoded = [ids or [tokenizer.eos_token_id] for ids in encoded]
    longest_first = sorted(range(len(encoded)), key=lambda i: -len(encoded[i]))
    answers: list[list[int]] = [[] for _ in encoded]
    was_training = model.training
    model.eval()
    with tqdm(total=len(encoded), desc="generating", unit="answer", disable=not progress) as bar:
        for start in range(0, len(encoded), batch_size):
            chosen = longest_first[start : start + batch_size]
            batch = _generate_batch(
                model, tokenizer, [encoded[index] for index in chosen], max_new_tokens
            )
            for index, answer in zip(chosen, batch, strict=True):
                answers[index] = answer
            bar.update(len(chosen))
    model.train(was_training)
    return answers


def _generate_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    max_new_tokens: int,
) -> list[list[int]]:
    longest = max(map(len, prompts))
    padding = [longest - len(ids) for ids in prompts]
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    rows = zip(prompts, padding, strict=True)
    output = model.generate(
        input_ids=torch.tensor([[pad] * n + ids for ids, n in rows], device=model.device),
        attention_mask=torch.tensor(
            [[0] * n + [1] * (longest - n) for n in padding], device=model.device
        ),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        use_cache=True,
        pad_token_id=pad,
        eos_token_id=eos,
    )
    answers = output[:, longest:].tolist()
    return [ids[: ids.index(eos)] if eos in ids else ids for ids in answers]


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int = 60,
    batch_size: int = 32,
    stop: Sequence[str] = (),
    progress: bool = False,
) -> list[str]:
    """Answer prompts greedily.

    Args:
        model: a causal language model.
        tokenizer: the model's own, with a padding token.
        prompts: texts as a prompt format makes them. A prompt that does not fit the context beside
            its answer loses tokens from the left.
        max_new_tokens: tokens an answer may have, 1 or more; the prompt does not count.
        batch_size: prompts answered at once, 1 or more. More is faster, and takes more memory.
        stop: strings that end an answer, such as `prompt_format.stop`; the answer is cut before
            the first of them. A tuned model stops by itself, a base model needs this.
        progress: show a progress bar.

    Returns:
        One answer per prompt, in the order given, stripped of white space at both ends.

    Raises:
        GenerationError: the numbers are out of range.

    Example:
        `generate(model, tokenizer, [QUESTION_ANSWER.prompt({"question": "What is an epoch?"})])`
    """
    answers = generate_ids(model, tokenizer, prompts, max_new_tokens, batch_size, progress)
    return [_cut(tokenizer.decode(ids, skip_special_tokens=True), stop) for ids in answers]


def _cut(text: str, stop: Sequence[str]) -> str:
    ends = [text.index(mark) for mark in stop if mark in text]
    return text[: min(ends, default=None)].strip()
