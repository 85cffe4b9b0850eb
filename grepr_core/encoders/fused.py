"""Networks on the CPU with activations and sums inside their convolutions, by oneDNN.

Eager PyTorch runs every activation as a pass over memory of its own, and copies maps to pad them unevenly. Together
that takes a fifth of the time of a small network. ``torch.compile`` would fuse the same, but needs a C++ compiler on
every machine and a minute at the start of every process.
"""

import sys
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from grepr_core.encoders.efficientnet_lite0 import InvertedResidual, SameConv2d, same_padding
from grepr_core.encoders.resnet18 import BasicBlock

Activation = Literal["none", "relu", "relu6"]
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
    blocks = _blocks()
    previous: Convolution | None = None
    for name, child in list(module.named_children()):
        block = blocks.get(type(child))
        if block is not None:
            setattr(module, name, block(child))
        elif isinstance(child, nn.Conv2d):
            previous = Convolution(child)
            setattr(module, name, previous)
            continue
        elif isinstance(child, nn.Identity):
            continue  # A folded batch normalisation between a convolution and its activation.
        elif previous is not None and (activation := _activation(child)) != "none":
            # Outside of the residual blocks, children follow one another in the order in which they run.
            previous.activation = activation
            setattr(module, name, nn.Identity())
        else:
            fuse(child)
        previous = None


class Convolution(nn.Module):
    """A convolution and what follows it.

    Its weights stay as they are: oneDNN's order for them depends on the size of the image, and bringing them from one
    order into another takes longer than from PyTorch's, which costs 2 ms of EfficientNet-Lite0's 40.

    Args:
        convolution: With zeros as padding, fixed or as TensorFlow's ``SAME``.
        activation: What follows.

    Attributes:
        activation: As given.
        weight: Of the convolution.
        bias: Of the convolution, None where it has none.
    """

    def __init__(self, convolution: nn.Module, activation: Activation = "none") -> None:
        super().__init__()
        assert isinstance(convolution, nn.Conv2d)
        assert convolution.padding_mode == "zeros"
        assert not isinstance(convolution.padding, str)
        self.activation = activation
        self._same = isinstance(convolution, SameConv2d)
        self._padding = list(convolution.padding)
        self._geometry = (list(convolution.stride), list(convolution.dilation), convolution.groups)
        self._kernel = list(convolution.kernel_size)
        self.weight = convolution.weight
        self.bias = convolution.bias

    def forward(self, maps: Tensor, added: Tensor | None = None) -> Tensor:
        """Convolves, adds and activates.

        Args:
            maps: (N, C, H, W) channels-last, of the type of the weights.
            added: Added before the activation; of the shape of the result.

        Returns:
            (N, C', H', W').
        """
        if self._same:
            rows, columns = (self.same_padding(length, axis) for axis, length in enumerate(maps.shape[2:]))
            maps = F.pad(maps, (*columns, *rows))
        return self._convolve(maps, self._padding, added)

    def same_padding(self, length: int, axis: int) -> tuple[int, int]:
        """Gives the zeros that TensorFlow adds before and after a side of some length, (0, 0) if it is not ``SAME``."""
        if not self._same:
            return 0, 0
        return same_padding(length, self._kernel[axis], self._geometry[0][axis])

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
        strides = self._geometry[0]
        fixed = [
            own + before + stride * extra
            for own, (before, _), stride, extra in zip(self._padding, paddings, strides, excess, strict=True)
        ]
        return self._convolve(maps, fixed, None), excess

    def _convolve(self, maps: Tensor, padding: list[int], added: Tensor | None) -> Tensor:
        activation, scalars = _POST_OPERATIONS[self.activation]
        convolve: Any = torch.ops.mkldnn._convolution_pointwise
        where = (self.weight, self.bias, padding, *self._geometry)
        result: Tensor
        if added is None:
            result = convolve(maps, *where, activation, scalars, "")
        else:
            unary = None if self.activation == "none" else activation
            result = convolve.binary(maps, added, *where, "add", 1.0, unary, scalars, "")
        return result


class _ResidualPair(nn.Module):
    """ResNet-18's block."""

    def __init__(self, block: BasicBlock) -> None:
        super().__init__()
        self.first = Convolution(block.conv1, "relu")
        self.second = Convolution(block.conv2, "relu")
        self.shortcut = Convolution(block.downsample[0]) if block.downsample is not None else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        result: Tensor = self.second(self.first(maps), self.shortcut(maps))
        return result


class _ResidualBottleneck(nn.Module):
    """The block of CLIP's ResNets."""

    def __init__(self, block: Any) -> None:  # noqa: ANN401 - open_clip's Bottleneck
        super().__init__()
        self.first = Convolution(block.conv1, "relu")
        self.second = Convolution(block.conv2, "relu")
        self.pool = block.avgpool
        self.third = Convolution(block.conv3, "relu")
        self.shortcut = block.downsample if block.downsample is not None else nn.Identity()
        fuse(self.shortcut)

    def forward(self, maps: Tensor) -> Tensor:
        result: Tensor = self.third(self.pool(self.second(self.first(maps))), self.shortcut(maps))
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


def _activation(module: nn.Module) -> Activation:
    return "relu" if isinstance(module, nn.ReLU) else "relu6" if isinstance(module, nn.ReLU6) else "none"


def _blocks() -> dict[type[nn.Module], type[nn.Module]]:
    blocks: dict[type[nn.Module], type[nn.Module]] = {BasicBlock: _ResidualPair, InvertedResidual: _InvertedResidual}
    # Only CLIP's towers need it, and importing it takes a second.
    if (towers := sys.modules.get("open_clip.modified_resnet")) is not None:
        blocks[towers.Bottleneck] = _ResidualBottleneck
    return blocks
