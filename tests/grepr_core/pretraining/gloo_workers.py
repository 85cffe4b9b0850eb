"""What each of some workers on gloo does; imports little, since every one of them does it anew."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from grepr_core.pretraining.group_contrast import GroupContrast

GROUP = 2
SIDE = 16
#: Where a worker died, the others end.
TIMEOUT = timedelta(minutes=2)


class TinyEncoder(nn.Module):
    """Stands for the high-level encoder, with batch normalisation and opinions of images.

    Args:
        parts: Of a batch, which are normalised each by itself, as those of several workers are.
    """

    feature_size = 8

    def __init__(self, parts: int) -> None:
        super().__init__()
        self._parts = parts
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(4)
            self.stem, self.norm, self.last = nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.Linear(8, 8)
            self.register_buffer("prompts", torch.randn(2, 8))

    def forward(self, images: Tensor) -> Tensor:
        maps = torch.cat([self.norm(self.stem(part)) for part in images.chunk(self._parts)])
        features: Tensor = self.last(maps.relu().mean(dim=(2, 3)))
        return features

    def quality_cosines(self, features: Tensor) -> Tensor:
        return torch.cosine_similarity(features[:, None], self.prompts, dim=-1)


def group_contrast(batch_norm: str, parts: int = 1) -> GroupContrast:
    return GroupContrast(TinyEncoder(parts), group_size=GROUP, batch_norm=batch_norm, projection_size=16)


def outcome(model: nn.Module, images: Tensor, *, labelled: bool = False) -> dict[str, Any]:
    """Gives loss, pseudo-labels and gradients of a batch, the mean over the workers where there are some.

    Where they are labelled, it is by their brightness.

    DistributedDataParallel takes the same mean, but imports PyTorch's compiler.
    """
    step = model(images, images.mean(dim=(1, 2, 3)) if labelled else None)
    step.loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    if dist.is_initialized():
        for gradient in gradients.values():
            dist.all_reduce(gradient)
            gradient.div_(dist.get_world_size())
    return {"loss": step.loss.detach(), "labels": step.pseudo_labels, "gradients": gradients}


def refusal(model: GroupContrast, images: Tensor) -> str:
    try:
        model(images)
    except ValueError as error:
        return str(error)
    return ""


def work(rank: int, workers: int, folder: Path, batches: dict[str, Sequence[Tensor]]) -> None:
    """Encodes this worker's part of each batch.

    Args:
        rank: Of this worker.
        workers: How many there are.
        folder: Where they meet; gets what each finds.
        batches: Parts of batches by the name of the mode of batch normalisation and what is particular to them.
    """
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=workers, timeout=TIMEOUT)
    found: dict[str, Any] = {}
    for name, parts in batches.items():
        mode = name.partition(" ")[0]
        if "uneven" in name:
            model = group_contrast(mode)
            found[name] = refusal(model, parts[rank])
        else:
            found[name] = outcome(group_contrast(mode), parts[rank], labelled="labelled" in name)
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()
