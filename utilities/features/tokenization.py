"""Tokenization: examples into features, with labels, and shortened where they are too long.

Prompt and response are tokenized separately and joined, so the boundary between them is exact and
the prompt has the same ids in training and generation. Text that looks like a special token is
encoded as plain text; the only special tokens are those added here, and those of a chat template.
"""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from utilities.errors import DataError, NothingToLearn
from utilities.features.shortening import Shorten
from utilities.prompts.base import PromptFormat

IGNORE_INDEX = -100
"""The label that PyTorch's cross-entropy skips."""


def encode_texts(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], beginning: bool = False
) -> list[list[int]]:
    """Encode texts as token ids.

    Args:
        tokenizer: the model's own.
        texts: any Unicode; `<|endoftext|>` and the like inside them become ordinary tokens. Only
            in a `ChatText`, the pieces that its template marks as special are special.
        beginning: put the beginning-of-text token first where this tokenizer does so by itself
            (Llama 2 does, Pythia and SmolLM2 do not). Right for prompts, wrong for responses.

    Returns:
        One list of ids per text.
    """
    pieces = [getattr(text, "pieces", None) for text in texts]
    if any(parts is not None for parts in pieces):
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
    # Nearly twice as fast as the call above, which also computes what is not needed here. These
    # settings stay in the tokenizer; the call above sets them itself each time, so it is safe.
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return [row.ids for row in backend.encode_batch_fast(list(texts), add_special_tokens=False)]


def _encode_pieces(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[Sequence[tuple[str, bool]]]
) -> list[list[int]]:
    """Encode texts of which some pieces are special tokens."""
    # All plain pieces are encoded in one call; then they are taken back in order.
    plain = [part for pieces in texts for part, special in pieces if not special]
    encoded = iter(_encode_plain(tokenizer, plain))
    return [
        list(
            chain.from_iterable(
                [cast(int, tokenizer.convert_tokens_to_ids(part))] if special else next(encoded)
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
    """Features, and counts of what was kept, shortened and dropped.

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
    """Format, shorten and tokenize rows; see `tokenize_examples`.

    Raises:
        DataError: `max_length` leaves no room beside the format's own text, or no row is left.
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
    """Remove contexts, the last one first, until a row fits or has none left.

    Returns:
        (rows, number of contexts that were removed).
    """
    rows, dropped = list(rows), 0
    unchecked = list(range(len(rows)))
    while unchecked:
        examples = _turns([prompt_format.example(rows[index]) for index in unchecked], tokenizer)
        lengths = [sum(len(ids) for turn in turns for ids in turn) for turns in examples]
        too_long = [i for i, length in zip(unchecked, lengths, strict=True) if length > max_length]
        unchecked = []
        for index in too_long:
            shorter = prompt_format.without_last_context(rows[index])
            if shorter is not None:
                rows[index] = shorter
                unchecked.append(index)
        dropped += len(unchecked)
    return rows, dropped


def tokenize_examples(
    examples: Sequence[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    shorten: Shorten = "prompt_left",
) -> TokenizedExamples:
    """Tokenize examples for training.

    The labels are −100 on the prompt, and the ids themselves on the response and the one
    end-of-text token after it. When a row is too long its prompt loses tokens from the left, which
    keeps the line that announces the answer. The response is cut only by `response_right`: a cut
    one would teach the model to stop in mid-sentence, so a row whose response leaves no room for a
    prompt is dropped.

    Args:
        examples: dicts with `prompt` and `response`: texts, or in a conversation lists of texts.
        tokenizer: the model's own, with an end-of-text token.
        max_length: tokens a row may have, 3 or more.
        shorten: how a row that is too long is truncated; `contexts_first` needs `tokenize_rows`.

    Raises:
        DataError: no row is left, or the tokenizer has no end-of-text token.
    """
    if max_length < 3:
        raise DataError(f"max_length is {max_length}; prompt, response and end need at least 3")
    first = _beginning(tokenizer)
    counts = dict.fromkeys(COUNTS, 0) | {"examples": len(examples)}
    ids, labels, texts = [], [], []
    for example, turns in zip(examples, _turns(examples, tokenizer), strict=True):
        row_ids, row_labels = _join(turns)
        if not _listed(example["response"])[-1].strip():
            counts["dropped_no_response"] += 1
            continue
        if len(row_ids) > max_length:
            target = len(turns[-1][1])
            kept, outcome = _shorten(row_ids, row_labels, target, max_length, shorten, first)
            counts[outcome] += 1
            if kept is None:
                continue
            row_ids, row_labels = kept
        ids.append(row_ids)
        labels.append(row_labels)
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
    examples: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase
) -> list[list[tuple[list[int], list[int]]]]:
    """Return (prompt ids, response ids) of each turn of each example; the last has the end."""
    if tokenizer.eos_token_id is None:
        raise DataError("the tokenizer has no end-of-text token; a model could not learn to stop")
    texts = [
        list(zip(_listed(example["prompt"]), _listed(example["response"]), strict=True))
        for example in examples
    ]
    # All texts are encoded in one call; then they are taken back in order.
    flat = [text for turns in texts for turn in turns for text in turn]
    encoded = iter(encode_texts(tokenizer, flat))
    tokenized = [[(next(encoded), next(encoded)) for _ in turns] for turns in texts]
    first, end = _beginning(tokenizer), [tokenizer.eos_token_id]
    for turns in tokenized:
        prompt, response = turns[0]
        if first and prompt[:1] != first:  # a chat template may have put it there
            turns[0] = (first + prompt, response)
        prompt, response = turns[-1]
        turns[-1] = (prompt, response + end)
    return tokenized


def _join(turns: Sequence[tuple[list[int], list[int]]]) -> tuple[list[int], list[int]]:
    """Return the ids and labels of an example."""
    ids: list[int] = []
    labels: list[int] = []
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
    """Truncate a row that is too long.

    Args:
        ids: of the row.
        labels: of the row.
        target: tokens of the last response, at the end; all before it counts as its prompt.
        max_length: tokens a row may have.
        shorten: how it is truncated.
        first: the beginning-of-text token, which is kept in front; may be empty.

    Returns:
        ((ids, labels) or None where nothing useful is left, the count that this belongs to).
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
    # It ends at the next prompt, or at the last response.
    end = next(i for i, label in enumerate(kept) if label == IGNORE_INDEX or start + i == before)
    kept = [IGNORE_INDEX] * end + kept[end:]
    return (ids[:lead] + ids[start:], labels[:lead] + kept), "prompt_shortened"


def features_from(
    columns: Mapping[str, np.ndarray], offsets: np.ndarray, texts: Sequence[str]
) -> Dataset:
    """Return a dataset of features: row i of a column is `values[offsets[i]:offsets[i + 1]]`.

    Args:
        columns: for each name all its values, concatenated.
        offsets: where the rows begin, and where the last one ends.
        texts: the `full_text` of each row.
    """
    ends = pa.array(offsets, pa.int32())
    table = {n: pa.ListArray.from_arrays(ends, pa.array(v)) for n, v in columns.items()}
    digest = hashlib.sha256(offsets.tobytes())
    for values in columns.values():
        digest.update(values.data)
    # Without a fingerprint `Dataset` makes one by pickling it all, which takes longer than packing.
    return Dataset(
        pa.table({**table, "full_text": pa.array(texts, pa.string())}),
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
                digest.update(np.ascontiguousarray(values.to_numpy(), dtype=np.int32).data)
    return digest.hexdigest()[:16]


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of what decides a tokenizer's ids; equal where data fits a model."""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    ends = [tokenizer.eos_token_id, *_beginning(tokenizer)]
    return hashlib.sha256(repr((vocabulary, ends)).encode()).hexdigest()[:16]
