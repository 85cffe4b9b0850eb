"""A stage of training that takes no time: a small network with batch normalisation learns the colour of noise."""

import os
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from grepr_core.pretraining.step import Batch
from grepr_core.storage import Folder
from pipelines.options import TrainingOptions
from pipelines.pretraining.training import Stage, generator, train

OPTIONS = TrainingOptions(
    output="", epochs=3, batch=4, learning_rate=0.01, precision="fp32", num_workers=0, checkpoint_steps=2
)


@dataclass(frozen=True)
class TinyStage(Stage):
    """Attributes beside those of :class:`Stage`.

    power: Of the error that is the loss.
    dies_at: Epoch and example at which the process kills itself, the first time it comes there.
    mark: File that tells that it has been there.
    """

    name: str = "tiny"
    examples: int = 26
    images_per_example: int = 1
    micro_batch: int | None = 2
    power: int = 2
    dies_at: tuple[int, int] | None = None
    mark: str = ""

    def settings(self) -> dict[str, Any]:
        return {"power": self.power}

    def build(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            convolution, norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
            return nn.Sequential(convolution, norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))

    def example(self, epoch: int, index: int) -> Batch:
        if (epoch, index) == self.dies_at and not Path(self.mark).exists():
            Path(self.mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        rng = generator(0, epoch, index)
        colour = torch.rand(3, 1, 1, generator=rng)
        return (colour * torch.rand(3, 16, 16, generator=rng), colour.flatten())

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        images, colour = batch
        return (model(images) - colour).abs().pow(self.power).mean()

    def validate(self, module: nn.Module, dtype: torch.dtype) -> dict[str, float]:
        with torch.inference_mode():
            module.eval()
            answer = module(torch.linspace(0, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)).sum().item()
            module.train()
        return {"answer": answer}

    def save(self, module: nn.Module, output: Folder) -> None:
        output.write("tiny.safetensors", save({k: v.contiguous() for k, v in module.state_dict().items()}))
        output.write("writer.txt", str(os.getpid()).encode())


if __name__ == "__main__":
    output, mark = sys.argv[1:]
    train(TinyStage(dies_at=(1, 7), mark=mark), replace(OPTIONS, output=output))
