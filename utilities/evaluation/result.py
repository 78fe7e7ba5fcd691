"""The result of an evaluation."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from utilities.scores.statistics import Estimate


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        predictions: the prediction table; see `prediction_table`.
        scores: by system, and by system and each column of `group_by`; see `score`. With a refusal
            also `refusal_precision` and `refusal_recall`; see `error_analysis.refusals`.
        comparisons: `model` against every other system; see `compare`.
        errors: see `error_analysis.error_counts`.
        record: models, settings, versions, seconds; as in `scores.json`.
        forgetting: ratio of perplexities on neutral text, when it was measured.
    """

    predictions: pd.DataFrame
    scores: pd.DataFrame
    comparisons: pd.DataFrame
    errors: pd.DataFrame
    record: dict[str, Any]
    forgetting: Estimate | None = None
