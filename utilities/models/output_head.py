"""The output head of a model on its own: computing in its place, and its logits block by block."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from utilities.models.modes import evaluation_mode

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VOCABULARY_BLOCK = 2048  # logits of so many tokens of the vocabulary are made at once


def has_plain_head(model: "PreTrainedModel") -> bool:
    """Say whether the logits are the head's weights times its input, and nothing else.

    Some models cap or scale their logits, have a bias, or an adapter on the head. It is tried out
    on four tokens.
    """
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None:
        return False
    seen: list[torch.Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    try:
        with torch.no_grad(), evaluation_mode(model):
            ids = torch.tensor([[0, 1, 2, 3]], device=head.weight.device)
            logits = model(input_ids=ids, use_cache=False).logits
            return torch.allclose(logits, functional.linear(seen[0], head.weight), atol=1e-4)
    finally:
        hook.remove()


@contextlib.contextmanager
def replaced_forward(
    module: nn.Module, forward: Callable[[torch.Tensor], torch.Tensor]
) -> Iterator[None]:
    """Context manager: compute one module by another function.

    An instance's own `forward` goes before that of its class, and its hooks still run. An earlier
    replacement, such as a device hook of accelerate, comes back at the end.
    """
    earlier = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if earlier is None:
            del module.forward
        else:
            module.forward = earlier


@contextlib.contextmanager
def hidden_in_place_of_logits(head: nn.Module) -> Iterator[None]:
    """Context manager: the head returns its input where the model expects logits."""
    with replaced_forward(head, lambda hidden: hidden):
        yield


def likeliest(
    hidden: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return what a plain head finds likeliest, without all logits in memory at once.

    They are made for a block of the vocabulary at a time, weights first: on a CPU that takes a
    third less time, because a block stays in the cache, and because weights need no re-ordering.

    Args:
        hidden: what goes into the head, of shape (n, width).
        weight: of the head, of shape (vocabulary, width).

    Returns:
        (the likeliest token, its logit, the log of the sum of all exponentiated logits), each of
        shape (n,), int64 and float32. A token's log-probability is its logit minus the last.
    """
    columns = hidden.t().contiguous()
    best = columns.new_full((len(hidden),), -math.inf, dtype=torch.float32)
    chosen = torch.zeros(len(hidden), dtype=torch.long, device=hidden.device)
    total = torch.zeros_like(best)
    for start in range(0, len(weight), VOCABULARY_BLOCK):
        logits = (weight[start : start + VOCABULARY_BLOCK] @ columns).float()
        top = torch.maximum(best, logits.amax(0))
        (higher,) = torch.nonzero(top > best, as_tuple=True)
        chosen[higher] = logits[:, higher].argmax(0) + start
        total = total * (best - top).exp() + logits.sub_(top).exp_().sum(0)
        best = top
    return chosen, best, best + total.log()
