"""The result of a benchmark."""

from dataclasses import dataclass
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Benchmark:
    """The result of a benchmark: scores, samples and a record.

    Attributes:
        scores: one row per task: `task`, `version` (of the task), `n` (items used), `of` (items
            there are), `acc`, `acc_low`, `acc_high`, `acc_norm`, `acc_norm_low`, `acc_norm_high`
            (shares with 95 % Wilson intervals, 0 to 1), `chance` (what guessing gets), `seconds`,
            `model`, `source`, `harness` (its version).
        samples: one row per item: `task`, `item`, `question`, `choices`, `log_probabilities`
            (nats), `right`, `picked`, `picked_norm` (indices of choices), `acc`, `acc_norm` (bool;
            None where the task has no such score).
        record: model, settings, versions.
    """

    scores: pd.DataFrame
    samples: pd.DataFrame
    record: dict[str, Any]
