"""A model bundle with all parts of the method, small and with random weights: for arithmetic, not for quality."""

import numpy as np
import torch

from grepr_core.bundles.bundle import Bundle
from grepr_core.decoding.view import AtMost
from grepr_core.encoders.high_level import HighLevelEncoder, TowerConfig
from grepr_core.encoders.low_level import LowLevelEncoder
from grepr_core.encoders.semantic import load_semantic_encoder
from grepr_core.reasons.probes import Probes
from grepr_core.regression.regressor import Regressor
from grepr_core.zero_shot.gaussian import patch_statistics
from grepr_core.zero_shot.patches import patch_batches
from tests.made_photos import photo

TOWER = TowerConfig(
    architecture="tiny",
    layers=[1, 1, 1, 1],
    width=8,
    heads=4,
    feature_size=32,
    image_size=64,
    mean=[0.48, 0.46, 0.41],
    std=[0.27, 0.26, 0.28],
)


def to_tensor(rgb: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).float() / 255


def small_tower() -> HighLevelEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        high = HighLevelEncoder(TOWER)
        high.text_features.copy_(torch.nn.functional.normalize(torch.randn(2, 32), dim=1))
    return high.eval()


def full_bundle(*, regressor: bool = True) -> Bundle:
    low = LowLevelEncoder(seed=2)
    patches = (to_tensor(np.asarray(photo(i, (300, 290)))) for i in range(3))
    with torch.inference_mode():
        pristine = patch_statistics(low.eval(), (batch for image in patches for batch in patch_batches(image)))
    rng = np.random.default_rng(3)
    size = 32 + 128
    ridge = Regressor(rng.normal(size=size), rng.uniform(0.5, 2, size), rng.normal(size=size) / 40, 0.5, 1.0)
    return Bundle("full", small_tower(), low, pristine, ridge if regressor else None, view=AtMost(1024 * 1024))


def telling_bundle(*, regressor: bool = True) -> Bundle:
    """EfficientNet-Lite0 with probes by which all that it sees is noisy, and a little blurred."""
    offsets = np.array([0.25, 0.75, 0, 0, 0, 0, 0, 0, -1], np.float32)
    ridge = Regressor(np.zeros(4128), np.ones(4128), np.full(4128, 1e-4), 0.5, 1.0) if regressor else None
    probes = Probes(np.zeros((4128, 9), np.float32), offsets, np.arange(9))
    return Bundle("telling", high=load_semantic_encoder(), regressor=ridge, reasons=probes)
