"""Machines to train on: published figures by name, and this one, measured."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

from utilities.devices import Precision
from utilities.planning.model_sizes import check_name

USABLE = 0.9
"""Share of a machine's memory to plan with; libraries and fragments take the rest."""


@dataclass(frozen=True)
class Machine:
    """A machine to train on.

    Attributes:
        memory_gb: memory of the GPU, or of the whole machine where there is none, in GB.
        fp32: peak rate of matrix products in TFLOP/s, without TF32.
        half: the same in 16 bit, dense (not "with sparsity"), accumulated in float32.
        precision: the 16-bit format that the hardware computes in; `fp32` for none.
        bandwidth: memory bandwidth in GB/s.
        price_per_hour: price in US dollars.
        share: share of the peak rate that training attains, 0 to 1; an assumption, measure yours.
        is_gpu: a GPU, so several can share the work.
    """

    memory_gb: float
    fp32: float
    half: float
    precision: Precision
    bandwidth: float
    price_per_hour: float = 0
    share: float = 0.35
    is_gpu: bool = True

    @classmethod
    def of(cls, name: str) -> "Machine":
        """Return a machine of `HARDWARE`, or `this machine`, which takes a second to measure.

        Raises:
            PlanningError: the name is unknown.
        """
        check_name("hardware", name, (*HARDWARE, THIS_MACHINE))
        return HARDWARE[name] if name in HARDWARE else _this_machine()

    @property
    def usable(self) -> float:
        """Bytes of memory to plan with."""
        return USABLE * 1e9 * self.memory_gb

    def rate(self, precision: Precision) -> float:
        """Return the attainable floating point operations per second."""
        # T4 and V100 only emulate bfloat16; GPUs that have it do float16 just as fast.
        is_fast = precision != "fp32" and self.precision in ("bf16", precision)
        return 1e12 * self.share * (self.half if is_fast else self.fp32)


HARDWARE = {
    "laptop": Machine(8, 0.15, 0.15, "fp32", 20, share=0.6, is_gpu=False),
    "T4": Machine(16, 8.1, 65, "fp16", 320, 0.40),
    "V100 16 GB": Machine(16, 15.7, 125, "fp16", 900, 1.00),
    "V100 32 GB": Machine(32, 15.7, 125, "fp16", 900, 1.20),
    "RTX 3090": Machine(24, 35.6, 71, "bf16", 936, 0.30),
    "RTX 4090": Machine(24, 82.6, 165, "bf16", 1008, 0.50),
    "A10G": Machine(24, 31.5, 70, "bf16", 600, 1.00),
    "L4": Machine(24, 30.3, 121, "bf16", 300, 0.80),
    "A100 40 GB": Machine(40, 19.5, 312, "bf16", 1555, 1.50),
    "A100 80 GB": Machine(80, 19.5, 312, "bf16", 2039, 2.00),
    "H100": Machine(80, 67, 989, "bf16", 3350, 3.00),
    "H200": Machine(141, 67, 989, "bf16", 4800, 4.00),
    "B200": Machine(180, 75, 2250, "bf16", 8000, 6.00),
}
"""Machines by name: published figures, SXM where there are several; `laptop` is two CPU cores.

Prices are rough public on-demand rates as of 2025. Providers differ threefold and prices go stale,
so put in yours, as in `HARDWARE["L4"] = dataclasses.replace(HARDWARE["L4"], price_per_hour=0.7)`.
A machine of your own is added in the same way.
"""


THIS_MACHINE = "this machine"
"""The name under which `Machine.of` measures the machine that it runs on."""


def measured_rate(precision: Precision = "fp32") -> float:
    """Measure the floating point operations per second of this machine's matrix products.

    The best of several products of two n × n matrices, each 2n³ operations, in less than half a
    second.

    Example:
        `print(f"{measured_rate() / 1e12:.2f} TFLOP/s")`
    """
    import torch

    from utilities.devices import device

    check_name("precision", precision, get_args(Precision))
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    size = 1024 if device() == "cpu" else 4096
    matrix = torch.ones(size, size, dtype=dtype, device=device())
    return 2 * size**3 / _best_seconds(lambda: matrix @ matrix)


def _best_seconds(work: Callable[[], Any], limit: float = 0.2) -> float:
    """Return the shortest time of one call, after a warm-up call, within `limit` seconds."""
    import torch

    work()
    best, end = math.inf, time.perf_counter() + limit
    while best == math.inf or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def _this_machine() -> Machine:
    """Measure this machine: rates by matrix products, bandwidth by copying 64 MB."""
    import psutil
    import torch

    from utilities.devices import device, resolve_precision

    is_gpu, precision = device() == "cuda", resolve_precision()
    gpu = torch.cuda.get_device_properties(0).total_memory if is_gpu else 0
    values = torch.ones(2**24, device=device())
    return Machine(
        memory_gb=(gpu or psutil.virtual_memory().total) / 1e9,
        fp32=measured_rate() / 1e12,
        half=measured_rate(precision) / 1e12,
        precision=precision,
        bandwidth=2 * values.nbytes / _best_seconds(values.clone, limit=0.05) / 1e9,
        share=0.5 if is_gpu else 0.6,  # of a measured rate, more than of a data sheet's
        is_gpu=is_gpu,
    )
