"""Operators on a GPU that PyTorch has not, or not in one pass: its own read and write memory several times.

All of them are bound by memory, so each reads its maps once and writes once. Maps are channels-last.
"""

from math import inf

import torch
from torch import Tensor
from triton import cdiv

from grepr_core.encoders import triton_kernels

#: Elements of one program: of a line of memory; of columns and channels; of positions and channels.
ELEMENTS = 1024
COLUMNS, CHANNELS = 32, 32
POSITIONS = 128


def finish(maps: Tensor, bias: Tensor | None, added: Tensor | None, ceiling: float | None) -> Tensor:
    """Adds a bias a channel and other maps, and activates, in place.

    Args:
        maps: (N, C, H, W) float32 or bfloat16, channels-last; overwritten.
        bias: (C,), or None.
        added: Of the shape, type and layout of ``maps``, or None.
        ceiling: What values above 0 are cut at, ``inf`` for a ReLU, 6 for a ReLU6; None for no activation.

    Returns:
        ``maps``.
    """
    count = maps.numel()
    triton_kernels.finish[(cdiv(count, ELEMENTS),)](
        maps,
        maps if bias is None else bias,
        maps if added is None else added,
        count,
        maps.shape[1],
        inf if ceiling is None else ceiling,
        HAS_BIAS=bias is not None,
        HAS_ADDED=added is not None,
        ACTIVATED=ceiling is not None,
        ELEMENTS=ELEMENTS,
    )
    return maps


def depthwise(
    maps: Tensor, weight: Tensor, bias: Tensor, *, stride: int, before: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Convolves each channel by itself, with a ReLU6 before and another one after.

    Args:
        maps: (N, C, H, W) float32 or bfloat16, channels-last.
        weight: (K, K, C), contiguous.
        bias: (C,).
        stride: Along both axes.
        before: Zeros above the first row and left of the first column; after the last ones as many as it takes.
        size: Height and width of the result.

    Returns:
        (N, C, *size), channels-last.
    """
    images, channels, height, width = maps.shape
    result = maps.new_empty((images, *size, channels))
    grid = (images * size[0], cdiv(size[1], COLUMNS), cdiv(channels, CHANNELS))
    triton_kernels.depthwise[grid](
        maps,
        weight,
        bias,
        result,
        height,
        width,
        channels,
        *size,
        *before,
        STRIDE=stride,
        KERNEL=weight.shape[0],
        COLUMNS=COLUMNS,
        CHANNELS=CHANNELS,
    )
    return result.permute(0, 3, 1, 2)


def mean_and_deviation(maps: Tensor) -> Tensor:
    """Gives mean and standard deviation of each channel over the frame.

    Deviations are taken from the means of parts of the frame, which are then put together (Chan et al. 1979): one pass
    over the maps, and nothing cancels.

    Args:
        maps: (N, C, H, W) float32 or bfloat16, channels-last.

    Returns:
        (N, 2C) float32, the means followed by the deviations.
    """
    images, channels = maps.shape[:2]
    positions = maps.shape[2] * maps.shape[3]
    parts = cdiv(positions, POSITIONS)
    means, scatters = torch.empty((2, images, parts, channels), dtype=torch.float32, device=maps.device).unbind()
    triton_kernels.moments[(images * parts, cdiv(channels, CHANNELS))](
        maps, means, scatters, positions, channels, parts, POSITIONS=POSITIONS, CHANNELS=CHANNELS
    )
    if parts == 1:
        return torch.cat([means[:, 0], (scatters[:, 0] / positions).sqrt_()], dim=1)
    starts = torch.arange(0, positions, POSITIONS, device=maps.device)
    counts = (positions - starts).clamp_(max=POSITIONS)[:, None] / positions
    mean = (means * counts).sum(dim=1, keepdim=True)
    variance = scatters.sum(dim=1) / positions + ((means - mean).square_() * counts).sum(dim=1)
    return torch.cat([mean[:, 0], variance.sqrt_()], dim=1)
