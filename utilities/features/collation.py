"""Collation: rows of features into padded tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from utilities.features.tokenization import IGNORE_INDEX


@dataclass(frozen=True)
class PaddingCollator:
    """Data collator: pads rows of different length on the right.

    Padding is masked by length, never by id, so the padding token may be the end-of-text token.
    Packed rows keep their `position_ids` and get no `attention_mask`: that is what keeps their
    examples apart.

    Attributes:
        pad_token_id: fills up `input_ids`.

    Example:
        >>> rows = [{"input_ids": [5, 6], "labels": [-100, 6]}, {"input_ids": [7], "labels": [7]}]
        >>> PaddingCollator(0)(rows)["labels"].tolist()
        [[-100, 6], [7, -100]]
    """

    pad_token_id: int

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return int64 tensors of shape (rows, longest).

        They are `input_ids`, `labels`, and `attention_mask`, or for packed rows `position_ids`.
        """
        padding = {"input_ids": self.pad_token_id, "labels": IGNORE_INDEX}
        if "position_ids" in features[0]:
            padding["position_ids"] = 0
        else:
            ones = [{"attention_mask": [1] * len(row["input_ids"])} for row in features]
            features = [{**new, **row} for new, row in zip(ones, features, strict=True)]
            padding["attention_mask"] = 0
        return {
            name: pad_sequence([torch.tensor(row[name]) for row in features], True, value)
            for name, value in padding.items()
        }
