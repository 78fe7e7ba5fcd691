"""From examples to features: tokenize, mask, shorten, collate.

Prompt and response are tokenized apart and joined, so the boundary between them is exact and the
prompt's ids in training are the ids at generation. Text that looks like a special token stays plain
text; the only special tokens are the ones put in here, and those of a chat template.
"""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from datasets import Dataset
from datasets.table import InMemoryTable
from transformers import PreTrainedTokenizerBase

from utilities.errors import DataError, NothingToLearn
from utilities.features.shortening import Shorten
from utilities.prompts.base import PromptFormat

IGNORE_INDEX = -100
"""The label that PyTorch's cross-entropy skips."""


def encode_texts(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], beginning: bool = False
) -> list[list[int]]:
    """Turn texts into token ids.

    Args:
        tokenizer: the model's own.
        texts: any Unicode; `<|endoftext|>` and the like inside them become ordinary tokens. Only
            in a `ChatText` the pieces that its template marks as special are special.
        beginning: put the beginning-of-text token first where this tokenizer does so by itself
            (Llama 2 does, Pythia and SmolLM2 do not). Right for prompts, wrong for responses.

    Returns:
        One list of ids per text.
    """
    pieces = [getattr(text, "pieces", None) for text in texts]
    if any(each is not None for each in pieces):
        mixed = [p or ((text, False),) for p, text in zip(pieces, texts, strict=True)]
        encoded = _encode_pieces(tokenizer, mixed)
    else:
        encoded = _encode_plain(tokenizer, texts)
    first = _beginning(tokenizer) if beginning else []
    return [first + ids if first and ids[:1] != first else ids for ids in encoded]


def _beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return what this tokenizer puts before every text by itself: one token, or none."""
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer("a")["input_ids"][0] == bos else []


def _encode_plain(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    if not texts:
        return []
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        encoded = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)
        return encoded["input_ids"]
    # Nearly twice as fast as the call above, which also makes what is not needed here. It leaves
    # these three settings behind in the tokenizer too, and sets them anew itself.
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return [row.ids for row in backend.encode_batch_fast(list(texts), add_special_tokens=False)]


def _encode_pieces(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[Sequence[tuple[str, bool]]]
) -> list[list[int]]:
    plain = [part for pieces in texts for part, special in pieces if not special]
    encoded = iter(_encode_plain(tokenizer, plain))
    return [
        list(
            chain.from_iterable(
                [tokenizer.convert_tokens_to_ids(part)] if special else next(encoded)
                for part, special in pieces
            )
        )
        for pieces in texts
    ]


COUNTS = (
    "examples",
    "kept",
    "prompt_shortened",
    "response_shortened",
    "dropped_too_long",
    "dropped_no_response",
)


class TokenizedExamples(NamedTuple):
    """Features, and what became of the examples.

    Attributes:
        features: a `Dataset` with `input_ids`, `labels`, `attention_mask` (lists of int of equal
            length in a row) and `full_text` (str, for the eye).
        counts: `examples`, `kept`, `contexts_dropped`, `prompt_shortened`, `response_shortened`,
            `dropped_too_long`, `dropped_no_response`, `tokens` and `supervised_tokens`.
    """

    features: Dataset
    counts: dict[str, int]


def tokenize_rows(
    rows: Sequence[dict[str, Any]],
    prompt_format: PromptFormat,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    shorten: Shorten = "prompt_left",
) -> TokenizedExamples:
    """Turn rows into features: format, shorten, tokenize; see `tokenize_examples`.

    Raises:
        DataError: `max_length` leaves no room beside the format's own text, or there is nothing to
            train on.
    """
    check_max_length(prompt_format, tokenizer, max_length)
    dropped = 0
    if shorten == "contexts_first":
        rows, dropped = drop_contexts(rows, prompt_format, tokenizer, max_length)
        shorten = "prompt_left"
    examples = [prompt_format.example(row) for row in rows]
    features, counts = tokenize_examples(examples, tokenizer, max_length, shorten)
    return TokenizedExamples(features, {**counts, "contexts_dropped": dropped})


def check_max_length(
    prompt_format: PromptFormat, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> None:
    """Raise a DataError when the format's own text takes all that `max_length` allows."""
    empty = dict.fromkeys(prompt_format.prompt_columns, "")
    row = {"messages": [{"role": "user", "content": ""}]} if "messages" in empty else empty
    own = len(encode_texts(tokenizer, [prompt_format.prompt(row)], beginning=True)[0])
    if max_length < own + 2:
        raise DataError(
            f"max_length is {max_length}, too small for the prompt format {prompt_format.name}: "
            f"its own text takes {own} tokens, and a response and its end at least 2"
        )


def drop_contexts(
    rows: Sequence[dict[str, Any]],
    prompt_format: PromptFormat,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> tuple[list[dict[str, Any]], int]:
    """Leave out contexts, the last one first, until a row fits or has none left.

    Returns:
        (rows, how many contexts were left out).
    """
    rows, dropped = list(rows), 0
    waiting = list(range(len(rows)))
    while waiting:
        turns = _turns([prompt_format.example(rows[index]) for index in waiting], tokenizer)
        lengths = [sum(len(ids) for turn in each for ids in turn) for each in turns]
        shorter = {
            index: prompt_format.without_last_context(rows[index])
            for index, length in zip(waiting, lengths, strict=True)
            if length > max_length
        }
        waiting = [index for index, row in shorter.items() if row is not None]
        dropped += len(waiting)
        for index in waiting:
            rows[index] = shorter[index]
    return rows, dropped


def tokenize_examples(
    examples: Sequence[dict[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    shorten: Shorten = "prompt_left",
) -> TokenizedExamples:
    """Tokenize examples for training.

    The labels are −100 on the prompt, and the ids themselves on the response and the one
    end-of-text token after it. When a row is too long its prompt loses tokens from the left, which
    keeps the line that announces the answer. The response is never cut unless asked: a cut one
    would teach the model to stop in mid-sentence, so a row whose response leaves no room for a
    prompt is dropped.

    Args:
        examples: dicts with `prompt` and `response`: texts, or in a conversation lists of texts.
        tokenizer: the model's own, with an end-of-text token.
        max_length: tokens a row may have, 3 or more.
        shorten: what a row that is too long loses; `contexts_first` needs `tokenize_rows`.

    Raises:
        DataError: there is nothing to train on, or the tokenizer has no end-of-text token.
    """
    if max_length < 3:
        raise DataError(f"max_length is {max_length}; prompt, response and end need at least 3")
    first = _beginning(tokenizer)
    counts = dict.fromkeys(COUNTS, 0) | {"examples": len(examples)}
    ids, labels, texts = [], [], []
    for example, turns in zip(examples, _turns(examples, tokenizer), strict=True):
        row = _join(turns)
        if not _listed(example["response"])[-1].strip():
            counts["dropped_no_response"] += 1
            continue
        if len(row[0]) > max_length:
            row, outcome = _shorten(*row, len(turns[-1][1]), max_length, shorten, first)
            counts[outcome] += 1
            if row is None:
                continue
        ids.append(row[0])
        labels.append(row[1])
        pairs = zip(_listed(example["prompt"]), _listed(example["response"]), strict=True)
        texts.append("".join(chain.from_iterable(pairs)))
    if not ids:
        raise NothingToLearn(max_length, counts)
    offsets = np.cumsum([0, *map(len, ids)])
    flat = [np.fromiter(chain.from_iterable(rows), np.int32, offsets[-1]) for rows in (ids, labels)]
    counts |= {"kept": len(ids), "tokens": int(offsets[-1])}
    counts["supervised_tokens"] = int((flat[1] != IGNORE_INDEX).sum())
    columns = {"input_ids": flat[0], "labels": flat[1]}
    columns["attention_mask"] = np.ones(offsets[-1], np.int8)
    return TokenizedExamples(features_from(columns, offsets, texts), counts)


def _listed(texts: str | list[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else texts


def _turns(
    examples: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase
) -> list[list[tuple[list[int], list[int]]]]:
    """Return (prompt ids, response ids) of each turn of each example, the end after the last."""
    if tokenizer.eos_token_id is None:
        raise DataError("the tokenizer has no end-of-text token; a model could not learn to stop")
    turns = [
        list(zip(_listed(example["prompt"]), _listed(example["response"]), strict=True))
        for example in examples
    ]
    encoded = iter(
        encode_texts(tokenizer, [text for each in turns for pair in each for text in pair])
    )
    tokenized = [[(next(encoded), next(encoded)) for _ in each] for each in turns]
    first, end = _beginning(tokenizer), [tokenizer.eos_token_id]
    for each in tokenized:
        prompt, response = each[0]
        if first and prompt[:1] != first:  # a chat template may have put it there
            each[0] = (first + prompt, response)
        prompt, response = each[-1]
        each[-1] = (prompt, response + end)
    return tokenized


def _join(turns: Sequence[tuple[list[int], list[int]]]) -> tuple[list[int], list[int]]:
    """Return the ids and labels of an example."""
    ids, labels = [], []
    for prompt, response in turns:
        ids += prompt + response
        labels += [IGNORE_INDEX] * len(prompt) + response
    return ids, labels


def _shorten(
    ids: list[int],
    labels: list[int],
    target: int,
    max_length: int,
    shorten: Shorten,
    first: list[int],
) -> tuple[tuple[list[int], list[int]] | None, str]:
    """Return what is left of a row that is too long, or None, and the name of what was done.

    `target` tokens at the end are the last response; all before it counts as its prompt. A
    beginning-of-text token stays in its place.
    """
    before, room = len(ids) - target, max_length - target
    if shorten == "response_right" and before < max_length:
        return (ids[:max_length], labels[:max_length]), "response_shortened"
    lead = len(first) if ids[: len(first)] == first else 0
    if shorten in ("drop", "response_right") or room < lead + 1:
        return None, "dropped_too_long"
    is_conversation = any(label != IGNORE_INDEX for label in labels[:before])
    if shorten == "prompt_right" and not is_conversation:
        return (ids[:room] + ids[before:], labels[:room] + labels[before:]), "prompt_shortened"
    start = before - room + lead
    kept = labels[start:]
    # An earlier answer that lost its beginning is read, not learned.
    whole = next(i for i, label in enumerate(kept) if label == IGNORE_INDEX or start + i == before)
    kept = [IGNORE_INDEX] * whole + kept[whole:]
    return (ids[:lead] + ids[start:], labels[:lead] + kept), "prompt_shortened"


def features_from(
    columns: Mapping[str, np.ndarray], offsets: np.ndarray, texts: Sequence[str]
) -> Dataset:
    """Return features: row i of a column is `values[offsets[i]:offsets[i + 1]]`.

    Args:
        columns: for each name all its values, end to end.
        offsets: where the rows begin, and where the last one ends.
        texts: the `full_text` of each row.
    """
    ends = pa.array(offsets, pa.int32())
    table = {n: pa.ListArray.from_arrays(ends, pa.array(v)) for n, v in columns.items()}
    digest = hashlib.sha256(offsets.tobytes())
    for values in columns.values():
        digest.update(values)
    # Without a fingerprint `Dataset` makes one by pickling it all, which takes longer than packing.
    return Dataset(
        InMemoryTable(pa.table({**table, "full_text": pa.array(texts, pa.string())})),
        fingerprint=digest.hexdigest()[:16],
    )


def row_lengths(features: Dataset) -> list[int]:
    """Return the number of tokens in each row of features."""
    return pc.list_value_length(features.with_format("arrow")[:]["input_ids"]).to_pylist()


def features_fingerprint(features: Dataset) -> str:
    """Return a hash of all that training sees of features: ids, labels and positions."""
    columns = [c for c in ("input_ids", "labels", "position_ids") if c in features.features]
    digest = xxhash.xxh3_128()
    for batch in features.select_columns(columns).with_format("arrow").iter(10_000):
        for column in columns:
            rows = batch[column].combine_chunks()
            for values in (pc.list_value_length(rows), rows.flatten()):
                digest.update(np.ascontiguousarray(values.to_numpy(), dtype=np.int32))
    return digest.hexdigest()[:16]


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of what decides a tokenizer's ids, to tell whether data fits a model."""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    ends = [tokenizer.eos_token_id, *_beginning(tokenizer)]
    return hashlib.sha256(repr((vocabulary, ends)).encode()).hexdigest()[:16]
