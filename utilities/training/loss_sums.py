"""Sums of losses over passes, steps and processes."""

from typing import Any

import torch

from utilities.training.loss import SupervisedLoss

KINDS = ("response", "end", "prompt")
"""What a supervised token is part of: the answer, its end-of-text, or the text before it."""


class LossSums:
    """Sums of losses and numbers of tokens, by `KINDS`, until they are logged."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Set all sums to zero."""
        self.nats = torch.zeros(len(KINDS), dtype=torch.float64)
        self.counts = torch.zeros(len(KINDS), dtype=torch.float64)
        self.tokens = 0

    def add(self, result: SupervisedLoss, kinds: torch.Tensor) -> None:
        """Add losses, each of the kind given as an index into `KINDS`."""
        is_mps = result.nats.device.type == "mps"  # it has no float64
        nats = (result.nats.cpu() if is_mps else result.nats).double()
        kinds = kinds.to(nats.device)
        self.nats = self.nats.to(nats.device).index_add(0, kinds, nats)
        self.counts = self.counts.to(nats.device).index_add(0, kinds, torch.ones_like(nats))

    def drain(self, accelerator: Any) -> "LossSums":
        """Return the sums over all processes, and reset these."""
        device = "cpu" if accelerator.device.type == "mps" else accelerator.device
        tokens = torch.tensor([float(self.tokens)], dtype=torch.float64, device=device)
        sums = torch.cat([self.nats.to(device), self.counts.to(device), tokens])
        if accelerator.num_processes > 1:
            sums = accelerator.reduce(sums)
        sums = sums.cpu()
        drained = LossSums()
        drained.nats, drained.counts = sums[: len(KINDS)], sums[len(KINDS) : -1]
        drained.tokens = int(sums[-1])
        self.reset()
        return drained

    def losses(self, name: str, total: bool = False) -> dict[str, float]:
        """Return the mean loss of each kind that occurred; with `total`, of learned tokens too."""
        means = {
            f"{name}_{kind}": nats / count
            for kind, nats, count in zip(
                KINDS, self.nats.tolist(), self.counts.tolist(), strict=True
            )
            if count
        }
        if total:
            learned = slice(0, KINDS.index("prompt"))
            mean = self.nats[learned].sum() / self.counts[learned].sum()
            means = {name: mean.item(), **means}
        return means
