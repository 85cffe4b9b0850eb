"""The score as a metric of PyTorch, as those of pyiqa are."""

import os
from typing import Any

import torch
from torch import Tensor, nn

from grepr.scorer import load
from grepr_core.decoding.pixels import OVERSHOOT


class Metric(nn.Module):
    """Scores batches of images that a program has as tensors, such as those that a network restored.

    ```python
    metric = grepr.Metric()
    metric(torch.rand(4, 3, 256, 256))  # 4 scores
    ```

    There are no gradients, since images are scored as files of 8 bits: it measures, and is no loss.

    Attributes:
        lower_better: False, as metrics of pyiqa say it.
    """

    lower_better = False

    def __init__(self, model: str | os.PathLike[str] = "grepr-lite", **options: Any) -> None:  # noqa: ANN401
        """Loads the model.

        Args:
            model: As :func:`grepr.load` takes it.
            **options: Likewise; ``device`` says where the model runs, whatever device the images are on.
        """
        super().__init__()
        self.scorer = load(model, **options)

    def forward(self, images: Tensor) -> Tensor:
        """Scores images.

        Args:
            images: (N, 3, H, W) or (N, 1, H, W) in [0, 1], or uint8. Values up to 0.25 outside, as networks make them,
                are clamped, as they are when the images are saved.

        Returns:
            (N,) float32 on the device of the images; higher is better.

        Raises:
            ValueError: The images are of another shape or range, or cannot be scored; says why.
        """
        if images.ndim != 4:
            raise ValueError(f"a batch is N x 3 x H x W, not {' x '.join(map(str, images.shape))}")
        if images.is_floating_point() and images.numel():
            lowest, highest = images.aminmax()
            if lowest >= -OVERSHOOT and highest <= 1 + OVERSHOOT:
                images = images.clamp(0, 1)
        rows = list(self.scorer.stream(images))
        for index, row in enumerate(rows):
            if row.score is None:
                raise ValueError(f"image {index} has no score: {row.error}")
        return torch.tensor([row.score for row in rows], dtype=torch.float32, device=images.device)
