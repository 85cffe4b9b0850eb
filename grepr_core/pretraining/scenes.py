"""Scenes: a photograph, its distorted versions, and how alike they are. What the low-level encoder is pretrained on."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from grepr_core.pretraining.distortions import DISTORTIONS, LEVELS, distort
from grepr_core.pretraining.similarity import fsim_matrix


@dataclass(frozen=True)
class SceneRecipe:
    """How scenes are made.

    The method takes 8 distorted versions of a photograph, 4 kinds in 2 levels each.

    Attributes:
        kinds: Kinds of distortion a scene, drawn anew for each from all there are.
        levels: Levels of each kind, drawn likewise.
        side: A longer side of a photograph is cropped to this many pixels, at a place drawn at random; 0 leaves the
            photograph whole.
        seed: Of the draws.
    """

    kinds: int = 4
    levels: int = 2
    side: int = 384
    seed: int = 0

    @property
    def versions(self) -> int:
        """Versions of a scene, D, the undistorted one included."""
        return 1 + self.kinds * self.levels


@dataclass(frozen=True)
class Scene:
    """The versions of a photograph.

    Attributes:
        versions: (D, H, W, 3) uint8 sRGB; the first is undistorted.
        similarity: (D, D) float32 FSIMc of the versions, 1 on the diagonal.
        kinds: (D,) kind of distortion, empty for the undistorted one.
        levels: (D,) level of it, 0 for the undistorted one.
        pseudo_label: Quality of the photograph by zero-shot scores; None where it was not asked for.
    """

    versions: NDArray[np.uint8]
    similarity: NDArray[np.float32]
    kinds: tuple[str, ...]
    levels: tuple[int, ...]
    pseudo_label: float | None = None


def make_scene(photo: NDArray[np.uint8], recipe: SceneRecipe, *, key: int, device: torch.device | str = "cpu") -> Scene:
    """Distorts a photograph and compares its versions.

    Args:
        photo: (H, W, 3) sRGB.
        recipe: How.
        key: Which photograph this is; decides, with the recipe's seed, all that is drawn.
        device: Where the versions are compared; they are made on the CPU.

    Returns:
        The scene, D = ``recipe.versions``.
    """
    rng = np.random.default_rng([recipe.seed, key])
    original = _cropped(photo, recipe.side, rng)
    versions, kinds, levels = [original], [""], [0]
    for kind in rng.choice(sorted(DISTORTIONS), recipe.kinds, replace=False).tolist():
        seed = int(rng.integers(2**32))
        for level in sorted(rng.choice(LEVELS, recipe.levels, replace=False).tolist()):
            versions.append(distort(original, kind, level, seed=seed))
            kinds.append(kind)
            levels.append(level)
    stacked = np.stack(versions)
    pixels = torch.from_numpy(stacked).to(device).permute(0, 3, 1, 2).float() / 255
    return Scene(stacked, fsim_matrix(pixels).cpu().numpy(), tuple(kinds), tuple(levels))


def _cropped(photo: NDArray[np.uint8], side: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    if not side:
        return photo
    height, width, _ = photo.shape
    top = int(rng.integers(max(height - side, 0) + 1))
    left = int(rng.integers(max(width - side, 0) + 1))
    return photo[top : top + side, left : left + side]
