"""The zero-shot score as the method's authors compute it, from their formulas; a program of its own.

One image at a time, in float32, as their code computes on a CPU (on CUDA it has CLIP in float16), and PyTorch's default
layout, nothing folded, one process with PyTorch's default threads (all cores). All images go through the low-level path
first and then through the high-level path, so each is decoded twice. All patches of an image are one batch, whatever
its size. Prints JSON: images a second without loading the model, and the scores by the photo's name.

Example: python benchmarks/authors_way.py BUNDLE FOLDER
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from open_clip.modified_resnet import ModifiedResNet
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import Normalize, ToTensor

from grepr_core.bundles.bundle import load_bundle
from grepr_core.encoders.high_level import HighLevelEncoder
from grepr_core.zero_shot.gaussian import Gaussian

PATCH = 96
STRIDE = 48


class NiqeDistance:
    """Distance between Gaussians of features, in float32 and with an explicit inverse."""

    def __init__(self, pristine: Gaussian) -> None:
        self.mean = torch.from_numpy(pristine.mean).float()
        self.covariance = torch.from_numpy(pristine.covariance).float()

    def __call__(self, features: Tensor) -> Tensor:
        mean = features.mean(dim=0)
        centred = features - mean
        covariance = centred.T @ centred / (len(features) - 1)
        metric = (self.covariance + covariance) / 2 + 0.001 * torch.eye(len(mean))
        shift = self.mean - mean
        return torch.sqrt(shift @ torch.linalg.inv(metric) @ shift)


class AttentionPool(nn.Module):
    """CLIP's attention pool, its positional embedding taken out."""

    def __init__(self, projections: nn.Module, heads: int) -> None:
        super().__init__()
        self.projections = projections
        self.heads = heads

    def forward(self, maps: Tensor) -> Tensor:
        tokens = maps.flatten(start_dim=2).permute(2, 0, 1)
        tokens = torch.cat([tokens.mean(dim=0, keepdim=True), tokens], dim=0)
        q, k, v, c = (getattr(self.projections, f"{name}_proj") for name in "qkvc")
        pooled, _ = F.multi_head_attention_forward(
            query=tokens[:1],
            key=tokens,
            value=tokens,
            embed_dim_to_check=tokens.shape[-1],
            num_heads=self.heads,
            q_proj_weight=q.weight,
            k_proj_weight=k.weight,
            v_proj_weight=v.weight,
            in_proj_weight=None,
            in_proj_bias=torch.cat([q.bias, k.bias, v.bias]),
            bias_k=None,
            bias_v=None,
            add_zero_attn=False,
            dropout_p=0.0,
            out_proj_weight=c.weight,
            out_proj_bias=c.bias,
            use_separate_proj_weight=True,
            training=False,
            need_weights=False,
        )
        return pooled.squeeze(0)


def clip_tower(encoder: HighLevelEncoder) -> ModifiedResNet:
    """Puts the weights back into CLIP's own tower."""
    tower = encoder.tower
    visual = ModifiedResNet(tower.layers, tower.feature_size, tower.heads, tower.image_size, tower.width)
    missing, unexpected = visual.load_state_dict(encoder.visual.state_dict(), strict=False)
    assert (missing, unexpected) == (["attnpool.positional_embedding"], [])
    visual.attnpool = AttentionPool(visual.attnpool, tower.heads)
    return visual.eval()


class AuthorsWay:
    """Both paths of a bundle."""

    def __init__(self, bundle_folder: str) -> None:
        bundle = load_bundle(bundle_folder)
        assert isinstance(bundle.high, HighLevelEncoder)
        assert bundle.low is not None
        assert bundle.pristine is not None
        self.low = bundle.low
        self.distance = NiqeDistance(bundle.pristine)
        self.high = clip_tower(bundle.high)
        self.normalise = Normalize(bundle.high.tower.mean, bundle.high.tower.std)
        self.text_features = bundle.high.text_features

    def low_score(self, photo: Path) -> Tensor:
        image = ToTensor()(Image.open(photo))
        windows = image.unfold(1, PATCH, STRIDE).unfold(2, PATCH, STRIDE)
        patches = windows.permute(1, 2, 0, 3, 4).reshape(-1, 3, PATCH, PATCH)
        distance = self.distance(self.low(patches))
        return 1 - 1 / (1 + torch.exp(-distance / 100))

    def high_score(self, photo: Path) -> Tensor:
        image = self.normalise(ToTensor()(Image.open(photo)))
        features = self.high(image[None])
        good, bad = F.cosine_similarity(features, self.text_features, dim=-1)
        return 1 / (1 + torch.exp(10 * (bad - good)))

    def scores(self, photos: Sequence[Path]) -> list[float]:
        low = [self.low_score(photo).item() for photo in photos]
        high = [self.high_score(photo).item() for photo in photos]
        return [a + b for a, b in zip(low, high, strict=True)]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    photos = sorted(options.folder.iterdir())
    way = AuthorsWay(options.bundle)
    began = time.perf_counter()
    scores = way.scores(photos)
    speed = len(photos) / (time.perf_counter() - began)
    named = {photo.name: score for photo, score in zip(photos, scores, strict=True)}
    print(json.dumps({"images_per_second": speed, "scores": named}))


if __name__ == "__main__":
    main()
