"""The loss at supervised positions, without ever holding the logits of a whole batch.

Fused linear cross-entropy, after Liger Kernel (Hsu et al. 2024, arXiv:2410.10989). The output head
of a small model is a large part of its arithmetic, and a prompt position has no use for logits. So
only the hidden states of supervised positions reach the head. There the loss and its gradient are
computed a block of positions at a time: the logits become probabilities in place, and then the
gradient, so that memory grows neither with the length of the rows nor with their number.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from utilities.features.tokenization import IGNORE_INDEX
from utilities.models.output_head import replaced_forward

LOGITS_BLOCK = 2**25  # logits in one block: 128 MiB in float32


ROWS_IN_CACHE = (
    32  # rows of logits whose softmax is computed at a time, so that the cache holds them
)


class SupervisedLoss(NamedTuple):
    """What `supervised_loss` returns.

    Attributes:
        loss: float32 scalar to call `backward` on: the sum of `nats`, times `scale`.
        nats: float32, (supervised positions,): the cross-entropy of each; carries no gradient.
        targets: int64, (supervised positions,): the token to predict at each.
    """

    loss: torch.Tensor
    nats: torch.Tensor
    targets: torch.Tensor


def supervised_loss(
    model: nn.Module,
    head: nn.Module,
    labels: torch.Tensor,
    scale: float = 1.0,
    fused: bool = False,
    **inputs: torch.Tensor,
) -> SupervisedLoss:
    """Return the cross-entropy at supervised positions.

    All but the output head is the model's own forward pass, so wrappers (autocast, DDP, FSDP,
    adapters) stay in effect.

    Args:
        model: a causal language model, wrapped or not.
        head: its output head, `model.get_output_embeddings()`.
        labels: int64, (rows, length); `IGNORE_INDEX` where nothing is learned. Position i is
            predicted from the positions before it.
        scale: the loss is multiplied by it, such as one over the number of tokens.
        fused: compute the loss in blocks inside the head; only for models for which
            `has_plain_head` is true.
        inputs: `input_ids` and `attention_mask` or `position_ids`, int64, (rows, length).
    """
    next_labels = functional.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)
    supervised = next_labels != IGNORE_INDEX
    targets = next_labels[supervised]
    if fused:
        return _fused_loss(model, head, supervised, targets, scale, inputs)
    with _at(head, supervised):
        logits = model(**inputs, use_cache=False).logits
    nats = functional.cross_entropy(logits[0].float(), targets, reduction="none")
    return SupervisedLoss(nats.sum() * scale, nats.detach(), targets)


@contextlib.contextmanager
def _at(head: nn.Module, positions: torch.Tensor) -> Iterator[None]:
    """Context manager: the head gets these positions only, as one row."""
    hook = head.register_forward_pre_hook(
        lambda _, arguments: (arguments[0][positions].unsqueeze(0),)
    )
    try:
        yield
    finally:
        hook.remove()


def _fused_loss(
    model: nn.Module,
    head: nn.Module,
    supervised: torch.Tensor,
    targets: torch.Tensor,
    scale: float,
    inputs: dict[str, torch.Tensor],
) -> SupervisedLoss:
    """Compute the loss inside the head, which returns it where the model expects logits."""
    parts: list[torch.Tensor] = []

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        weight = head.weight  # FSDP has it whole only now
        loss, nats = _LinearCrossEntropy.apply(hidden[supervised], weight, targets, scale)
        parts[:] = [loss, nats]
        return loss.reshape(1, 1, 1)

    with replaced_forward(head, forward):
        model(**inputs, use_cache=False)
    loss, nats = parts
    return SupervisedLoss(loss, nats, targets)


class _LinearCrossEntropy(torch.autograd.Function):
    """Cross-entropy of a linear layer; the gradient is computed along with the loss."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        device = hidden.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else weight.dtype
        inputs, matrix = hidden.detach().to(dtype), weight.detach().to(dtype)
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        nats = hidden.new_empty(len(hidden), dtype=torch.float32)
        hidden_grad = torch.empty_like(inputs) if wants_hidden else None
        weight_grad: torch.Tensor | None = None
        rows = max(LOGITS_BLOCK // len(matrix), 1)
        # All blocks use the same memory for their logits; autocast would copy them to cast them.
        memory = inputs.new_empty(min(rows, len(inputs)), len(matrix))
        with torch.autocast(device, enabled=False):
            for start in range(0, len(inputs), rows):
                block = slice(start, start + rows)
                part = inputs[block]
                logits = torch.mm(part, matrix.t(), out=memory[: len(part)])
                nats[block] = _to_gradient(logits, targets[block])
                if hidden_grad is not None:
                    torch.mm(logits, matrix, out=hidden_grad[block])
                if wants_weight:
                    weight_grad = _add_product(weight_grad, logits.t(), part, scale)
        if wants_weight and weight_grad is None:  # no position at all, but DDP needs a gradient
            weight_grad = torch.zeros_like(weight)
        ctx.save_for_backward(hidden_grad, weight_grad)
        ctx.scale, ctx.dtypes = scale, (hidden.dtype, weight.dtype)
        ctx.mark_non_differentiable(nats)
        return nats.sum() * scale, nats

    @staticmethod
    def backward(
        ctx: Any, gradient: torch.Tensor, _: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        hidden_grad, weight_grad = ctx.saved_tensors
        hidden_dtype, weight_dtype = ctx.dtypes
        if hidden_grad is not None:
            hidden_grad = (hidden_grad.to(hidden_dtype)).mul_(ctx.scale * gradient)
        if weight_grad is not None:
            weight_grad = weight_grad.to(weight_dtype)
            # Mostly a multiplication by 1, which is left out where comparing needs no transfer.
            if gradient.device.type != "cpu" or gradient != 1:
                weight_grad = weight_grad.mul_(gradient)
        return hidden_grad, weight_grad, None, None


def _to_gradient(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Turn logits into the gradient of their cross-entropy, in place; return the cross-entropy.

    The gradient is softmax(logits), minus 1 at the target.
    """
    nats = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    rows = ROWS_IN_CACHE if logits.device.type == "cpu" else len(logits)
    for start in range(0, len(logits), rows):
        block, target = logits[start : start + rows], targets[start : start + rows, None]
        exact = block.float()  # the block itself, if it is in float32
        highest = exact.amax(dim=-1, keepdim=True)
        target_logit = exact.gather(1, target)
        exact.sub_(highest).exp_()
        total = exact.sum(dim=-1, keepdim=True)
        exact.div_(total).scatter_add_(1, target, -torch.ones_like(total))
        nats[start : start + rows] = (total.log() + highest - target_logit).squeeze(1)
        if exact is not block:  # bfloat16 or float16
            block.copy_(exact)
    return nats


def _add_product(
    total: torch.Tensor | None, left: torch.Tensor, right: torch.Tensor, scale: float
) -> torch.Tensor:
    """Return `total + scale · left @ right`, with the total in float32, in place."""
    if left.dtype != torch.float32:
        product = (left @ right).float().mul_(scale)
        return product if total is None else total.add_(product)
    if total is None:
        total = left.new_empty(len(left), right.shape[1])
        return torch.addmm(total, left, right, beta=0, alpha=scale, out=total)
    return total.addmm_(left, right, alpha=scale)
