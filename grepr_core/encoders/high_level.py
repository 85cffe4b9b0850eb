"""The high-level encoder: the ResNet tower of a CLIP model at any image size, and its antonym prompts."""

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from grepr_core.storage import from_record

if TYPE_CHECKING:
    import open_clip

PROMPTS = ("a good photo.", "a bad photo.")
#: CLIP's name of what its attention pool adds to each position.
POSITIONS = "visual.attnpool.positional_embedding"


@dataclass(frozen=True)
class TowerConfig:
    """What it takes to build a CLIP ResNet tower without open_clip's list of architectures.

    Attributes:
        architecture: The name the tower goes by.
        layers: Bottleneck blocks in each of the four stages.
        width: Channels after the stem.
        heads: Heads of the attention pool.
        feature_size: Length D of an image's feature vector.
        image_size: Side in pixels of the square images the tower was trained on.
        mean: Of the training images by channel, RGB in [0, 1].
        std: Of the training images by channel, RGB in [0, 1].
    """

    architecture: str
    layers: list[int]
    width: int
    heads: int
    feature_size: int
    image_size: int
    mean: list[float]
    std: list[float]


class HighLevelEncoder(nn.Module):
    """CLIP's ResNet tower without positional embedding, and the features of the antonym prompts.

    Without positional embedding the attention pool takes any number of positions, so images enter at their
    native size, from 32 pixels up. A new encoder has random weights; ``load_open_clip`` and ``from_state``
    give trained ones.

    Args:
        tower: Shape and normalisation of the tower.
        positions: Whether the attention pool has CLIP's positional embedding all the same, for images of the tower's
            own size alone: to be trained as the authors' code does, not to score.

    Attributes:
        tower: As given.
        architecture: Name of the tower.
        feature_size: Length D of a feature vector.
        feature_blocks: (D,), since all features belong together.
        visual: The tower.
        text_features: (2, D) unit-length features of ``PROMPTS``.
    """

    text_features: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, tower: TowerConfig, *, positions: bool = False) -> None:
        from open_clip.modified_resnet import ModifiedResNet

        super().__init__()
        self.tower = tower
        self.architecture = tower.architecture
        self.feature_size = tower.feature_size
        self.feature_blocks = (tower.feature_size,)
        with torch.random.fork_rng(devices=[]):
            self.visual = ModifiedResNet(tower.layers, tower.feature_size, tower.heads, tower.image_size, tower.width)
            self.visual.attnpool = AttentionPool(
                tower.width * 32,
                tower.heads,
                tower.feature_size,
                positions=(tower.image_size // 32) ** 2 if positions else None,
            )
        self.register_buffer("text_features", torch.zeros(len(PROMPTS), tower.feature_size))
        # On the device once and for all: made anew for each batch, they would be waited for.
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(tower, name))[:, None, None], persistent=False)

    @classmethod
    def from_state(cls, config: Mapping[str, Any], state: Mapping[str, Tensor], *, positions: bool = False) -> Self:
        """Rebuilds an encoder from what ``config`` and ``state_dict`` gave.

        Args:
            config: As ``config`` returned it, possibly by way of JSON.
            state: As ``state_dict`` returned it, any floating point dtype.
            positions: Whether it has the positional embedding.

        Returns:
            The encoder in evaluation mode, float32.

        Raises:
            RuntimeError: Keys are missing, unexpected or of another shape; the message names them.
        """
        encoder = cls(from_record(TowerConfig, config), positions=positions)
        encoder.load_state_dict(state, strict=True)
        return encoder.eval()

    def config(self) -> dict[str, Any]:
        """Describes the tower in JSON's types, for ``from_state``."""
        return asdict(self.tower)

    def without_positions(self) -> Self:
        """Copies the encoder as it scores: on the CPU, in evaluation mode, without positional embedding."""
        state = {name: tensor for name, tensor in self.state_dict().items() if name != POSITIONS}
        return self.from_state(self.config(), state)

    def forward(self, images: Tensor) -> Tensor:
        """Encodes images of any one size.

        Args:
            images: (N, 3, H, W) float32 RGB in [0, 1]; H and W at least 32.

        Returns:
            (N, D) float32 features, not normalised.
        """
        # Normalising comes before any rounding to bfloat16, which is finer around 0 than around 1.
        normalised = ((images - self.mean) / self.std).to(self.visual.conv1.weight.dtype)
        features: Tensor = self.visual(normalised)
        return features.float()

    def quality_cosines(self, features: Tensor) -> Tensor:
        """Compares image features with the prompts, always in float32.

        Args:
            features: (N, D) image features, normalised or not.

        Returns:
            (N, 2) float32 cosines with the good and the bad prompt, in [-1, 1].
        """
        # Unlike a matrix product this is not rounded under autocast, which would tie many images' scores.
        return F.cosine_similarity(features.float()[:, None], self.text_features, dim=-1)


class AttentionPool(nn.Module):
    """CLIP's attention pool, by default without its positional embedding.

    The mean over all positions attends to itself and to every position. As there is one query a head, it is
    cheaper to project that query than every key, q·(K x) = (Kᵀ q)·x, and the weighted sum of the tokens than
    every value. The function is CLIP's own.

    Args:
        channels: Channels C of the feature map.
        heads: Attention heads; divides ``channels``.
        feature_size: Length D of the result.
        positions: Positions H W of the only feature maps that it takes, each of which, as their mean, has an embedding
            added; None for any number without.
    """

    def __init__(self, channels: int, heads: int, feature_size: int, *, positions: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(channels, channels)
        self.k_proj = nn.Linear(channels, channels)
        self.v_proj = nn.Linear(channels, channels)
        self.c_proj = nn.Linear(channels, feature_size)
        self.positional_embedding = None if positions is None else nn.Parameter(torch.zeros(positions + 1, channels))
        # It shifts all scores of a head alike, which the softmax takes out again.
        self.k_proj.bias.requires_grad_(False)

    def forward(self, maps: Tensor) -> Tensor:
        """Pools feature maps (N, C, H, W) into features (N, D)."""
        positions = maps.flatten(2).transpose(1, 2)
        tokens = torch.cat([positions.mean(dim=1, keepdim=True), positions], dim=1)
        if self.positional_embedding is not None:
            tokens = tokens + self.positional_embedding

        channels = tokens.shape[-1]
        query = self.q_proj(tokens[:, :1]).view(-1, self.heads, channels // self.heads)
        key = self.k_proj.weight.view(self.heads, -1, channels)
        value = self.v_proj.weight.view(self.heads, -1, channels)
        # (N, heads, C): the heads are the queries of one attention over the bare tokens.
        probes = torch.einsum("nhd,hdc->nhc", query, key)
        pooled = F.scaled_dot_product_attention(probes, tokens, tokens, scale=query.shape[-1] ** -0.5)
        values = torch.einsum("nhc,hdc->nhd", pooled, value).flatten(1) + self.v_proj.bias
        features: Tensor = self.c_proj(values)
        return features


@torch.no_grad()
def load_open_clip(architecture: str, pretrained: str | None = None, *, positions: bool = False) -> HighLevelEncoder:
    """Takes the visual tower and the features of the prompts out of an open_clip model.

    Weights are loaded in float32, strictly, and without running code a checkpoint may carry.

    Args:
        architecture: An open_clip name such as ``RN50``; or ``hf-hub:org/name`` or ``local-dir:/path``, which
            bring their weights along. The activation affects the text features: a local state dict trained
            with QuickGELU, as all published RN models were, needs ``RN50-quickgelu``. Tags and OpenAI's own
            archives say so themselves.
        pretrained: A tag such as ``openai``, or a local checkpoint: a state dict or training checkpoint of
            open_clip (.pt, .safetensors), or OpenAI's own archive (``RN50.pt``).
        positions: Whether to keep the positional embedding, for training.

    Returns:
        The encoder in evaluation mode, float32, on the CPU.

    Raises:
        ValueError: The architecture is unknown or has another kind of visual tower, ``pretrained`` is missing
            or superfluous, or a TorchScript archive is not OpenAI's for this architecture.
        RuntimeError: The weights cannot be had or do not fit; the message names missing and unexpected keys.
        pickle.UnpicklingError: A .pt checkpoint holds more than tensors and plain values.
    """
    import open_clip

    _require_resnet(architecture)
    with torch.random.fork_rng(devices=[]):
        model = _load_clip(architecture, pretrained).eval()
    tokens = open_clip.get_tokenizer(architecture)(list(PROMPTS))
    visual = model.visual
    tower = TowerConfig(
        # A bundle must not depend on where its maker kept the files.
        architecture=Path(architecture).name if architecture.startswith("local-dir:") else architecture,
        layers=[len(stage) for stage in (visual.layer1, visual.layer2, visual.layer3, visual.layer4)],
        width=visual.conv3.out_channels,
        heads=visual.attnpool.num_heads,
        feature_size=visual.output_dim,
        image_size=visual.image_size,
        mean=list(visual.image_mean),
        std=list(visual.image_std),
    )
    state = {f"visual.{name}": tensor for name, tensor in visual.state_dict().items()}
    if not positions:
        del state[POSITIONS]
    state["text_features"] = model.encode_text(tokens, normalize=True)
    return HighLevelEncoder.from_state(asdict(tower), state, positions=positions)


def brings_weights(architecture: str) -> bool:
    """Tells whether an open_clip name stands for weights as well, so that none may be named beside it."""
    return architecture.startswith(("hf-hub:", "local-dir:"))


def _require_resnet(architecture: str) -> None:
    import open_clip

    config = open_clip.get_model_config(architecture)
    if config is None:
        raise ValueError(f"open_clip knows no architecture {architecture!r}")
    vision = config["vision_cfg"]
    if "timm_model_name" in vision or not isinstance(vision.get("layers"), list):
        raise ValueError(
            f"the visual tower of {architecture!r} is not a ModifiedResNet (RN50, RN101, RN50x4, ...); "
            "only those take images of any size once the positional embedding is removed"
        )


def _load_clip(architecture: str, pretrained: str | None) -> "open_clip.CLIP":
    import open_clip

    if brings_weights(architecture) == bool(pretrained):
        demand = "brings its weights along, leave `pretrained` out" if pretrained else "needs `pretrained` weights"
        raise ValueError(f"{architecture!r} {demand}")
    if pretrained and _is_torchscript(pretrained):
        return _load_openai_archive(architecture, Path(pretrained))
    # open_clip only warns when a tag's activation is not the architecture's.
    tag = open_clip.get_pretrained_cfg(architecture, pretrained or "")
    return open_clip.create_model(
        architecture,
        pretrained,
        force_quick_gelu=tag.get("quick_gelu", False),
        require_pretrained=True,
        weights_only=True,
    )


def _is_torchscript(path: str) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _load_openai_archive(architecture: str, path: Path) -> "open_clip.CLIP":
    import open_clip

    # A TorchScript archive is a program: only those are opened whose SHA-256 stands in OpenAI's own URL.
    url = open_clip.get_pretrained_url(architecture, "openai")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest not in url.split("/"):
        raise ValueError(
            f"{path} is a TorchScript archive, but not the one OpenAI published for {architecture!r}; "
            "save its state_dict() with safetensors and load that"
        )
    return open_clip.load_openai_model(str(path), precision="fp32", device="cpu")
