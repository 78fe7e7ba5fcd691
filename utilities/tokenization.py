"""From examples to features: tokenize, mask, truncate, split, collate.

Prompt and response are tokenized apart and joined, so the boundary between them is exact and the
prompt's ids in training are the ids at generation. Text that looks like a special token stays plain
text; the only special tokens are the ones put in here.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from utilities.sources import DataError

IGNORE_INDEX = -100
"""The label that PyTorch's cross-entropy skips."""


def encode_texts(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], beginning: bool = False
) -> list[list[int]]:
    """Turn texts into token ids.

    Args:
        tokenizer: the model's own.
        texts: any Unicode; `<|endoftext|>` and the like inside them become ordinary tokens.
        beginning: put the beginning-of-text token first where this tokenizer does so by itself
            (Llama 2 does, Pythia and SmolLM2 do not). Right for prompts, wrong for responses.

    Returns:
        One list of ids per text.
    """
    if not texts:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)
    bos = tokenizer.bos_token_id
    starts_with_bos = bos is not None and tokenizer("a")["input_ids"][0] == bos
    first = [bos] if beginning and starts_with_bos else []
    return [first + ids for ids in encoded["input_ids"]]


class TokenizedExamples(NamedTuple):
    """Features, and what became of the examples.

    Attributes:
        features: a `Dataset` with `input_ids`, `labels`, `attention_mask` (lists of int of equal
            length in a row) and `full_text` (str, for the eye).
        counts: `examples`, `kept`, `prompt_shortened`, `dropped_too_long`, `dropped_no_response`,
            `tokens` and `supervised_tokens`.
    """

    features: Dataset
    counts: dict[str, int]


def tokenize_examples(
    examples: Sequence[dict[str, str]], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> TokenizedExamples:
    """Tokenize examples for training.

    The labels are −100 on the prompt, and the ids themselves on the response and the one
    end-of-text token after it. When a row is too long its prompt loses tokens from the left, which
    keeps the line that announces the answer. The response is never cut: a cut one would teach the
    model to stop in mid-sentence, so a row whose response leaves no room for a prompt is dropped.

    Args:
        examples: dicts with `prompt` and `response`.
        tokenizer: the model's own, with an end-of-text token.
        max_length: tokens a row may have, 3 or more.

    Raises:
        DataError: there is nothing to train on, or the tokenizer has no end-of-text token.
    """
    if max_length < 3:
        raise DataError(f"max_length is {max_length}; prompt, response and end need at least 3")
    if tokenizer.eos_token_id is None:
        raise DataError("the tokenizer has no end-of-text token; a model could not learn to stop")
    prompts = encode_texts(tokenizer, [row["prompt"] for row in examples], beginning=True)
    responses = encode_texts(tokenizer, [row["response"] for row in examples])
    counts = dict.fromkeys(["prompt_shortened", "dropped_too_long", "dropped_no_response"], 0)
    features = []
    for example, prompt, response in zip(examples, prompts, responses, strict=True):
        room = max_length - len(response) - 1
        if not example["response"].strip():
            counts["dropped_no_response"] += 1
        elif room < 1:
            counts["dropped_too_long"] += 1
        else:
            counts["prompt_shortened"] += len(prompt) > room
            features.append(_join(prompt[-room:], response, tokenizer.eos_token_id, example))
    counts = {"examples": len(examples), "kept": len(features), **counts}
    if not features:
        raise DataError(f"no row has anything to learn at max_length {max_length}: {counts}")
    supervised = sum(label != IGNORE_INDEX for row in features for label in row["labels"])
    counts["tokens"] = sum(len(row["input_ids"]) for row in features)
    counts["supervised_tokens"] = supervised
    return TokenizedExamples(Dataset.from_list(features), counts)


def _join(prompt: list[int], response: list[int], eos: int, example: dict) -> dict[str, Any]:
    target = [*response, eos]
    return {
        "input_ids": prompt + target,
        "labels": [IGNORE_INDEX] * len(prompt) + target,
        "attention_mask": [1] * (len(prompt) + len(target)),
        "full_text": example["prompt"] + example["response"],
    }


def split_rows(
    rows: Sequence[dict], test_share: float, seed: int, group: Callable[[dict], str]
) -> tuple[list[dict], list[dict]]:
    """Split rows into training and test, keeping rows of one group together.

    Each group's side follows from a hash of its key and the seed alone. So the split is the same on
    every machine, and adding rows never moves the others.

    Args:
        rows: any dicts.
        test_share: the share of groups for the test side, between 0 and 1; the counts come near
            it, they do not meet it exactly.
        seed: another seed gives another split.
        group: says which group a row belongs to, e.g. `lambda row: row["fact_id"]`. Rows with the
            same question must share a group, or the test leaks into the training.

    Returns:
        (training rows, test rows), each in the order given.

    Raises:
        DataError: the share is out of range, or one side would be empty.
    """
    if not 0 < test_share < 1:
        raise DataError(f"test_share is {test_share}; expected a share between 0 and 1")
    sides: tuple[list[dict], list[dict]] = ([], [])
    for row in rows:
        digest = hashlib.sha256(f"{seed}\n{group(row)}".encode()).digest()
        sides[int.from_bytes(digest[:8]) < test_share * 2**64].append(row)
    if not all(sides):
        raise DataError(
            f"a test share of {test_share} leaves {len(sides[0])} rows for training and "
            f"{len(sides[1])} for testing; change the share or bring more rows"
        )
    return sides


@dataclass(frozen=True)
class PaddingCollator:
    """Makes a batch of rows of different length by padding on the right.

    Padding is masked by length, never by id, so a padding token that is also the end-of-text token
    does no harm.

    Attributes:
        pad_token_id: fills up `input_ids`.

    Example:
        >>> rows = [{"input_ids": [5, 6], "labels": [-100, 6]}, {"input_ids": [7], "labels": [7]}]
        >>> PaddingCollator(0)(rows)["labels"].tolist()
        [[-100, 6], [7, -100]]
    """

    pad_token_id: int

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return `input_ids`, `labels` and `attention_mask`, int64 of shape (rows, longest)."""
        ids = [torch.tensor(row["input_ids"]) for row in features]
        labels = [torch.tensor(row["labels"]) for row in features]
        ones = [torch.ones_like(row) for row in ids]
        return {
            "input_ids": pad_sequence(ids, True, self.pad_token_id),
            "labels": pad_sequence(labels, True, IGNORE_INDEX),
            "attention_mask": pad_sequence(ones, True, 0),
        }
