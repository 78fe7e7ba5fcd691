"""Memory, time and cost of a training run, from the sizes of the model and of the data alone.

Operations and bytes come within a few percent of what is counted and measured; minutes and dollars
give the order of magnitude. A GB is 10⁹ bytes, a TFLOP 10¹² floating point operations.

Memory is `memory`'s: weights, gradients, optimizer state, copies, adapters, activations (see
`activation_bytes`) and logits. These are the bytes in use. Allocators reserve more: on a GPU a few
percent, on a CPU (the C library's), where adapters are trained, up to half as much again.

Time is `step_flops` for all tokens, divided by the machine's peak rate times its assumed share, and
for each step the bytes that it must move divided by the memory's bandwidth: the weights twice, and
for each trained weight 16 bytes and twice its optimizer state. Loading, evaluation and saving come
on top. A model below about 1 billion weights leaves a large GPU waiting, and takes longer.

A machine fits when `memory` finds at most 90 % of what it has. Where it does not fit, the number of
GPUs is the smallest that suffices with weights, gradients, optimizer, copies and adapters split
between them (FSDP), each with a batch of its own; time and cost are for that many, sharing the work
without loss.
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
"""Bytes of state per trained weight; adafactor's rows and columns are too few to count."""


LOGITS = 2**25
"""Logits in memory at once, at most; see `utilities.training.loss`."""


PASS_TOKENS = {"cpu": 1024, "gpu": 16384}
"""Tokens of one pass, unless `max_tokens` says otherwise; a longer row has a pass of its own."""


_SHARED = ("method", "trained_layers", "rank", "activation_checkpointing")


_SETTINGS = (*_SHARED[1:], "precision", "optimizer", "base")


@dataclass(frozen=True)
class Memory:
    """Bytes that a training run needs, part by part.

    Attributes:
        weights: of the model, as they are loaded.
        copies: 16-bit copies of its matrices, which autocast makes for a step.
        gradients: gradients of the model's own weights.
        optimizer: optimizer state of the model's own weights.
        adapters: weights, gradients and optimizer state of low-rank adapters.
        activations: what the layers keep for the backward pass.
        logits: the logits, whose memory then holds their gradient.
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


def activation_bytes(shape: ModelShape, autocast: bool) -> int:
    """Return the bytes that one layer keeps for the backward pass, for each token.

    Counted in the manner of Korthikanti et al. 2022 ("Reducing Activation Recomputation in Large
    Transformer Models", section 4.1), without dropout, and without the square of the row length,
    which fused attention never stores. With h = hidden, q = heads · head_dim,
    k = key_value_heads · head_dim, f = feed_forward, and w bytes for a product (4 in fp32, else 2):

        gated       16h + w · (ch + 2q + 2k + 4f)    with c = 2 in fp32, else 5
        otherwise    4h + w · (2h + 7q + 2f)

    These are what transformers keeps for Llama, Qwen2 and Mistral, and for GPT-NeoX. GPT-2 and
    GPT-Neo, whose activation function is made of single operations, keep up to twice as much. Qwen3
    normalizes queries and keys too, and keeps a sixth to three tenths more. Training with adapters
    keeps up to an eighth less.
    """
    w, c = (2, 5) if autocast else (4, 2)
    h, f = shape.hidden, shape.feed_forward
    q, k = shape.heads * shape.head_dim, shape.key_value_heads * shape.head_dim
    if shape.gated:
        return 16 * h + w * (c * h + 2 * q + 2 * k + 4 * f)
    return 4 * h + w * (2 * h + 7 * q + 2 * f)


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
    and 2 more under autocast; `utilities.training.loss` holds 2²⁵ of them at most. Activations take
    `activation_bytes` per token and layer; with checkpointing 4 · hidden, and one whole layer.

    Args:
        shape: the model's sizes.
        method: see `step_flops`, also for `trained_layers` and `rank`.
        rows: rows of one forward pass.
        row_length: tokens per row, in the longest batch.
        precision: of the matrix products; trained weights are float32 in any case.
        optimizer: a name in `OPTIMIZER_BYTES`.
        activation_checkpointing: layers keep only their input, and recompute the rest.
        base: precision of the frozen weights under adapters.
        trained: number of trained weights, as counted in a model; None derives it from the method.

    Raises:
        PlanningError: a number is out of range, or a name is unknown.

    Example:
        >>> print(memory(ModelShape.of("pythia-70m"), rows=8, row_length=64))
        1.34 GB: weights 0.28, gradients 0.28, optimizer 0.56, activations 0.11, logits 0.10
    """
    depth, own, adapters = trained_part(shape, method, trained_layers, rank)
    if trained is not None:
        own, adapters = (0, trained) if method == "lora" else (trained, 0)
    _check_memory(method, rows, row_length, precision, base, optimizer)
    tokens, layers = rows * row_length, depth * shape.layers
    autocast = precision != "fp32"
    of_a_layer = activation_bytes(shape, autocast)
    per_token = layers * of_a_layer
    if activation_checkpointing:  # the float32 input of each layer, and one layer recomputed
        per_token = layers * 4 * shape.hidden + of_a_layer
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


def _check_memory(
    method: Method, rows: int, row_length: float, precision: str, base: str, optimizer: str
) -> None:
    """Raise a `PlanningError` for an unknown name, a number out of range, or a `base` in vain."""
    check_positive(rows=rows, row_length=row_length)
    check_name("optimizer", optimizer, OPTIMIZER_BYTES)
    check_name("precision", precision, get_args(Precision))
    check_name("precision", base, get_args(Precision))
    if method != "lora" and base != "fp32":
        raise PlanningError(f"base is {base} with method {method!r}; only `lora` leaves it frozen")


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
    """Estimate what a training run needs, for each machine and method; the module says how.

    Args:
        model: anything that `ModelShape.of` takes.
        data: `TokenizedExamples`; or a dict with `rows`, `tokens` and `supervised_tokens` of an
            epoch, without padding, and perhaps `longest`, the tokens of the longest row.
        hardware: a name in `HARDWARE`, `this machine` (measured, in about a second), a list of
            names, or None for all in `HARDWARE`.
        method: one or several; see `step_flops`.
        epochs: passes over the data, above 0.
        batch_size: rows of a step on one machine.
        max_tokens: tokens of one pass, of which a step makes several; None for `PASS_TOKENS`.
        price_per_hour: US dollars for one machine, in place of the table's.
        settings: `precision` (by default what a machine is fast in), `base` (16 bit on GPUs),
            `optimizer`, `activation_checkpointing`, `trained_layers` and `rank`; see `memory`.

    Returns:
        `hardware`, `method`, `precision`, `weights_trained`, `memory_gb`, `fits`, `gpus` (0 without
        one, <NA> where no number is enough), `flops`, `minutes`, `dollars`, and `remedy`: what
        would make it fit.

    Raises:
        PlanningError: a name is unknown, or a number is out of range.

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
    _check_numbers(epochs, batch_size, max_tokens, price_per_hour)
    _check_settings(methods, settings)
    counts = _counts(data, batch_size)
    lines = []
    for name in machines:
        machine = Machine.of(name)
        if price_per_hour is not None:
            machine = dataclasses.replace(machine, price_per_hour=price_per_hour)
        limit = max_tokens or PASS_TOKENS["gpu" if machine.is_gpu else "cpu"]
        settings["row_length"] = max(counts["longest"], min(counts["batch_tokens"], limit))
        for one in methods:
            line = _line(shape, counts, epochs, machine, _settings_for(machine, one, settings))
            lines.append({"hardware": name, "method": one, **line})
    return pd.DataFrame(lines).astype({"gpus": "Int64"})


def _check_numbers(
    epochs: float, batch_size: int, max_tokens: int | None, price_per_hour: float | None
) -> None:
    """Raise a `PlanningError` unless all are above 0; a price may be 0 too."""
    check_positive(epochs=epochs, batch_size=batch_size)
    if max_tokens is not None:
        check_positive(max_tokens=max_tokens)
    if price_per_hour not in (None, 0):
        check_positive(price_per_hour=price_per_hour)


def _check_settings(methods: Sequence[str], settings: dict[str, Any]) -> None:
    """Raise a `PlanningError` for an unknown name, or a setting that no method uses."""
    for name in settings:
        check_name("setting", name, _SETTINGS)
    if not methods:
        raise PlanningError(
            f"method is empty; name one or several of {', '.join(get_args(Method))}"
        )
    for method in methods:
        check_name("method", method, get_args(Method))
    if "trained_layers" in settings and "freeze" not in methods:
        raise PlanningError(
            "trained_layers goes with the method `freeze`, which is not in `method`"
        )


def _counts(data: Any, batch_size: int) -> dict[str, float]:
    """Count the data for `plan`, without padding.

    Returns:
        `tokens`, `supervised_tokens`, `steps`, `row_length` as `step_flops` takes it, `longest`
        (tokens of the longest row), and `batch_tokens` (of the batch of the longest rows).
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
    if "position_ids" in table.column_names:
        # Packed: attention stays within an example, and position 0 begins one. So the distances
        # between the zeros are the examples' lengths.
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
    only_for = {"base": "lora", "trained_layers": "freeze"}
    return {name: value for name, value in chosen.items() if only_for.get(name, method) == method}


def _line(
    shape: ModelShape,
    counts: dict[str, float],
    epochs: float,
    machine: Machine,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Return a line of the plan's table: one machine, one method."""
    needed = memory(shape, **settings)
    state = OPTIMIZER_BYTES[settings.get("optimizer", "adamw")]
    trained = needed.gradients // 4 + needed.adapters // (8 + state)
    shared = {name: value for name, value in settings.items() if name in _SHARED}
    flops = epochs * step_flops(
        shape, counts["tokens"], counts["supervised_tokens"], counts["row_length"], **shared
    )
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
    # FSDP splits all but the activations and logits, which are of each GPU's own batch.
    unsplit = needed.activations + needed.logits
    room = machine.usable - unsplit
    return math.ceil((needed.total - unsplit) / room) if machine.is_gpu and room > 0 else None


def _remedy(shape: ModelShape, machine: Machine, settings: dict[str, Any], longest: float) -> str:
    """Return what would make the run fit, the least intrusive first; empty if it fits."""
    checkpointing: dict[str, Any] = {"activation_checkpointing": True}
    one_row: dict[str, Any] = {"row_length": longest}
    changes: dict[str, dict[str, Any]] = {
        "": {},
        "activation checkpointing": checkpointing,
        "1 row a pass": one_row,
        "activation checkpointing and 1 row a pass": checkpointing | one_row,
    }

    def gpus(method: Method) -> dict[str, int]:
        """Return the number of GPUs with each change, where some number is enough."""
        counts = {}
        for change, values in changes.items():
            needed = memory(shape, **_settings_for(machine, method, settings | values))
            count = _gpus(needed, machine)
            if count is not None:
                counts[change] = count
        return counts

    def enough_alone(counts: dict[str, int]) -> list[str]:
        """Return the first change after which one machine is enough, if there is one."""
        return [change for change, count in counts.items() if count < 2][:1]

    counts = gpus(settings["method"])
    if counts.get("", 2) < 2:
        return ""
    remedies = enough_alone(counts)
    if settings["method"] != "lora":
        for change in enough_alone(gpus("lora")):
            remedies.append(f"LoRA with {change}" if change else "LoRA")
    if several := {change: count for change, count in counts.items() if count > 1}:
        # The least intrusive change that one server of 8 GPUs can do with, else the strongest.
        change = next((c for c, count in several.items() if count <= 8), list(several)[-1])
        remedies.append(f"{several[change]} GPUs with FSDP" + (f", {change}" if change else ""))
    otherwise = "a smaller model" if machine.is_gpu else "a GPU, or a smaller model"
    return "; ".join(remedies) or otherwise
