"""A step of training either stage: micro-batches, losses, shared gradients. It needs neither Ray nor files.

To run it on random pixels, as a benchmark may::

    low = LowLevelEncoder().train().to("cuda").to(memory_format=torch.channels_last)
    views = torch.randint(256, (4, 2, 9, 3, 224, 224), dtype=torch.uint8)
    step = TrainingStep(low, partial(low_level_loss, temperature=0.5), dtype=torch.bfloat16)
    step([(views, torch.rand(4, 9, 9))] * 2, rate=1e-4)  # 8 scenes, seen twice: 144 crops

    high = GroupContrast(encoder, group_size=4).to("cuda").to(memory_format=torch.channels_last)
    crops = torch.randint(256, (128, 3, 224, 224), dtype=torch.uint8)
    TrainingStep(high, high_level_loss, dtype=torch.bfloat16)([(crops,)], rate=1e-6)
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from grepr_core.pretraining.batch_norm import RunningStatistics
from grepr_core.pretraining.losses import quality_aware_contrastive_loss

#: Stacked examples of one forward pass.
Batch = tuple[Tensor, ...]
#: Loss of the model on a batch that lies on its device, a scalar.
Loss = Callable[[nn.Module, Batch], Tensor]


class TrainingStep:
    """Optimises a model step by step. Nothing in a step makes the processor wait for the model's device.

    Args:
        model: To be trained, on its device, channels-last and in its mode; of its parameters those that require
            gradients are trained. Where there are several workers, it is wrapped by ``DistributedDataParallel`` with
            ``broadcast_buffers=False``, since running statistics are kept equal here.
        loss: Of a micro-batch; called under autocast where ``dtype`` is not float32. The loss of a step is the mean
            over its micro-batches.
        dtype: What the model computes in.
        weight_decay: Of AdamW, which without it is Adam.

    Attributes:
        optimizer: Of the model; load its state before the first step.
    """

    def __init__(self, model: nn.Module, loss: Loss, *, dtype: torch.dtype, weight_decay: float = 0.0) -> None:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=weight_decay)
        self._model, self._loss, self._dtype = model, loss, dtype
        self._device = trained[0].device
        self._statistics = RunningStatistics(model)

    def __call__(self, batches: Sequence[Batch], rate: float) -> Tensor:
        """Makes a step.

        Args:
            batches: This worker's micro-batches, as many on every worker; on the CPU or the model's device.
            rate: The learning rate.

        Returns:
            Mean loss over all workers' micro-batches: a scalar on the model's device, float32, without gradient.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        total = torch.zeros((), device=self._device)
        with self._statistics.step():
            for number, batch in enumerate(batches, start=1):
                tensors = tuple(tensor.to(self._device, non_blocking=True) for tensor in batch)
                with self._shared_gradients(number == len(batches)):
                    with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
                        loss = self._loss(self._model, tensors) / len(batches)
                    loss.backward()  # type: ignore[no-untyped-call]
                total += loss.detach()
        self.optimizer.step()
        if dist.is_initialized():
            dist.all_reduce(total)
            total /= dist.get_world_size()
        return total

    def _shared_gradients(self, share: bool) -> contextlib.AbstractContextManager[Any]:
        """Averages the gradients of all workers in the last backward pass of a step only."""
        if share or not isinstance(self._model, DistributedDataParallel):
            return contextlib.nullcontext()
        return self._model.no_sync()


def low_level_loss(model: nn.Module, batch: Batch, *, temperature: float, separate_views: bool = False) -> Tensor:
    """Computes the quality-aware contrastive loss of some scenes.

    Args:
        model: :class:`LowLevelEncoder`, wrapped or not.
        batch: Views (B, 2, D, 3, side, side) uint8 of B scenes, anchor and augmented, and the similarity of their
            versions, (B, D, D) float32.
        temperature: Of the loss.
        separate_views: Whether anchors and augmented views pass through the model, and its batch normalisation, one
            after the other, as in the authors' code, and not together.

    Returns:
        A scalar, float32.
    """
    views, similarity = batch
    if separate_views:
        anchors, augmented = (_features(model, views[:, view]) for view in range(2))
    else:
        anchors, augmented = _features(model, views).unbind(1)
    return quality_aware_contrastive_loss(anchors, augmented, similarity, temperature=temperature)


def _features(model: nn.Module, views: Tensor) -> Tensor:
    """Encodes views (..., 3, side, side) uint8 in one forward pass, (..., C)."""
    features: Tensor = model(as_images(views.flatten(0, -4)))
    return features.reshape(*views.shape[:-3], -1)


def high_level_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Computes the group contrastive loss over the crops of all workers.

    Args:
        model: :class:`GroupContrast`, wrapped or not.
        batch: Crops (n, 3, side, side) uint8, alone or with their pseudo-labels (n,) float32.

    Returns:
        A scalar, float32.
    """
    crops, *labels = batch
    loss: Tensor = model(as_images(crops), *labels).loss
    return loss


def as_images(crops: Tensor) -> Tensor:
    """Turns crops (N, 3, H, W) uint8 into float32 RGB in [0, 1], channels-last, as the encoders take them."""
    return crops.contiguous(memory_format=torch.channels_last).float() / 255
