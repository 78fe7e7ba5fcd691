"""Multiple-choice items scored by hand."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from utilities.errors import BenchmarkError
from utilities.inference import likelihood, padding


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
    less likely, whatever it says. Question and choice are cut into tokens together, and a space at
    the end of the question counts to the choice: " Paris" is one token, "Paris" another.

    Args:
        model: a causal language model, in evaluation mode.
        tokenizer: the model's own.
        items: for each, its question as a prompt, and its choices.
        delimiter: what stands between the two.
        batch_tokens: tokens in a batch.

    Returns:
        One row per choice: `item`, `choice`, `tokens`, `characters`, `log_probability` (nats),
        `per_character`, `picked`, `picked_norm` (bool, one of an item's choices each).

    Raises:
        BenchmarkError: a question or a choice is empty.
    """
    questions = []
    for question, choices in items:
        stripped = question.rstrip(" ")  # as the harness does: a space belongs to what follows
        if not stripped or not all(choices):
            raise BenchmarkError("every question and every choice needs some text")
        asked = tokenizer(stripped)["input_ids"]
        both = [question + delimiter + choice for choice in choices]
        whole = tokenizer(both)["input_ids"]
        questions.append((asked, [ids[len(asked) :] for ids in whole]))
    found = likelihood.choice_log_probabilities(
        model, questions, tokenizer.pad_token_id, batch_tokens
    )
    lines = []
    for item, ((_, choices), (_, ids), scores) in enumerate(
        zip(items, questions, found, strict=True)
    ):
        sums = np.array([value for value, _ in scores])
        each = sums / np.array([len(choice) for choice in choices])
        for place, choice in enumerate(choices):
            line = {"item": item, "choice": choice, "tokens": len(ids[place])}
            line |= {"characters": len(choice), "log_probability": sums[place]}
            line |= {"per_character": each[place], "picked": place == sums.argmax()}
            lines.append({**line, "picked_norm": place == each.argmax()})
    return pd.DataFrame(lines)
