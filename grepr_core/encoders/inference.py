"""Trained networks in scoring: folded batch normalisation, memory layout, precision, device; statistics of maps."""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from grepr_core.encoders.fused import can_fuse, fuse
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


def optimise_for_inference(module: ModuleT, device: torch.device, dtype: torch.dtype) -> ModuleT:
    """Copies a network for scoring.

    Batch normalisation is folded into the convolutions before it, and the layout is channels-last, in which decoded
    photographs already lie in memory. On the CPU activations and sums go into the convolutions too, see
    :mod:`grepr_core.encoders.fused`. All of it is exact up to rounding.

    Args:
        module: A trained network.
        device: Where the copy runs.
        dtype: What it computes in.

    Returns:
        The copy, in evaluation mode. On the CPU it can be neither moved nor converted.
    """
    module = copy.deepcopy(module).eval().requires_grad_(False)
    _fold_batch_norm(module)
    module = module.to(device=device, dtype=dtype).to(memory_format=torch.channels_last)
    if device.type == "cpu" and can_fuse(dtype):
        fuse(module)
    return module


def map_statistics(maps: Tensor) -> Tensor:
    """Gives mean and standard deviation of each channel over the frame.

    Args:
        maps: (N, C, H, W) feature maps.

    Returns:
        (N, 2C) float32, the means followed by the deviations.
    """
    # With channels last in memory too, sums over positions run three times as fast as torch.std_mean.
    positions = maps.permute(0, 2, 3, 1).flatten(1, 2).float()
    mean = positions.mean(dim=1, keepdim=True)
    deviation = (positions - mean).square_().mean(dim=1).sqrt()
    return torch.cat([mean[:, 0], deviation], dim=1)


def _fold_batch_norm(module: nn.Module) -> None:
    previous: tuple[str, nn.Module] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and previous and isinstance(previous[1], nn.Conv2d):
            setattr(module, previous[0], fuse_conv_bn_eval(previous[1], child))
            setattr(module, name, nn.Identity())
        else:
            _fold_batch_norm(child)
        previous = (name, child)
