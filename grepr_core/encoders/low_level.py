"""The low-level encoder, which sees distortions, and the fragments of photographs it is trained on."""

from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from grepr_core.encoders.resnet18 import CHANNELS, ResNet18
from grepr_core.encoders.statistics import MapStatistics

FrameFeatures = Literal["head", "stages", "first_stage", "none"]
#: Length of the statistics of each stage.
STAGE_BLOCKS = tuple(2 * channels for channels in CHANNELS)


class LowLevelEncoder(nn.Module):
    """ResNet-18 trained from scratch with the quality-aware contrastive loss, and its projection head.

    Images enter as RGB in [0, 1], not standardised: contrast and brightness are what the encoder has to see.
    Any height and width from 32 pixels will do.

    Args:
        seed: Decides the initial weights. PyTorch's global random state is left alone.
        frame_features: What describes a whole photograph to the regressor: the output of the ``head``, as in the
            published code; or mean and standard deviation of the feature maps of all four ``stages``, or of the
            ``first_stage`` alone, which costs a third and leaves more to a high-level encoder beside it. With ``none``
            the encoder is for zero-shot scores only.

    Attributes:
        feature_size: 128, the length of the head's output.
        frame_features: As given.
        encoder: ResNet-18 up to its global average pooling.
        head: 512 -> 512 -> ReLU -> 128.
    """

    feature_size = 128

    def __init__(self, seed: int = 0, *, frame_features: FrameFeatures = "head") -> None:
        super().__init__()
        self.frame_features = frame_features
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would seed the accelerators as well, which the fork does not put back.
            torch.default_generator.manual_seed(seed)
            self.encoder = ResNet18()
            self.statistics = MapStatistics()
            self.head = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 128))

    def features(self, images: Tensor) -> Tensor:
        """Encodes images without the head.

        Args:
            images: (N, 3, H, W) float32 RGB in [0, 1].

        Returns:
            (N, 512) float32 globally average-pooled features.
        """
        features: Tensor = self.encoder(images.to(self.encoder.conv1.weight.dtype))
        return features.float()

    def forward(self, images: Tensor) -> Tensor:
        """Encodes images as the published evaluation does, for zero-shot scores and regressor alike.

        Args:
            images: (N, 3, H, W) float32 RGB in [0, 1].

        Returns:
            (N, 128) float32 output of the head.
        """
        projections: Tensor = self.head(self.features(images).to(self.encoder.conv1.weight.dtype))
        return projections.float()

    @property
    def feature_blocks(self) -> tuple[int, ...]:
        """Lengths of the blocks of frame features: one, or that of each stage, means followed by deviations."""
        return {"head": (self.feature_size,), "stages": STAGE_BLOCKS, "first_stage": STAGE_BLOCKS[:1], "none": ()}[
            self.frame_features
        ]

    def encode_frames(self, images: Tensor) -> Tensor:
        """Encodes whole photographs for the regressor.

        Args:
            images: (N, 3, H, W) float32 RGB in [0, 1].

        Returns:
            (N, sum of ``feature_blocks``) float32 features; there must be some.
        """
        if self.frame_features == "head":
            projections: Tensor = self(images)
            return projections
        maps = self.encoder.stem(images.to(self.encoder.conv1.weight.dtype))
        statistics = []
        for stage in self.encoder.stages[: len(self.feature_blocks)]:
            maps = stage(maps)
            statistics.append(self.statistics(maps))
        return torch.cat(statistics, dim=1)


def fragments(versions: Tensor, *, grid: int = 7, cell: int = 32, generator: torch.Generator | None = None) -> Tensor:
    """Cuts a mosaic of unscaled fragments (FAST-VQA) from the same places of all versions of a scene.

    The picture is divided into ``grid`` x ``grid`` cells that cover it entirely. From each comes one square
    of ``cell`` pixels, placed uniformly at random, every row and column within reach. Pictures whose shorter
    side is below ``grid * cell`` are enlarged bilinearly to that length first.

    Args:
        versions: (D, 3, H, W) RGB of one scene, integer or floating point.
        grid: Cells along each side.
        cell: Side of a fragment in pixels.
        generator: A CPU generator that makes the draw repeatable; the global one if None.

    Returns:
        (D, 3, grid * cell, grid * cell), dtype and value range of ``versions``.
    """
    versions = _enlarged(versions, side=grid * cell)
    height, width = versions.shape[-2:]
    top, vertical_room = _cells(height, grid, cell)
    left, horizontal_room = _cells(width, grid, cell)
    # In float64 the product below rounds to less than the room, whatever the draw.
    draw = torch.rand(2, grid, grid, dtype=torch.float64, generator=generator)
    rows = (top[:, None] + (draw[0] * vertical_room[:, None]).long()).tolist()
    columns = (left + (draw[1] * horizontal_room).long()).tolist()

    mosaic = versions.new_empty(*versions.shape[:2], grid * cell, grid * cell)
    # Slices copy whole rows of a fragment, ten times as fast as gathering pixels by index.
    for i in range(grid):
        for j in range(grid):
            y, x = rows[i][j], columns[i][j]
            fragment = versions[..., y : y + cell, x : x + cell]
            mosaic[..., i * cell : (i + 1) * cell, j * cell : (j + 1) * cell] = fragment
    return mosaic


def contrastive_views(
    versions: Tensor,
    *,
    grid: int = 7,
    cell: int = 32,
    flip_probability: float = 0.5,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Draws the anchor and the augmented view of a scene for the quality-aware contrastive loss.

    Both are independent draws of :func:`fragments`. The augmented view is mirrored left to right and, independently,
    top to bottom, all versions alike.

    Args:
        versions: (D, 3, H, W) RGB of one scene, integer or floating point.
        grid: Cells along each side.
        cell: Side of a fragment in pixels.
        flip_probability: Of each mirroring.
        generator: A CPU generator that makes the draws repeatable; the global one if None.

    Returns:
        Anchor and augmented view, each (D, 3, grid * cell, grid * cell) with the dtype and value range of ``versions``.
    """
    anchor = fragments(versions, grid=grid, cell=cell, generator=generator)
    augmented = fragments(versions, grid=grid, cell=cell, generator=generator)
    mirrored = torch.rand(2, generator=generator) < flip_probability
    axes = [axis for axis, flip in zip((-1, -2), mirrored.tolist(), strict=True) if flip]
    return anchor, augmented.flip(axes)


def _enlarged(images: Tensor, side: int) -> Tensor:
    """Enlarges images whose shorter side is below ``side`` to that length; leaves others alone."""
    height, width = images.shape[-2:]
    shorter = min(height, width)
    if shorter >= side:
        return images
    size = (round(height * side / shorter), round(width * side / shorter))
    pixels = images if images.is_floating_point() else images.float()
    enlarged = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False)
    return enlarged if images.is_floating_point() else enlarged.round().to(images.dtype)


def _cells(length: int, grid: int, cell: int) -> tuple[Tensor, Tensor]:
    """First pixel of each cell along one side and how many places a fragment has within it, both (grid,)."""
    edges = torch.arange(grid + 1) * length // grid
    return edges[:-1], edges.diff() - cell + 1
