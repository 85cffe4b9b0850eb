"""EfficientNet-Lite0 without its classifier, as TensorFlow defines it (Tan and Le, ICML 2019; without its gates).

It is defined here because importing timm also imports the compiler of PyTorch, see :mod:`grepr_core.encoders.resnet18`.
"""

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

#: Blocks, kernel, stride of the first block, expansion and channels of each stage.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM, _HEAD = 32, 1280


def same_padding(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """Gives the zeros that TensorFlow's ``SAME`` adds before and after a side of some length."""
    total = max(0, (-(-length // stride) - 1) * stride + kernel - length)
    return total // 2, total - total // 2


class SameConv2d(nn.Conv2d):
    """A convolution padded as by TensorFlow's ``SAME``, which adds more after than before where it must."""

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, C', ceil(H / stride), ceil(W / stride))."""
        rows, columns = (
            same_padding(length, kernel, stride)
            for length, kernel, stride in zip(maps.shape[2:], self.kernel_size, self.stride, strict=True)
        )
        return super().forward(F.pad(maps, (*columns, *rows)))


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution and projection.

    Attributes:
        expansion: Of each position, with an activation; the identity where there is no expansion.
        depthwise: With an activation.
        projection: Without one.
        has_skip: Whether what came in is added.
    """

    def __init__(self, inputs: int, channels: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expansion = _convolution(inputs, wide) if expansion > 1 else nn.Identity()
        self.depthwise = _convolution(wide, wide, kernel, stride, groups=wide)
        self.projection = _convolution(wide, channels, activated=False)
        self.has_skip = stride == 1 and inputs == channels

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (N, inputs, H, W) to (N, channels, ceil(H / stride), ceil(W / stride))."""
        projected: Tensor = self.projection(self.depthwise(self.expansion(maps)))
        return projected + maps if self.has_skip else projected


class EfficientNetLite0(nn.Module):
    """Up to its last feature maps.

    Attributes:
        stem: Halves the sides.
        stages: Seven, of one to four blocks.
        head: 1,280 channels, at a 32nd of the sides.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = _convolution(3, _STEM, kernel=3, stride=2)
        self.stages = nn.ModuleList()
        inputs = _STEM
        for blocks, kernel, stride, expansion, channels in _STAGES:
            stage = nn.Sequential()
            for block in range(blocks):
                shape = {"kernel": kernel, "stride": 1 if block else stride, "expansion": expansion}
                stage.append(InvertedResidual(inputs, channels, **shape))
                inputs = channels
            self.stages.append(stage)
        self.head = _convolution(inputs, _HEAD)


def _convolution(
    inputs: int, channels: int, kernel: int = 1, stride: int = 1, *, groups: int = 1, activated: bool = True
) -> nn.Sequential:
    if stride > 1:
        convolution: nn.Conv2d = SameConv2d(inputs, channels, kernel, stride, groups=groups, bias=False)
    else:
        convolution = nn.Conv2d(inputs, channels, kernel, padding=kernel // 2, groups=groups, bias=False)
    activation = [nn.ReLU6(inplace=True)] if activated else []
    return nn.Sequential(convolution, nn.BatchNorm2d(channels, eps=1e-3), *activation)
