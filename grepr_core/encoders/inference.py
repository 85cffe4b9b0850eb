"""Trained networks in scoring: folded batch normalisation, memory layout, precision, device."""

import copy
from typing import TypeVar

import torch
from torch import nn

from grepr_core.encoders import fused_cpu
from grepr_core.encoders.fusion import fold_batch_norm
from grepr_core.encoders.precision import Precision, has_bf16

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def resolve_device(device: str) -> torch.device:
    """Turns ``auto``, ``cpu`` or ``cuda`` into a device.

    Args:
        device: ``auto`` takes the first CUDA device where there is one.

    Returns:
        The device.

    Raises:
        ValueError: CUDA was asked for and is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} was asked for, but PyTorch sees no CUDA device; use --device cpu")
    return torch.device(device)


def resolve_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Chooses the floating point type a network computes in.

    ``auto`` is bfloat16 where the hardware multiplies it natively and float32 elsewhere: emulated bfloat16 is slower
    than float32.

    Args:
        precision: ``auto``, ``fp32`` or ``bf16``.
        device: Where the network runs.

    Returns:
        ``torch.float32`` or ``torch.bfloat16``.
    """
    if precision != "auto":
        return torch.bfloat16 if precision == "bf16" else torch.float32
    return torch.bfloat16 if has_bf16(device.type) else torch.float32


def optimise_for_inference(module: ModuleT, device: torch.device, dtype: torch.dtype, *, fused: bool = True) -> ModuleT:
    """Copies a network for scoring.

    Batch normalisation is folded into the convolutions before it, and the layout is channels-last, in which decoded
    photographs already lie in memory. Activations and sums go into the convolutions too, see
    :mod:`grepr_core.encoders.fusion`. All of it is exact up to rounding.

    Args:
        module: A trained network.
        device: Where the copy runs.
        dtype: What it computes in. Its buffers, such as means of colours and features of prompts, stay float32.
        fused: False to leave activations and sums by themselves.

    Returns:
        The copy, in evaluation mode. Fused, it can be neither moved nor converted.
    """
    module = copy.deepcopy(module).eval().requires_grad_(False)
    fold_batch_norm(module)
    module = module.to(device=device).to(memory_format=torch.channels_last)
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)
    if fused and device.type == "cpu" and fused_cpu.can_fuse(dtype):
        fused_cpu.fuse(module)
    if fused and device.type == "cuda":
        # Kernels of the GPU are brought along by PyTorch's builds for CUDA alone.
        from grepr_core.encoders import fused_gpu  # noqa: PLC0415

        if fused_gpu.can_fuse(device, dtype):
            fused_gpu.fuse(module)
    return module
