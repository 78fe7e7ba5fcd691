"""Multiple-choice items scored by hand, and their tokenization."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from utilities.errors import BenchmarkError
from utilities.inference import likelihood, padding


def encode_choices(
    tokenizer: PreTrainedTokenizerBase, question: str, continuations: Sequence[str]
) -> tuple[list[int], list[list[int]]]:
    """Tokenize a question and its choices as lm-evaluation-harness does.

    Each choice is tokenized together with the question, and what goes beyond the question's own
    tokens is the choice's. White space at the end of the question counts to the choice: " Paris" is
    one token, "Paris" another. After an empty question a choice continues the beginning-of-text
    token, or where there is none the end-of-text token.

    Args:
        tokenizer: the model's own.
        question: a prompt.
        continuations: the choices, with what separates them from the question.

    Returns:
        (ids of the question, ids of each choice).
    """
    beginning = tokenizer.bos_token_id
    first = cast(int, tokenizer.eos_token_id if beginning is None else beginning)
    if not question:
        encoded = tokenizer(list(continuations), add_special_tokens=False)["input_ids"]
        # A choice that begins with the token itself does not get it twice.
        return [first], [ids[1:] if ids[0] == first else ids for ids in encoded]
    stripped = question.rstrip()
    # A text may bring its beginning along; then it does not get another one.
    has_beginning = stripped.startswith(cast(str, tokenizer.decode(first)))
    options = {"add_special_tokens": False} if has_beginning else {}
    ids = tokenizer(stripped, **options)["input_ids"]
    both = tokenizer([question + text for text in continuations], **options)["input_ids"]
    return ids, [each[len(ids) :] for each in both]


def score_choices(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[tuple[str, Sequence[str]]],
    delimiter: str = " ",
    batch_tokens: int = padding.BATCH_TOKENS,
) -> pd.DataFrame:
    """Score multiple-choice items by hand, as the harness does.

    A choice's score is the log-probability of its tokens after the question. The harness's `acc`
    picks the highest; `acc_norm` the highest by character, because every further token makes a text
    less likely, whatever it says.

    Args:
        model: a causal language model, in evaluation mode.
        tokenizer: the model's own.
        items: for each, its question as a prompt, and its choices.
        delimiter: what separates the two.
        batch_tokens: tokens in a batch.

    Returns:
        One row per choice: `item`, `choice`, `tokens`, `characters`, `log_probability` (nats),
        `per_character`, `picked`, `picked_norm` (bool, one of an item's choices each).

    Raises:
        BenchmarkError: a question or a choice is empty.
    """
    questions = []
    for question, choices in items:
        if not question.strip() or not all(choices):
            raise BenchmarkError("every question and every choice needs some text")
        continuations = [delimiter + choice for choice in choices]
        questions.append(encode_choices(tokenizer, question, continuations))
    results = likelihood.choice_log_probabilities(
        model, questions, tokenizer.pad_token_id, batch_tokens
    )
    lines = []
    for item, ((_, choices), (_, ids), scores) in enumerate(
        zip(items, questions, results, strict=True)
    ):
        sums = np.array([log_probability for log_probability, _ in scores])
        per_character = sums / np.array([len(choice) for choice in choices])
        for index, choice in enumerate(choices):
            line = {"item": item, "choice": choice, "tokens": len(ids[index])}
            line |= {"characters": len(choice), "log_probability": sums[index]}
            line |= {"per_character": per_character[index], "picked": index == sums.argmax()}
            lines.append({**line, "picked_norm": index == per_character.argmax()})
    return pd.DataFrame(lines)
