"""Fine-tuning the high-level encoder on photographs without ratings: stage 2 of GRepQ (arXiv 2312.04838)."""

import math
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from grepr_core.encoders.high_level import HighLevelEncoder
from grepr_core.encoders.semantic import SemanticEncoder
from grepr_core.pretraining.losses import group_contrastive_loss, select_groups
from grepr_core.zero_shot.scores import COSINE_SLOPE

BatchNormMode = Literal["eval", "train"]


class GroupContrastStep(NamedTuple):
    """What one batch gives, the same on every worker.

    Attributes:
        loss: Scalar, float32; its gradients are averaged over the workers, as DistributedDataParallel does.
        pseudo_labels: (N,) float32 in (0, 1) of the N images of all workers, by worker.
    """

    loss: Tensor
    pseudo_labels: Tensor


class GroupContrast(nn.Module):
    """The high-level encoder with the projection head that is thrown away after training, and their loss.

    The images of a batch are ranked by how much nearer the encoder puts them to the good than to the bad prompt, or, as
    an encoder without prompts needs it, by pseudo-labels that come along with them. The two ends of that ranking are
    told apart by the group contrastive loss; the images between are left out. Under ``torch.distributed`` the batch is
    that of all workers together.

    Args:
        encoder: To be trained. Text features stay as they are.
        group_size: Images in each of the two groups.
        temperature: Of the loss.
        projection_size: Length of the head's output.
        train_head: Whether the head is optimised; the authors' code leaves it as it was drawn.
        batch_norm: ``eval`` normalises by the statistics the encoder came with, ``train`` by the worker's batch, which
            also moves the running statistics, as the authors' code does.
        seed: Of the head's first weights.
        standardise: What features go through before the head; those of stages that differ in size need it.

    Attributes:
        encoder: As given.
        head: Linear layer and ReLU.
    """

    def __init__(
        self,
        encoder: HighLevelEncoder | SemanticEncoder,
        *,
        group_size: int,
        temperature: float = 0.5,
        projection_size: int = 128,
        train_head: bool = True,
        batch_norm: BatchNormMode = "eval",
        seed: int = 0,
        standardise: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.standardise = standardise or nn.Identity()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.head = nn.Sequential(nn.Linear(encoder.feature_size, projection_size), nn.ReLU())
        self.head.requires_grad_(train_head)
        self._group_size = group_size
        self._temperature = temperature
        self._batch_norm = batch_norm
        self._share: int | None = None
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Sets the mode of all but a batch normalisation that is to keep its statistics."""
        super().train(mode)
        # Nothing else in the encoder depends on the mode.
        self.encoder.train(mode and self._batch_norm == "train")
        return self

    def forward(self, images: Tensor, labels: Tensor | None = None) -> GroupContrastStep:
        """Ranks the images of all workers and compares the groups.

        Args:
            images: (n, 3, H, W) float32 RGB in [0, 1], under ``torch.distributed`` as many on every worker and in every
                batch.
            labels: (n,) float32 pseudo-labels of the images; the encoder's own opinion by default.

        Returns:
            The loss and the pseudo-labels.

        Raises:
            ValueError: Two groups cannot be had from so few images, the workers' numbers of images differ, or an
                encoder without prompts is given no labels.
        """
        if _workers() > 1:
            self._check_share(images)
        # Where normalisation does not depend on the batch, only the few images of the two groups need a gradient, and
        # are encoded again for it: a third of the arithmetic, and a fraction of the memory.
        features: Tensor | None = None
        if labels is None or self.encoder.training:
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.encoder.training):
                features = self.encoder(images)
        if labels is None:
            assert features is not None
            labels = self.pseudo_labels(features.detach())
        labels = _gathered(labels)
        chosen = torch.cat(select_groups(labels, self._group_size))
        if _workers() > 1:
            rows = self._rows_of_all(images, features, chosen)
        else:
            rows = self._projections(images, features, chosen)
        low, high = rows[: self._group_size], rows[self._group_size :]
        return GroupContrastStep(group_contrastive_loss(low, high, temperature=self._temperature), labels)

    def _projections(self, images: Tensor, features: Tensor | None, place: Tensor) -> Tensor:
        """Encodes some images for the loss, (N, projection size) float32."""
        seen = features[place] if features is not None and self.encoder.training else self.encoder(images[place])
        projections: Tensor = self.head(self.standardise(seen))
        return projections.float()

    def _rows_of_all(self, images: Tensor, features: Tensor | None, chosen: Tensor) -> Tensor:
        """Encodes the chosen images that are this worker's, perhaps none, and gives those of all workers."""
        place = chosen - dist.get_rank() * len(images)
        # Here the processor waits for the device once a step, since how many there are is known there alone. To encode
        # a fixed number would spare the wait, but cost up to as many times the arithmetic as there are workers.
        here = ((place >= 0) & (place < len(images))).nonzero()[:, 0]
        projections = self._projections(images, features, place[here])
        rows = projections.new_zeros(len(chosen), projections.shape[1]).index_copy(0, here, projections)
        total: Tensor = _Sum.apply(rows)
        return total

    def _check_share(self, images: Tensor) -> None:
        """Refuses a number of images that is not the same on all workers, who would wait for each other for ever."""
        if self._share is None:
            counts = _gathered(torch.tensor([len(images)], device=images.device)).tolist()
            if len(set(counts)) > 1:
                raise ValueError(f"the workers have {counts} images of a batch; each must have as many")
            self._share = len(images)
        if len(images) != self._share:
            raise ValueError(
                f"{len(images)} images of a batch after {self._share}; a worker must have as many in every batch"
            )

    def pseudo_labels(self, features: Tensor) -> Tensor:
        """Gives the encoder's own opinion of images: sigmoid(10 (cos_good - cos_bad)).

        Args:
            features: (N, D) of the encoder.

        Returns:
            (N,) float32 in (0, 1), higher is better.

        Raises:
            ValueError: The encoder has no prompts.
        """
        if isinstance(self.encoder, SemanticEncoder):
            raise ValueError("an encoder without prompts has no opinion of its own; give pseudo-labels")
        good, bad = self.encoder.quality_cosines(features).unbind(dim=1)
        return torch.sigmoid(COSINE_SLOPE * (good - bad))


class Standardisation(nn.Module):
    """Shifts and divides features, so that each block of them has variance 1 in all over some images.

    Args:
        encoder: Whose features.
        images: (M, 3, H, W) float32 RGB in [0, 1] each, a few at a time.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, encoder: SemanticEncoder, images: Iterable[Tensor]) -> None:
        super().__init__()
        with torch.no_grad():
            deviation, mean = torch.std_mean(torch.cat([encoder(batch) for batch in images]), dim=0, correction=0)
        lengths = torch.tensor(encoder.feature_blocks)
        self.register_buffer("mean", mean)
        # What does not vary is left as large as it is.
        varying = torch.where(deviation > 1e-6 * mean.abs().clamp(min=1e-6), deviation, 1.0)
        self.register_buffer("scale", varying * lengths.sqrt().repeat_interleave(lengths))

    def forward(self, features: Tensor) -> Tensor:
        """Standardises (N, D) features."""
        return (features - self.mean) / self.scale


def centre_crop(rgb: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Cuts the middle square out of an image; one that is too small is enlarged first, keeping its aspect.

    Args:
        rgb: (H, W, 3) uint8.
        side: Of the square, in pixels.

    Returns:
        (side, side, 3) uint8, contiguous.
    """
    height, width = rgb.shape[:2]
    if min(height, width) < side:
        scale = side / min(height, width)
        height, width = (max(side, math.floor(length * scale)) for length in (height, width))
        rgb = np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BICUBIC))
    top, left = (height - side) // 2, (width - side) // 2
    return np.ascontiguousarray(rgb[top : top + side, left : left + side])


def _workers() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _gathered(values: Tensor) -> Tensor:
    """Joins the workers' values (n,) to (workers * n,), without gradient."""
    if _workers() == 1:
        return values
    parts = [torch.empty_like(values) for _ in range(_workers())]
    dist.all_gather(parts, values.contiguous())
    return torch.cat(parts)


class _Sum(torch.autograd.Function):
    """Sum over workers that all compute the same loss from it.

    The gradient of the sum of their losses is then each one's own gradient times their number, which the mean over
    workers that follows takes out again.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:  # noqa: ANN401 - torch's own type is private
        total = rows.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401
        return gradient * dist.get_world_size()
