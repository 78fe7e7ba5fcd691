"""The device that computes, its floating-point precision, and its free memory."""

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


def free_memory(device: "torch.device") -> int:
    """Return the free bytes of a GPU; of the machine where the device is not one of CUDA."""
    import psutil
    import torch

    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def available_memory(device: "torch.device") -> int:
    """Return the free bytes of a device, with those of a GPU that this process holds already."""
    import torch

    held = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    return free_memory(device) + held
