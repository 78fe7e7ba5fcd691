"""Catastrophic forgetting, measured: perplexity on neutral text after training and before."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from utilities.errors import EvaluationError
from utilities.inference import likelihood
from utilities.inference.local_model import LocalModel
from utilities.scores.statistics import Estimate, bootstrap


def forgetting(
    before: LocalModel, after: LocalModel, texts: Sequence[str]
) -> tuple[pd.DataFrame, Estimate]:
    """Return the perplexity of neutral texts before and after training, and their ratio.

    Args:
        before: the base model.
        after: the tuned one, with the same tokenizer.
        texts: texts that the training was not about.

    Returns:
        (a table with `text`, `tokens` (int), `before` and `after` (perplexity, float); the
        perplexity of all tokens after training divided by that before, with its 95 % interval.
        Above 1 the model has become worse.)

    Raises:
        EvaluationError: there is no text, one does not fit the context, or the tokenizers differ.
    """
    if not texts:
        raise EvaluationError("there is no neutral text")
    empty = [""] * len(texts)
    (old, tokens), (new, new_tokens) = (
        likelihood.log_probabilities(local.model, local.tokenizer, empty, texts)
        for local in (before, after)
    )
    if not np.array_equal(tokens, new_tokens):
        raise EvaluationError(
            "the two models split text into different tokens; they cannot be compared"
        )
    if not np.isfinite([old, new]).all():
        raise EvaluationError("a neutral text does not fit the context of the model")
    columns = {"before": np.exp(-old / tokens), "after": np.exp(-new / tokens)}
    # exp of the mean difference of log-probabilities per token is the ratio of the perplexities.
    losses = np.stack([old - new, tokens], axis=1)
    (ratio,) = bootstrap(losses, lambda means: np.exp(means[..., :1] / means[..., 1:]))
    return pd.DataFrame({"text": list(texts), "tokens": tokens, **columns}), ratio
