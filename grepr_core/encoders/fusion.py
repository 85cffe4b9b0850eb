"""Networks with activations and sums inside their convolutions: what devices have in common.

Eager PyTorch runs every activation as a pass over memory of its own. A network is gone through once, and its
convolutions and blocks are replaced by those of a device, :mod:`~grepr_core.encoders.fused_cpu` or
:mod:`~grepr_core.encoders.fused_gpu`.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from grepr_core.encoders.efficientnet_lite0 import SameConv2d, same_padding
from grepr_core.encoders.resnet18 import BasicBlock

Activation = Literal["none", "relu", "relu6"]


def fold_batch_norm(module: nn.Module) -> None:
    """Folds batch normalisation into the convolutions before it, in place.

    Args:
        module: In evaluation mode.
    """
    previous: tuple[str, nn.Module] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and previous and isinstance(previous[1], nn.Conv2d):
            setattr(module, previous[0], fuse_conv_bn_eval(previous[1], child))
            setattr(module, name, nn.Identity())
        else:
            fold_batch_norm(child)
        previous = (name, child)


class FusedConvolution(nn.Module):
    """A convolution and what follows it.

    Args:
        convolution: One of PyTorch's, with zeros as padding, fixed or as TensorFlow's ``SAME``.
        activation: What follows.

    Attributes:
        activation: As given.
        weight: Of the convolution.
        bias: Of the convolution, None where it has none.
        padding: Zeros before and after, along each axis; 0 where it is ``SAME``.
        geometry: Stride and dilation along each axis, and groups.
    """

    def __init__(self, convolution: nn.Module, activation: Activation = "none") -> None:
        super().__init__()
        assert isinstance(convolution, nn.Conv2d)
        assert convolution.padding_mode == "zeros"
        assert not isinstance(convolution.padding, str)
        self.activation = activation
        self.weight = convolution.weight
        self.bias = convolution.bias
        self.padding = list(convolution.padding)
        self.geometry = (list(convolution.stride), list(convolution.dilation), convolution.groups)
        self._same = isinstance(convolution, SameConv2d)
        self._kernel = list(convolution.kernel_size)

    def same_padding(self, length: int, axis: int) -> tuple[int, int]:
        """Gives the zeros that TensorFlow adds before and after a side of some length, (0, 0) if it is not ``SAME``."""
        if not self._same:
            return 0, 0
        return same_padding(length, self._kernel[axis], self.geometry[0][axis])

    def padded(self, maps: Tensor) -> Tensor:
        """Gives maps with the zeros of ``SAME`` around them."""
        if not self._same:
            return maps
        rows, columns = (self.same_padding(length, axis) for axis, length in enumerate(maps.shape[2:]))
        return F.pad(maps, (*columns, *rows))

    def forward(self, maps: Tensor, added: Tensor | None = None) -> Tensor:
        """Convolves, adds and activates.

        Args:
            maps: (N, C, H, W) channels-last, of the type of the weights.
            added: Added before the activation; of the shape of the result.

        Returns:
            (N, C', H', W').
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Fusion:
    """How the networks are fused on one kind of device.

    Attributes:
        convolution: Makes a fused convolution of one of PyTorch's and an activation.
        blocks: Makes whole blocks, by their type, where a device has a way of its own.
    """

    convolution: Callable[[nn.Module, Activation], FusedConvolution]
    blocks: Mapping[type[nn.Module], Callable[[Any], nn.Module]]

    def fuse(self, module: nn.Module) -> None:
        """Replaces convolutions, the activations after them and blocks within a network, in place.

        The function stays the same up to rounding: a sum is rounded once, after its activation, where it was rounded
        twice. The network can be neither moved, converted, trained nor saved any more.

        Args:
            module: In evaluation mode, batch normalisation folded, on its device, channels-last.
        """
        blocks = self._all_blocks()
        previous: FusedConvolution | None = None
        for name, child in list(module.named_children()):
            block = blocks.get(type(child))
            if block is not None:
                setattr(module, name, block(child))
            elif isinstance(child, nn.Conv2d):
                previous = self.convolution(child, "none")
                setattr(module, name, previous)
                continue
            elif isinstance(child, nn.Identity):
                continue  # A folded batch normalisation between a convolution and its activation.
            elif previous is not None and (activation := _activation(child)) != "none":
                # Outside of the residual blocks, children follow one another in the order in which they run.
                previous.activation = activation
                setattr(module, name, nn.Identity())
            else:
                self.fuse(child)
            previous = None

    def _all_blocks(self) -> dict[type[nn.Module], Callable[[Any], nn.Module]]:
        blocks: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
            BasicBlock: lambda block: _ResidualPair(block, self),
            **self.blocks,
        }
        # Only CLIP's towers need it, and importing it takes a second.
        if (towers := sys.modules.get("open_clip.modified_resnet")) is not None:
            blocks[towers.Bottleneck] = lambda block: _ResidualBottleneck(block, self)
        return blocks


class _ResidualPair(nn.Module):
    """ResNet-18's block."""

    def __init__(self, block: BasicBlock, fusion: Fusion) -> None:
        super().__init__()
        self.first = fusion.convolution(block.conv1, "relu")
        self.second = fusion.convolution(block.conv2, "relu")
        self.shortcut = (
            fusion.convolution(block.downsample[0], "none") if block.downsample is not None else nn.Identity()
        )

    def forward(self, maps: Tensor) -> Tensor:
        result: Tensor = self.second(self.first(maps), self.shortcut(maps))
        return result


class _ResidualBottleneck(nn.Module):
    """The block of CLIP's ResNets."""

    def __init__(self, block: Any, fusion: Fusion) -> None:  # noqa: ANN401 - open_clip's Bottleneck
        super().__init__()
        self.first = fusion.convolution(block.conv1, "relu")
        self.second = fusion.convolution(block.conv2, "relu")
        self.pool = block.avgpool
        self.third = fusion.convolution(block.conv3, "relu")
        self.shortcut = block.downsample if block.downsample is not None else nn.Identity()
        fusion.fuse(self.shortcut)

    def forward(self, maps: Tensor) -> Tensor:
        result: Tensor = self.third(self.pool(self.second(self.first(maps))), self.shortcut(maps))
        return result


def _activation(module: nn.Module) -> Activation:
    return "relu" if isinstance(module, nn.ReLU) else "relu6" if isinstance(module, nn.ReLU6) else "none"
