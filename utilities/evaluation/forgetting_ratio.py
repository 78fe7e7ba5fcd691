"""Forgetting: what training has cost on texts that it was not about."""

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
    """Say what training has cost: perplexity on texts that it was not about.

    Args:
        before: the base model.
        after: the tuned one, with the same tokenizer.
        texts: neutral texts.

    Returns:
        (`text`, `tokens`, `before`, `after` (perplexity of each text), and the ratio of the
        perplexities of all tokens, after by before, with its 95 % interval: above 1 it is worse).

    Raises:
        EvaluationError: there is no text, or one does not fit the context.
    """
    if not texts:
        raise EvaluationError("there is no neutral text")
    empty = [""] * len(texts)
    found = []
    for each in (before, after):
        found.append(likelihood.log_probabilities(each.model, each.tokenizer, empty, texts))
    (old, tokens), (new, others) = found
    if not np.array_equal(tokens, others):
        raise EvaluationError("the two models cut text into other tokens; they cannot be compared")
    if not np.isfinite([old, new]).all():
        raise EvaluationError("a neutral text does not fit the context of the model")
    columns = {"before": np.exp(-old / tokens), "after": np.exp(-new / tokens)}
    losses = np.stack([old - new, tokens], axis=1)
    (ratio,) = bootstrap(losses, lambda means: np.exp(means[..., :1] / means[..., 1:]))
    return pd.DataFrame({"text": list(texts), "tokens": tokens, **columns}), ratio
