"""Planning: what a training run needs, from the sizes of the model and of the data alone.

Operations and bytes come within a few percent of what is counted and measured; minutes and dollars
tell the order of magnitude. A GB is 10⁹ bytes, a TFLOP 10¹² floating point operations.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import pandas as pd

from utilities.devices import Precision
from utilities.errors import PlanningError
from utilities.planning.machines import HARDWARE, Machine
from utilities.planning.model_sizes import (
    Method,
    ModelShape,
    check_name,
    check_positive,
    step_flops,
    trained_part,
)

OPTIMIZER_BYTES = {"adamw": 8, "adamw_8bit": 2, "adafactor": 0, "sgd": 0}
"""Bytes of state a trained weight; adafactor's rows and columns are too few to count."""


LOGITS = 2**25
"""Logits in memory at once, at most; see `utilities.losses`."""


PASS_TOKENS = {"cpu": 1024, "gpu": 16384}
"""Tokens of one pass, unless `max_tokens` says otherwise; a longer row has a pass of its own."""


_SHARED = ("method", "trained_layers", "rank", "activation_checkpointing")


_SETTINGS = (*_SHARED[1:], "precision", "optimizer", "base")


@dataclass(frozen=True)
class Memory:
    """Bytes that a training run needs, part by part.

    Attributes:
        weights: of the model, as they are loaded.
        copies: of its matrices in 16 bit, which autocast makes for a step.
        gradients: of the model's own weights.
        optimizer: its state for them.
        adapters: weights, gradients and optimizer state of low-rank adapters.
        activations: what the layers keep for the backward pass.
        logits: which then become their gradient.
    """

    weights: int
    copies: int
    gradients: int
    optimizer: int
    adapters: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All parts together; they peak at different moments, so a step may need less."""
        return sum(dataclasses.astuple(self))

    def __str__(self) -> str:
        parts = [f"{k} {v / 1e9:.2f}" for k, v in dataclasses.asdict(self).items() if v]
        return f"{self.total / 1e9:.2f} GB: {', '.join(parts)}"


def memory(
    shape: ModelShape,
    method: Method = "full",
    rows: int = 8,
    row_length: float = 512,
    precision: Precision = "fp32",
    optimizer: str = "adamw",
    *,
    activation_checkpointing: bool = False,
    trained_layers: int | None = None,
    rank: int = 8,
    base: Precision = "fp32",
    trained: int | None = None,
) -> Memory:
    """Return the bytes that training needs on one machine.

    A weight takes 4 bytes, a trained one 4 more for its gradient and 8 for AdamW's two averages: 16
    in all, also in an adapter. Frozen weights under adapters may be held in 16 bit, at 2 bytes.
    Autocast keeps a copy of 2 bytes of each float32 matrix through a step. A logit takes 4 bytes,
    and 2 more under autocast; `utilities.losses` holds 2²⁵ of them at most.

    Activations are counted in the manner of Korthikanti et al. 2022 ("Reducing Activation
    Recomputation in Large Transformer Models", section 4.1), without dropout, and without the
    square of the row length, which fused attention never stores. With h = hidden, q = heads ·
    head_dim, k = key_value_heads · head_dim, f = feed_forward, and w bytes for a product (4 in
    fp32, else 2), a layer keeps for each token, in bytes:

        gated       16h + w · (ch + 2q + 2k + 4f)    with c = 2 in fp32, else 5
        otherwise    4h + w · (2h + 7q + 2f)

    These are what transformers keeps for Llama, Qwen2 and Mistral, and for GPT-NeoX. GPT-2 and
    GPT-Neo, whose activation function is made of single operations, keep up to twice as much. Qwen3
    has norms of queries and keys too, and keeps a sixth to three tenths more. Training with
    adapters keeps up to an eighth less. Checkpointing keeps 4h a layer, and one layer whole.

    These are the bytes in use. Allocators hold on to more: a GPU's for a few percent, a C library's
    on a CPU, where adapters are trained, for up to half as much again.

    Args:
        shape: of the model.
        method: see `step_flops`, also for `trained_layers` and `rank`.
        rows: of one forward pass.
        row_length: tokens a row, in the longest batch.
        precision: of the products; weights that are trained are float32 in any case.
        optimizer: a name in `OPTIMIZER_BYTES`.
        activation_checkpointing: layers keep their input alone.
        base: what frozen weights under adapters are held in.
        trained: number of weights that are trained, where a model tells it; None for what follows
            from `method`, `trained_layers` and `rank`.

    Raises:
        PlanningError: a number makes no sense, or a name is unknown.

    Example:
        >>> print(memory(ModelShape.of("pythia-70m"), rows=8, row_length=64))
        1.34 GB: weights 0.28, gradients 0.28, optimizer 0.56, activations 0.11, logits 0.10
    """
    depth, own, adapters = trained_part(shape, method, trained_layers, rank)
    if trained is not None:
        own, adapters = (0, trained) if method == "lora" else (trained, 0)
    check_positive(rows=rows, row_length=row_length)
    check_name("optimizer", optimizer, OPTIMIZER_BYTES)
    check_name("precision", precision, get_args(Precision))
    check_name("precision", base, get_args(Precision))
    if method != "lora" and base != "fp32":
        raise PlanningError(f"base is {base} with method {method!r}; only `lora` leaves it frozen")
    tokens, layers = rows * row_length, depth * shape.layers
    autocast = precision != "fp32"
    w, c = (2, 5) if autocast else (4, 2)
    h, f = shape.hidden, shape.feed_forward
    q, k = shape.heads * shape.head_dim, shape.key_value_heads * shape.head_dim
    if shape.gated:
        kept = 16 * h + w * (c * h + 2 * q + 2 * k + 4 * f)
    else:
        kept = 4 * h + w * (2 * h + 7 * q + 2 * f)
    per_token = 4 * h * layers + kept if activation_checkpointing else kept * layers
    copied = depth * shape.layer_weights + shape.head_weights
    return Memory(
        weights=shape.weights * (4 if base == "fp32" else 2),
        copies=round(2 * copied) if autocast and base == "fp32" else 0,
        gradients=4 * own,
        optimizer=OPTIMIZER_BYTES[optimizer] * own,
        adapters=(8 + OPTIMIZER_BYTES[optimizer]) * adapters,
        activations=round(tokens * per_token),
        logits=round(min(tokens * shape.vocabulary, LOGITS)) * (6 if autocast else 4),
    )


def plan(
    model: Any,
    data: Any,
    hardware: str | Sequence[str] | None = "laptop",
    method: Method | Sequence[Method] = ("full", "lora"),
    epochs: float = 3,
    *,
    batch_size: int = 8,
    max_tokens: int | None = None,
    price_per_hour: float | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """Return what a training run would need, one line for each machine and method.

    A machine fits when `memory` finds at most 90 % of what it has. Where it does not, `gpus` is how
    many are needed with weights, gradients, optimizer, copies and adapters split between them
    (FSDP), each with a batch of its own; `minutes` and `dollars` are for that many, sharing the
    work without loss.

    Time is `step_flops` for all tokens, over the machine's peak rate and its assumed share, and for
    each step what it must move at the memory's bandwidth: the weights twice, and of each trained
    one 16 bytes and twice the optimizer's. Loading, evaluation and saving come on top. A model
    below about 1 billion weights leaves a large GPU waiting, and takes longer than this.

    Args:
        model: anything that `ModelShape.of` takes.
        data: `TokenizedExamples`; or a dict with `rows`, `tokens` and `supervised_tokens` of an
            epoch, without padding, and perhaps `longest`, the tokens of the longest row.
        hardware: a name in `HARDWARE`, `this machine` (measured, in about a second), a list of
            names, or None for all in `HARDWARE`.
        method: one or several; see `step_flops`.
        epochs: above 0.
        batch_size: rows of a step on one machine.
        max_tokens: tokens of one pass; None for what `PASS_TOKENS` says. A step makes as many
            passes as it needs.
        price_per_hour: US dollars for one machine, in place of the table's.
        settings: `precision`, `optimizer`, `activation_checkpointing`, `trained_layers`, `rank`
            and `base`, as for `memory`. By default `precision` is what a machine is fast in, and
            `base` 16 bit on GPUs.

    Returns:
        `hardware`, `method`, `precision`, `weights_trained`, `memory_gb`, `fits`, `gpus` (0 without
        one, <NA> where no number is enough), `flops`, `minutes`, `dollars`, and `remedy`: what
        would make it fit.

    Raises:
        PlanningError: a name is unknown, or a number makes no sense.

    Example:
        >>> data = {"rows": 1000, "tokens": 200_000, "supervised_tokens": 50_000}
        >>> table = plan("Llama-3.1-8B", data, "A100 80 GB")
        >>> table[["method", "fits", "gpus"]].values.tolist()
        [['full', False, 3], ['lora', True, 1]]
    """
    shape = ModelShape.of(model)
    methods = [method] if isinstance(method, str) else list(method)
    machines = [hardware] if isinstance(hardware, str) else list(hardware or HARDWARE)
    settings = {name: value for name, value in settings.items() if value is not None}
    check_positive(epochs=epochs, batch_size=batch_size)
    if max_tokens is not None:
        check_positive(max_tokens=max_tokens)
    if price_per_hour not in (None, 0):
        check_positive(price_per_hour=price_per_hour)
    for name in settings:
        check_name("setting", name, _SETTINGS)
    for each in methods or [None]:
        check_name("method", each, get_args(Method))
    if "trained_layers" in settings and "freeze" not in methods:
        raise PlanningError("trained_layers goes with the method `freeze`, which is not asked for")
    counts = _counts(data, batch_size)
    lines = []
    for name in machines:
        machine = Machine.of(name)
        if price_per_hour is not None:
            machine = dataclasses.replace(machine, price_per_hour=price_per_hour)
        limit = max_tokens or PASS_TOKENS["gpu" if machine.is_gpu else "cpu"]
        settings["row_length"] = max(counts["longest"], min(counts["batch_tokens"], limit))
        for each in methods:
            line = _line(shape, counts, epochs, machine, _settings_for(machine, each, settings))
            lines.append({"hardware": name, "method": each, **line})
    return pd.DataFrame(lines).astype({"gpus": "Int64"})


def _counts(data: Any, batch_size: int) -> dict[str, float]:
    """Return what `plan` wants to know of the data, all without padding.

    That is `tokens`, `supervised_tokens`, `steps`, `row_length` as `step_flops` wants it, the
    `longest` row, and `batch_tokens` of the batch of the longest rows.
    """
    if hasattr(getattr(data, "features", None), "with_format"):
        return _counts_of_features(data.features, batch_size)
    needed = ("rows", "tokens", "supervised_tokens")
    if not isinstance(data, dict) or set(needed) - set(data):
        raise PlanningError(
            f"data is {data!r:.200}; give TokenizedExamples, or a dict with {', '.join(needed)}"
        )
    for name in data:
        check_name("count", name, (*needed, "longest"))
    check_positive(**data)
    mean = data["tokens"] / data["rows"]
    longest = data.get("longest", mean)
    batch_tokens = min(batch_size, data["rows"]) * longest
    lengths = {"row_length": mean, "longest": longest, "batch_tokens": batch_tokens}
    return {**data, **lengths, "steps": math.ceil(data["rows"] / batch_size)}


def _counts_of_features(features: Any, batch_size: int) -> dict[str, float]:
    import numpy as np
    import pyarrow.compute as pc

    table = features.with_format("arrow")[:]
    rows = spans = pc.list_value_length(table["input_ids"]).to_numpy()
    if "position_ids" in table.column_names:  # packed: attention stays within an example
        positions = pc.list_flatten(table["position_ids"]).to_numpy()
        spans = np.diff(np.append(np.flatnonzero(positions == 0), len(positions)))
    return {
        "tokens": int(rows.sum()),
        "supervised_tokens": int((pc.list_flatten(table["labels"]).to_numpy() >= 0).sum()),
        "steps": math.ceil(len(rows) / batch_size),
        "row_length": float((spans.astype(float) ** 2).sum() / spans.sum()),
        "longest": int(rows.max()),
        "batch_tokens": int(np.sort(rows)[-batch_size:].sum()),
    }


def _settings_for(machine: Machine, method: Method, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `memory`; `row_length` holds all tokens of a pass."""
    half = "fp16" if machine.precision == "fp16" else "bf16"
    defaults = {"precision": machine.precision, "base": half if machine.is_gpu else "fp32"}
    chosen = {**defaults, **settings, "rows": 1, "method": method}
    foreign = {"base"} if method != "lora" else set()
    foreign |= {"trained_layers"} if method != "freeze" else set()
    return {name: value for name, value in chosen.items() if name not in foreign}


def _line(
    shape: ModelShape,
    counts: dict[str, float],
    epochs: float,
    machine: Machine,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Return what one machine needs for one method."""
    needed = memory(shape, **settings)
    state = OPTIMIZER_BYTES[settings.get("optimizer", "adamw")]
    trained = needed.gradients // 4 + needed.adapters // (8 + state)
    sizes = {name: counts[name] for name in ("tokens", "supervised_tokens", "row_length")}
    shared = {name: value for name, value in settings.items() if name in _SHARED}
    flops = epochs * step_flops(shape, **sizes, **shared)
    moved = 2 * needed.weights + trained * (16 + 2 * state)
    seconds = flops / machine.rate(settings["precision"])
    seconds += epochs * counts["steps"] * moved / (1e9 * machine.bandwidth)
    gpus = _gpus(needed, machine)
    if gpus is None:
        seconds = math.nan
    return {
        "precision": settings["precision"],
        "weights_trained": trained,
        "memory_gb": needed.total / 1e9,
        "fits": needed.total <= machine.usable,
        "gpus": gpus,
        "flops": flops,
        "minutes": seconds / 60 / (gpus or 1),
        "dollars": seconds / 3600 * machine.price_per_hour,
        "remedy": _remedy(shape, machine, settings, counts["longest"]),
    }


def _gpus(needed: Memory, machine: Machine) -> int | None:
    """Return the fewest GPUs that suffice: 0 where none is needed, None where no number does."""
    if needed.total <= machine.usable:
        return int(machine.is_gpu)
    each_has = needed.activations + needed.logits
    room = machine.usable - each_has
    return math.ceil((needed.total - each_has) / room) if machine.is_gpu and room > 0 else None


def _remedy(shape: ModelShape, machine: Machine, settings: dict[str, Any], longest: float) -> str:
    """Return what would make it fit, the least intrusive first; empty where it does."""
    checkpointing, one_row = {"activation_checkpointing": True}, {"row_length": longest}
    changes = {
        "": {},
        "activation checkpointing": checkpointing,
        "1 row a pass": one_row,
        "activation checkpointing and 1 row a pass": checkpointing | one_row,
    }

    def gpus(method: Method) -> dict[str, int]:
        """How many it takes with each change, where some number is enough."""
        found = {}
        for change, values in changes.items():
            needed = memory(shape, **_settings_for(machine, method, settings | values))
            found[change] = _gpus(needed, machine)
        return {change: count for change, count in found.items() if count is not None}

    remedies, own = [], gpus(settings["method"])
    if own.get("", 2) < 2:
        return ""
    remedies += [change for change, count in own.items() if count < 2][:1]
    if settings["method"] != "lora":
        lora = [change for change, count in gpus("lora").items() if count < 2][:1]
        remedies += [f"LoRA with {change}" if change else "LoRA" for change in lora]
    several = [(count, change) for change, count in own.items() if count > 1]
    if several:
        count, change = next((each for each in several if each[0] <= 8), several[-1])
        remedies.append(f"{count} GPUs with FSDP" + (f", {change}" if change else ""))
    otherwise = "a smaller model" if machine.is_gpu else "a GPU, or a smaller model"
    return "; ".join(remedies) or otherwise
