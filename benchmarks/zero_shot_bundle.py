"""A bundle of both zero-shot paths for measuring speed: ResNet-18 on patches and a CLIP RN50.

The CLIP tower has random weights, since OpenAI's are not in any package: nothing about quality follows from its scores.
"""

from pathlib import Path

import open_clip
import torch
from torch import nn

from grepr_core.bundles.bundle import Bundle, load_bundle, save_bundle
from grepr_core.decoding.view import FULL_SIZE
from grepr_core.encoders.high_level import HighLevelEncoder, TowerConfig
from grepr_core.encoders.low_level import LowLevelEncoder

ARCHITECTURE = "RN50-quickgelu"


def save_zero_shot_bundle(folder: Path) -> None:
    """Writes the bundle, which scores as the method's authors do: native size, published distance, sum of both paths.

    Args:
        folder: Where to.
    """
    lite = load_bundle("grepr-lite")
    assert lite.low is not None
    low = LowLevelEncoder()
    low.load_state_dict(lite.low.state_dict())
    bundle = Bundle(
        "zero-shot, CLIP with random weights",
        high=_random_clip(),
        low=low.eval(),
        pristine=lite.pristine,
        distance="mvg",
        view=FULL_SIZE,
        scale=(0.0, 1.5),
    )
    save_bundle(bundle, str(folder))


@torch.no_grad()
def _random_clip() -> HighLevelEncoder:
    config = open_clip.get_model_config(ARCHITECTURE)
    assert config is not None
    vision = config["vision_cfg"]
    tower = TowerConfig(
        architecture=ARCHITECTURE,
        layers=vision["layers"],
        width=vision["width"],
        heads=vision["width"] * 32 // 64,
        feature_size=config["embed_dim"],
        image_size=vision["image_size"],
        mean=list(open_clip.OPENAI_DATASET_MEAN),
        std=list(open_clip.OPENAI_DATASET_STD),
    )
    torch.manual_seed(0)
    encoder = HighLevelEncoder(tower)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5)
            module.momentum = None  # statistics of all passes below, so that activations keep to a trained net's range
    encoder.train()
    for _ in range(3):
        encoder(torch.rand(4, 3, 224, 224))
    encoder.text_features.copy_(nn.functional.normalize(torch.randn_like(encoder.text_features), dim=1))
    return encoder.eval()
