"""Files laid out exactly as the authors of GRepQ published theirs, made with the structure of their networks."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import open_clip
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

#: CLIP with a ResNet tower and QuickGELU, as RN50 is, but small.
SMALL_CLIP = "RN-small-quickgelu"
CONFIG = {
    "embed_dim": 64,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 16, "patch_size": None},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
}


class DoubledResNet(nn.Module):
    """ResNet-18 by name and again by number, which is what doubles the keys."""

    def __init__(self) -> None:
        super().__init__()
        self.base_model = resnet18()
        self.resnet18 = nn.Sequential(*list(self.base_model.children())[:-1])


class LowLevelModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = DoubledResNet()
        self.head = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 128))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encoder.resnet18(images).flatten(1))


@dataclass(frozen=True)
class Published:
    """The published files, what made them, and the CLIP checkpoint that brings the text encoder."""

    low: Path
    high: Path
    pristine: Path
    clip: Path
    low_model: LowLevelModel
    visual: nn.Module
    clip_model: open_clip.CLIP
    patches: np.ndarray


def small_clip() -> open_clip.CLIP:
    """A CLIP model with random weights of which none is at its neutral value."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = open_clip.create_model(SMALL_CLIP).eval()
        for name, tensor in model.state_dict().items():
            if "bn" in name or "downsample.1" in name:
                tensor.copy_(torch.rand(tensor.shape) + 0.5)
    return model


def publish(folder: Path) -> Published:
    (folder / f"{SMALL_CLIP}.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(folder)
    clip_model = small_clip()
    torch.save(clip_model.state_dict(), folder / "clip.pt")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        low_model, visual = LowLevelModel(), copy.deepcopy(clip_model.visual)
        with torch.no_grad():
            for _ in range(3):  # gives batch normalisation statistics of its own
                low_model(torch.rand(8, 3, 64, 64))
            low_model.head[2].weight.mul_(30)  # so that features spread as far as trained ones
            for parameter in visual.parameters():  # trained on from CLIP's weights
                parameter.mul_(1 + 0.2 * torch.randn(parameter.shape))
    optimizer = torch.optim.AdamW(low_model.parameters())
    torch.save(
        {
            "model": {"state_dict": low_model.state_dict()},
            "current_iteration": 9375,
            "optimizer": {"state_dict": optimizer.state_dict()},
        },
        folder / "low_level_model_weights.tar",
    )
    torch.save(visual.state_dict(), folder / "high_level_model_weights.pth")
    rng = np.random.default_rng(2)
    coarse = rng.random((150, 3, 12, 12), np.float32)
    patches = np.repeat(np.repeat(coarse, 8, axis=2), 8, axis=3)
    patches = (0.7 * patches + 0.3 * rng.random(patches.shape, np.float32)).clip(0, 1)
    with h5py.File(folder / "pristine_patches.hdf5", "w") as file:
        file.create_dataset("data", data=patches)
    return Published(
        low=folder / "low_level_model_weights.tar",
        high=folder / "high_level_model_weights.pth",
        pristine=folder / "pristine_patches.hdf5",
        clip=folder / "clip.pt",
        low_model=low_model.eval(),
        visual=visual.eval(),
        clip_model=clip_model,
        patches=patches,
    )


def resaved(path: Path, change: Callable[[dict[str, Tensor]], object], target: Path) -> str:
    """Saves a checkpoint anew after a change to its state dict."""
    checkpoint = torch.load(path, weights_only=True)
    state = checkpoint["model"]["state_dict"] if "model" in checkpoint else checkpoint
    change(state)
    torch.save(checkpoint, target)
    return str(target)
