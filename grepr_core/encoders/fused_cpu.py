"""Networks on the CPU with activations and sums inside their convolutions, by oneDNN.

Eager PyTorch runs every activation as a pass over memory of its own, and copies maps to pad them unevenly. Together
that takes a fifth of the time of a small network. ``torch.compile`` would fuse the same, but needs a C++ compiler on
every machine and a minute at the start of every process.
"""

from typing import Any

import torch
from torch import Tensor, nn

from grepr_core.encoders.efficientnet_lite0 import InvertedResidual
from grepr_core.encoders.fusion import Activation, FusedConvolution, Fusion

#: As oneDNN's operators name them, with their arguments.
_POST_OPERATIONS: dict[Activation, tuple[str, list[float]]] = {
    "none": ("none", []),
    "relu": ("relu", []),
    "relu6": ("hardtanh", [0.0, 6.0]),
}


def can_fuse(dtype: torch.dtype) -> bool:
    """Tells whether this build of PyTorch has the operators and this CPU runs them in a type.

    Args:
        dtype: ``torch.float32`` or ``torch.bfloat16``.
    """
    if not torch._C._has_mkldnn or not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def fuse(module: nn.Module) -> None:
    """Replaces convolutions, the activations after them and residual blocks within a network, in place.

    The function stays the same up to rounding: a sum is rounded once, after its activation, where it was rounded twice.
    The network must stay on the CPU, and cannot be trained or saved any more.

    Args:
        module: In evaluation mode, batch normalisation folded, on the CPU, channels-last, where :func:`can_fuse`.
    """
    _ONEDNN.fuse(module)


class Convolution(FusedConvolution):
    """A convolution and what follows it.

    Its weights stay as they are: oneDNN's order for them depends on the size of the image, and bringing them from one
    order into another takes longer than from PyTorch's, which costs 2 ms of EfficientNet-Lite0's 40.
    """

    def forward(self, maps: Tensor, added: Tensor | None = None) -> Tensor:
        """See :meth:`FusedConvolution.forward`."""
        return self._convolve(self.padded(maps), self.padding, added)

    def forward_oversized(self, maps: Tensor) -> tuple[Tensor, list[int]]:
        """Convolves without a padded copy of the maps where ``SAME`` pads more after than before.

        The convolution starts one stride earlier, within as many zeros before as after, so the first row or column of
        the result is in excess. What works on single positions may be run before it is cut off.

        Args:
            maps: (N, C, H, W) channels-last, of the type of the weights.

        Returns:
            (N, C', H' + excess[0], W' + excess[1]) and the excess, 0 or 1 along each axis.
        """
        paddings = [self.same_padding(length, axis) for axis, length in enumerate(maps.shape[2:])]
        excess = [int(after > before) for before, after in paddings]
        strides = self.geometry[0]
        fixed = [
            own + before + stride * extra
            for own, (before, _), stride, extra in zip(self.padding, paddings, strides, excess, strict=True)
        ]
        return self._convolve(maps, fixed, None), excess

    def _convolve(self, maps: Tensor, padding: list[int], added: Tensor | None) -> Tensor:
        activation, scalars = _POST_OPERATIONS[self.activation]
        convolve: Any = torch.ops.mkldnn._convolution_pointwise
        where = (self.weight, self.bias, padding, *self.geometry)
        result: Tensor
        if added is None:
            result = convolve(maps, *where, activation, scalars, "")
        else:
            unary = None if self.activation == "none" else activation
            result = convolve.binary(maps, added, *where, "add", 1.0, unary, scalars, "")
        return result


class _InvertedResidual(nn.Module):
    """EfficientNet-Lite's blocks, with and without expansion."""

    def __init__(self, block: InvertedResidual) -> None:
        super().__init__()
        self.expansion = block.expansion
        fuse(self.expansion)
        self.depthwise = Convolution(block.depthwise[0], "relu6")
        self.projection = Convolution(block.projection[0])
        self.has_skip = block.has_skip

    def forward(self, maps: Tensor) -> Tensor:
        if self.has_skip:
            # Summed by itself, which costs 1 % and keeps bfloat16 scores as they were before fusing, to the last bit.
            result: Tensor = self.projection(self.depthwise(self.expansion(maps))).add_(maps)
            return result
        deep, (row, column) = self.depthwise.forward_oversized(self.expansion(maps))
        # The projection has a sixth of the channels, so cutting is cheapest after it.
        result = self.projection(deep)[:, :, row:, column:]
        return result.contiguous(memory_format=torch.channels_last)


_ONEDNN = Fusion(Convolution, {InvertedResidual: _InvertedResidual})
