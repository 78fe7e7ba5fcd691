"""The device that computes, its floating-point precision, and its free memory."""

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch


Precision = Literal["fp32", "bf16", "fp16"]
PrecisionChoice = Literal["auto", "fp32", "bf16", "fp16"]


def device() -> str:
    """Return `cuda`, `mps` or `cpu`: the fastest that is available."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def resolve_precision(precision: PrecisionChoice = "auto") -> Precision:
    """Return the precision that `auto` stands for on this machine.

    It is bf16 where the CPU or GPU computes in it, fp16 on older GPUs, else fp32. Any other value
    is returned as it is.
    """
    if precision != "auto":
        return precision
    import torch

    kind = device()
    if kind == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if native else "fp16"
    has_bf16 = kind == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16", False)
    return "bf16" if has_bf16 else "fp32"


def available_memory(device: "torch.device") -> int:
    """Return the free bytes of a device, those that this process holds already included."""
    import torch

    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_allocated(device)
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable"))
        return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
