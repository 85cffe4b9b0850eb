"""ResNet-18 without its classifier (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016).

Modules and initial weights are torchvision's. It is defined here because importing torchvision also imports the
compiler of PyTorch, which would cost every process that scores 3 s of CPU time and 200 MB.
"""

import torch
from torch import Tensor, nn

#: Channels of the four stages.
CHANNELS = (64, 128, 256, 512)


class BasicBlock(nn.Module):
    """Two convolutions of 3x3 and a shortcut.

    Args:
        inputs: Channels that come in.
        channels: Channels that go out.
        stride: Of the first convolution.
    """

    def __init__(self, inputs: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Sequential | None = None
        if stride != 1:
            shortcut = nn.Conv2d(inputs, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(channels))

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (N, inputs, H, W) to (N, channels, ceil(H / stride), ceil(W / stride))."""
        shortcut = maps if self.downsample is None else self.downsample(maps)
        maps = self.relu(self.bn1(self.conv1(maps)))
        maps = self.bn2(self.conv2(maps))
        maps += shortcut
        activated: Tensor = self.relu(maps)
        return activated


class ResNet18(nn.Module):
    """Up to its global average pooling. Initial weights come from PyTorch's global generator.

    Attributes:
        conv1: The stem, followed by ``bn1``, ``relu`` and ``maxpool``.
        layer1: The first stage, of two blocks, as are ``layer2``, ``layer3`` and ``layer4``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, CHANNELS[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(CHANNELS[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(BasicBlock(inputs, channels, stride), BasicBlock(channels, channels))
            for inputs, channels, stride in zip((CHANNELS[0], *CHANNELS), CHANNELS, (1, 2, 2, 2), strict=False)
        )
        # What torchvision draws for the classifier, so that a seed stands for the same weights.
        nn.Linear(CHANNELS[-1], 1000)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @property
    def stages(self) -> tuple[nn.Module, ...]:
        """The four stages in their order."""
        return self.layer1, self.layer2, self.layer3, self.layer4

    def stem(self, images: Tensor) -> Tensor:
        """Maps (N, 3, H, W) to (N, 64, H/4, W/4), sides rounded up."""
        maps: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """Encodes images of any size.

        Args:
            images: (N, 3, H, W).

        Returns:
            (N, 512) features, averaged over all positions.
        """
        maps = self.stem(images)
        for stage in self.stages:
            maps = stage(maps)
        return torch.flatten(nn.functional.adaptive_avg_pool2d(maps, 1), 1)
