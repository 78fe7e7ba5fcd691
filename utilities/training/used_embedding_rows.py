"""Training only those rows of an embedding table that the data ever look up.

A small data set knows a few thousand of a vocabulary's tokens. The other rows have a gradient of
zero in every step, so AdamW never moves them; yet their gradients, and the optimizer's two averages
of each, cost as much memory and time as all the rest. Here the rows that occur are one small
parameter, and the table follows it. What is learned is the same.
"""

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel, TrainingArguments

NAME = "used_rows"


# Optimizers that treat each weight by itself, and leave one without a gradient as it is.
OPTIMIZERS = {"adamw_torch", "adamw_torch_fused", "sgd"}


class UsedRows:
    """The rows of a model's input embeddings that are trained, from `attach` to `detach`."""

    def __init__(self, table: nn.Embedding, used: torch.Tensor):
        """Make the rows a parameter of the table.

        Args:
            table: the input embeddings; its own weight gets no gradient any more.
            used: int64, the ids that occur.
        """
        self.table, self.used = table, used.to(table.weight.device)
        count = len(self.used)
        # All others share one more row, whose gradient is dropped.
        places = torch.full((table.num_embeddings,), count, device=self.used.device)
        places[self.used] = torch.arange(count, device=self.used.device)
        rows = nn.Parameter(table.weight.detach()[self.used].clone())
        table.weight.requires_grad = False
        table.register_parameter(NAME, rows)
        table.forward = lambda ids: _LookUp.apply(rows, table.weight, places, ids)
        self.hook = table.register_state_dict_post_hook(_leave_out)

    @classmethod
    def attach(
        cls, model: PreTrainedModel, args: TrainingArguments, features: Dataset
    ) -> "UsedRows | None":
        """Do it where it changes nothing but the cost; return None elsewhere."""
        table, head = model.get_input_embeddings(), model.get_output_embeddings()
        plain = (
            type(table) is nn.Embedding and table.max_norm is None and table.weight.requires_grad
        )
        if (
            not plain
            or table.weight is head.weight
            or args.optim not in OPTIMIZERS
            or args.weight_decay
            or args.torch_compile
        ):
            return None
        used = set()
        for batch in features.select_columns(["input_ids"]).with_format("arrow").iter(10_000):
            ids = pc.list_flatten(batch["input_ids"]).to_numpy()
            used |= set(np.unique(ids).tolist())
        used -= {table.padding_idx}  # torch gives that row no gradient
        if 2 * len(used) > table.num_embeddings:
            return None
        return cls(table, torch.tensor(sorted(used)))

    @torch.no_grad()
    def follow(self) -> None:
        """Write the rows into the table, after a step."""
        self.table.weight[self.used] = getattr(self.table, NAME)

    @torch.no_grad()
    def reread(self) -> None:
        """Take the rows from the table, after it has been loaded."""
        getattr(self.table, NAME).copy_(self.table.weight[self.used])

    def detach(self) -> None:
        """Leave the model as any other."""
        self.follow()
        self.hook.remove()
        del self.table.forward, self.table._parameters[NAME]
        self.table.weight.requires_grad = True


def _leave_out(_: nn.Module, state: dict, prefix: str, __: dict) -> None:
    del state[prefix + NAME]


class _LookUp(torch.autograd.Function):
    """`functional.embedding`, whose gradient is that of the used rows."""

    @staticmethod
    def forward(ctx, rows, table, places, ids):
        ctx.save_for_backward(places[ids])
        ctx.shape = rows.shape
        return functional.embedding(ids, table)

    @staticmethod
    def backward(ctx, gradient):
        (places,) = ctx.saved_tensors
        count, size = ctx.shape
        total = gradient.new_zeros(count + 1, size)
        total.index_add_(0, places.flatten(), gradient.reshape(-1, size))
        return total[:count], None, None, None
