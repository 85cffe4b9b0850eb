"""How well an encoder tells levels of distortion apart, without ratings: what pretraining is watched by."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from grepr_core.pretraining.scenes import Scene
from grepr_core.zero_shot.gaussian import Encoder, GaussianAccumulator, corrected_distance, patch_statistics
from grepr_core.zero_shot.patches import patch_batches, select_pristine_patches


def count_ordered(scores: Sequence[float], kinds: Sequence[str], levels: Sequence[int]) -> tuple[int, int]:
    """Counts how often a version scores above the next level of the same kind.

    Args:
        scores: Of the versions of a scene, higher is better.
        kinds: Kind of distortion of each, empty for the undistorted one, which is level 0 of every kind.
        levels: Level of each.

    Returns:
        Pairs of neighbouring levels in the right order (not equal), and all such pairs.
    """
    right = pairs = 0
    for kind in sorted(set(kinds) - {""}):
        members = sorted(
            (level, score) for level, score, k in zip(levels, scores, kinds, strict=True) if k in ("", kind)
        )
        for (_, milder), (_, stronger) in pairwise(members):
            right += milder > stronger
            pairs += 1
    return right, pairs


def order_accuracy(encoder: Encoder, scenes: Iterable[Scene]) -> float | None:
    """Measures how often the zero-shot score of the low-level path falls from one level of a kind to the next.

    A version's score is its corrected distance to the pristine patches of the undistorted versions of all other scenes.

    Args:
        encoder: Encodes (N, 3, h, w) float32 RGB in [0, 1] as (N, C) features.
        scenes: Scenes that the encoder was not trained on. Iterated once; only statistics of them are kept.

    Returns:
        Fraction of the pairs of neighbouring levels in the right order, 0.5 by chance; None where there are no two
        pristine patches to compare with.
    """
    pristine: list[NDArray[np.float64]] = []
    versions = []
    with torch.inference_mode():
        for scene in scenes:
            images = [torch.from_numpy(v).permute(2, 0, 1).float() / 255 for v in np.array(scene.versions)]
            patches = select_pristine_patches(images[0])
            pristine.append(encoder(patches).double().cpu().numpy() if len(patches) else np.empty((0, 0)))
            statistics = [patch_statistics(encoder, patch_batches(image)) for image in images]
            versions.append((statistics, scene.kinds, scene.levels))
    right = pairs = 0
    for index, (statistics, kinds, levels) in enumerate(versions):
        others = GaussianAccumulator()
        for number, features in enumerate(pristine):
            if number != index:
                others.update(features)
        if others.count < 2:
            continue
        reference = others.gaussian()
        counts = count_ordered([-corrected_distance(s, reference) for s in statistics], kinds, levels)
        right, pairs = right + counts[0], pairs + counts[1]
    return right / pairs if pairs else None
