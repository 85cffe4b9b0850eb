"""A step of pretraining, in crops a second, beside the bare forward and backward passes of the same loss."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from benchmarks.gpu.report import Row
from benchmarks.gpu.steps import TYPES, NotHere, Setting, Step
from grepr_core.encoders.high_level import HighLevelEncoder, TowerConfig
from grepr_core.encoders.low_level import LowLevelEncoder
from grepr_core.pretraining.group_contrast import GroupContrast
from grepr_core.pretraining.step import Batch, Loss, TrainingStep, high_level_loss, low_level_loss

TABLE = "pretraining"
#: CLIP's RN50, and a small tower of its kind; weights are random.
RN50 = TowerConfig("RN50", [3, 4, 6, 3], 64, 32, 1024, 224, [0.48, 0.46, 0.41], [0.27, 0.26, 0.28])
TINY = TowerConfig("tiny", [1, 1, 1, 1], 8, 4, 32, 64, [0.48, 0.46, 0.41], [0.27, 0.26, 0.28])


class Training:
    """The measurements.

    Args:
        setting: What is measured on.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def steps(self) -> list[Step]:
        """Gives both stages."""
        return [
            Step(TABLE, "low level", 10, lambda given: [self.low_level(given)], least=2),
            Step(TABLE, "high level", 10, lambda given: [self.high_level(given)], least=2),
        ]

    def low_level(self, seconds: float) -> Row:
        """Times the first stage: scenes of 9 versions, seen twice."""
        scenes, versions, side = (1, 2, 64) if self._setting.quick else (4, 9, 224)
        views = torch.randint(256, (scenes, 2, versions, 3, side, side), dtype=torch.uint8)
        batch = (views, torch.rand(scenes, versions, versions).clamp_(min=0.1))
        loss = partial(low_level_loss, temperature=0.5)
        return {"stage": "low level"} | self._speeds(
            LowLevelEncoder().train(), loss, [batch] * 2, 2 * scenes * 2 * versions, seconds
        )

    def high_level(self, seconds: float) -> Row:
        """Times the second stage, with a tower of random weights."""
        crops, group, side, tower = (4, 2, 64, TINY) if self._setting.quick else (128, 16, 224, RN50)
        try:
            encoder = HighLevelEncoder(tower)
        except ImportError as error:
            raise NotHere(f"{error.name} is not installed") from error
        # Prompts of random features; without any, all photographs would tie.
        encoder.text_features.copy_(nn.functional.normalize(torch.randn(2, tower.feature_size), dim=1))
        batch = (torch.randint(256, (crops, 3, side, side), dtype=torch.uint8),)
        return {"stage": "high level"} | self._speeds(
            GroupContrast(encoder, group_size=group), high_level_loss, [batch], crops, seconds
        )

    def _speeds(self, model: nn.Module, loss: Loss, batches: Sequence[Batch], crops: int, seconds: float) -> Row:
        setting = self._setting
        precision = setting.precisions[0]
        dtype = TYPES[precision]
        model = model.to(setting.device).to(memory_format=torch.channels_last)
        pinned = [tuple(tensor.pin_memory() if setting.on_gpu else tensor for tensor in batch) for batch in batches]
        there = [tuple(tensor.to(setting.device) for tensor in batch) for batch in batches]
        # First, since a step sets up how running statistics are taken.
        bare = setting.seconds_of(_passes(model, loss, there, dtype), seconds / 2)
        step = TrainingStep(model, loss, dtype=dtype)
        whole = setting.seconds_of(lambda: step(pinned, rate=1e-6), seconds / 2)
        return {
            "precision": precision,
            "crops a step": crops,
            "bare, crops/s": crops / bare,
            "step, crops/s": crops / whole,
            "of bare": bare / whole,
        }


def _passes(model: nn.Module, loss: Loss, batches: Sequence[Batch], dtype: torch.dtype) -> Callable[[], None]:
    """Gives the bare forward and backward passes on tensors that lie on the device."""

    def run() -> None:
        model.zero_grad()
        for batch in batches:
            with torch.autocast(batch[0].device.type, dtype, enabled=dtype != torch.float32):
                value = loss(model, batch)
            value.backward()

    return run
