"""A small CLIP model with random weights, in a folder that open_clip loads like a published one."""

import functools
from pathlib import Path

import numpy as np
import open_clip
import torch
from open_clip.push_to_hf_hub import save_for_hf
from torch import Tensor, nn

from grepr_core.pretraining.group_contrast import centre_crop
from tests.grepr_core.models import to_tensor
from tests.lake import photo

TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 1, "layers": 1},
}


class _NoTokenizer:
    """Stands for CLIP's own tokenizer, which comes with open_clip and need not be saved."""

    def save_pretrained(self, directory: Path) -> None:
        pass


@functools.cache
def crops(count: int = 12) -> Tensor:
    """Crops of real photographs, (count, 3, 64, 64) in [0, 1]."""
    return torch.stack([to_tensor(centre_crop(np.asarray(photo(i, (80 + i, 90))), 64)) for i in range(count)])


def _normalised(images: Tensor) -> Tensor:
    mean, std = torch.tensor([open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD])[..., None, None]
    return (images - mean) / std


def tell_apart(visual: nn.Module, images: Tensor) -> None:
    """Sets a random tower's weights so that it sees that photographs differ, as a trained one does.

    Without statistics of photographs, differences die away from layer to layer; fresh blocks do nothing at all; and the
    features of a random tower have much in common.

    Args:
        visual: The tower.
        images: As it takes them; their features get mean 0 and standard deviation 1.
    """
    norms = [module for module in visual.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.weight.uniform_(0.5, 1.5)
        norm.momentum = 1.0
    visual.train()(images)
    for norm in norms:
        norm.momentum = 0.1
    deviation, mean = torch.std_mean(visual.eval()(images), dim=0)
    last = visual.attnpool.c_proj
    last.weight /= deviation.mean()
    last.bias.sub_(mean).div_(deviation.mean())


def save_tiny_clip(folder: Path) -> str:
    """Writes the model, always the same, and gives the architecture by which open_clip finds it."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(0)
        visual = TINY["vision_cfg"]
        model = open_clip.CLIP(TINY["embed_dim"], visual, TINY["text_cfg"])
        # The encoder leaves it out.
        model.visual.attnpool.positional_embedding.zero_()
        tell_apart(model.visual, _normalised(crops()))
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    open_clip.set_model_preprocess_cfg(model, {"mean": mean, "std": std})
    save_for_hf(model, _NoTokenizer(), TINY, str(folder), safe_serialization=True)
    return f"local-dir:{folder}"
