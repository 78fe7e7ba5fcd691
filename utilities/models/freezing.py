"""Freezing: which weights of a model are trained, and which are not."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

from utilities.config import StrictModel
from utilities.errors import FreezingError, nearest

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn


Group = Literal["embeddings", "norms", "attention", "feed_forward", "other"]


GROUPS: tuple[Group, ...] = get_args(Group)


class Freeze(StrictModel):
    """Which weights are frozen."""

    groups: tuple[Group, ...]
    """The groups of weights to freeze."""
    keep: tuple[str, ...] = ()
    """Names of parts of the model that are trained nevertheless, such as `layers.5` or `lm_head`.
    """


def weight_groups(model: "nn.Module") -> dict[str, Group]:
    """Return the group of each weight, by the weight's name.

    It follows from the module that the weight belongs to: an embedding (also of a tied output
    head), a norm, an attention block, a feed-forward block, or another one, such as an untied
    output head.
    """
    groups: dict[str, Group] = {}
    kinds = {name: type(module) for name, module in model.named_modules()}
    for name, _ in model.named_parameters():
        parts = name.split(".")[:-1]
        owners = [kinds[".".join(parts[:end])] for end in range(len(parts), 0, -1)]
        groups[name] = _group_of(owners)
    return groups


def _group_of(owners: Sequence[type]) -> Group:
    """Return the group by the types of the weight's module and of the modules around it."""
    from torch import nn

    if issubclass(owners[0], nn.Embedding):
        return "embeddings"
    if "Norm" in owners[0].__name__:
        return "norms"
    for owner in owners:
        if "Attention" in owner.__name__:
            return "attention"
        if "MLP" in owner.__name__ or "FeedForward" in owner.__name__:
            return "feed_forward"
    return "other"


def freeze(model: "nn.Module", choice: Freeze) -> None:
    """Freeze weights of a model in place, and unfreeze all others.

    Raises:
        FreezingError: the model has no part that `keep` names, or all weights are frozen.

    Example:
        `freeze(model, Freeze(groups=["embeddings", "attention"], keep=["layers.5"]))`
    """
    groups = weight_groups(model)
    parts = {part: _weights_in(part, list(groups)) for part in choice.keep}
    for part, weights in parts.items():
        if not weights:
            names = {name for name, _ in model.named_modules()} - {""}
            # A part may be named with or without the model's first level.
            ends = [".".join(name.split(".")[start:]) for name in names for start in (0, 1)]
            raise FreezingError(f"keep: the model has no part {part!r}{nearest(part, ends)}")
    kept = {name for weights in parts.values() for name in weights}
    for name, weight in model.named_parameters():
        weight.requires_grad = groups[name] not in choice.groups or name in kept
    if not any(weight.requires_grad for weight in model.parameters()):
        raise FreezingError("all weights are frozen; leave out a group, or keep a part")


def _weights_in(part: str, names: Sequence[str]) -> list[str]:
    """Return the weights of a part, whose name may leave out the modules around it."""
    return [name for name in names if f".{part}." in f".{name}."]


def trained_weights(model: "nn.Module") -> "pd.DataFrame":
    """Count the trained weights: columns `group`, `weights`, `trained` and `share` (0 to 1).

    Shared weights count once. The last line is the sum.
    """
    import pandas as pd

    groups = weight_groups(model)
    lines = [
        {"group": groups[name], "weights": w.numel(), "trained": w.numel() * w.requires_grad}
        for name, w in model.named_parameters()
    ]
    table = pd.DataFrame(lines).groupby("group").sum().reindex(GROUPS, fill_value=0)
    table.loc["all"] = table.sum()
    table["share"] = table["trained"] / table["weights"].clip(lower=1)
    return table.reset_index()
