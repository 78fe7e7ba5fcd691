"""Training only those rows of an embedding table that the data ever look up.

A small data set has a few thousand of a vocabulary's tokens. The other rows have a gradient of zero
in every step, so AdamW never moves them; yet their gradients, and the optimizer's two averages of
each, cost as much memory and time as all the rest. Here the rows that occur are one small
parameter, which is copied into the table after each step. What is learned is the same.
"""

import contextlib
from typing import Any, cast

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel, TrainingArguments

from utilities.models.output_head import replaced_forward

NAME = "used_rows"


# Optimizers that treat each weight on its own, and do not move one whose gradient is zero.
OPTIMIZERS = {"adamw_torch", "adamw_torch_fused", "sgd"}


class UsedRows:
    """The trained rows of a model's input embeddings, from `attach` to `detach`."""

    def __init__(self, table: nn.Embedding, used: torch.Tensor):
        """Make the rows a parameter of the table.

        Args:
            table: the input embeddings; its own weight gets no gradient until `detach`.
            used: int64, the ids that occur.
        """
        self.table, self.used = table, used.to(table.weight.device)
        count = len(self.used)
        # All unused ids share one more row, number `count`, whose gradient is dropped.
        rows_of = torch.full((table.num_embeddings,), count, device=self.used.device)
        rows_of[self.used] = torch.arange(count, device=self.used.device)
        rows = nn.Parameter(table.weight.detach()[self.used].clone())
        table.weight.requires_grad = False
        table.register_parameter(NAME, rows)
        self.attached = contextlib.ExitStack()
        self.attached.enter_context(
            replaced_forward(table, lambda ids: _LookUp.apply(rows, table.weight, rows_of, ids))
        )
        self.attached.callback(table.register_state_dict_post_hook(_leave_out).remove)

    @classmethod
    def attach(
        cls, model: PreTrainedModel, args: TrainingArguments, features: Dataset
    ) -> "UsedRows | None":
        """Attach them if that changes nothing but the cost; otherwise return None."""
        table, head = model.get_input_embeddings(), model.get_output_embeddings()
        is_plain = (
            type(table) is nn.Embedding and table.max_norm is None and table.weight.requires_grad
        )
        if (
            not is_plain
            or table.weight is head.weight
            or args.optim not in OPTIMIZERS
            or args.weight_decay
            or args.torch_compile
        ):
            return None
        table = cast(nn.Embedding, table)
        used: set[int | None] = set()
        for batch in features.select_columns(["input_ids"]).with_format("arrow").iter(10_000):
            ids = pc.list_flatten(batch["input_ids"]).to_numpy()
            used |= set(np.unique(ids).tolist())
        used.discard(table.padding_idx)  # torch gives that row no gradient
        if 2 * len(used) > table.num_embeddings:
            return None
        return cls(table, torch.tensor(sorted(used)))

    @torch.no_grad()
    def follow(self) -> None:
        """Copy the rows into the table, after a step."""
        self.table.weight[self.used] = getattr(self.table, NAME)

    @torch.no_grad()
    def reread(self) -> None:
        """Copy the rows from the table, after it has been loaded."""
        getattr(self.table, NAME).copy_(self.table.weight[self.used])

    def detach(self) -> None:
        """Make the table an ordinary parameter again."""
        self.follow()
        self.attached.close()
        del self.table.used_rows  # the parameter called `NAME`
        self.table.weight.requires_grad = True


def _leave_out(_: nn.Module, state: dict[str, Any], prefix: str, __: dict[str, Any]) -> None:
    """Leave the rows out of a state dict: the table has them."""
    del state[prefix + NAME]


class _LookUp(torch.autograd.Function):
    """`functional.embedding`, but the gradient goes to the used rows, not to the table."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: torch.Tensor,
        table: torch.Tensor,
        rows_of: torch.Tensor,
        ids: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(rows_of[ids])
        ctx.shape = rows.shape
        return functional.embedding(ids, table)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (row_numbers,) = ctx.saved_tensors
        count, size = ctx.shape
        total = gradient.new_zeros(count + 1, size)
        total.index_add_(0, row_numbers.flatten(), gradient.reshape(-1, size))
        return total[:count], None, None, None
