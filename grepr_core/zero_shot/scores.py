"""GRepQ's quality without ratings: distance to pristine patches, likeness to the prompts, and their sum."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from grepr_core.zero_shot.gaussian import Encoder, Gaussian, corrected_distance, patch_statistics
from grepr_core.zero_shot.patches import patch_batches

Array = NDArray[np.float64]
Score = TypeVar("Score", float, Array)
#: Distance that counts as one unit in the low-level score.
DISTANCE_SCALE = 100.0
#: Slope of the high-level score.
COSINE_SLOPE = 10.0


def low_level_distance(
    encoder: Encoder,
    image: Tensor,
    pristine: Gaussian,
    *,
    distance: Callable[[Gaussian, Gaussian], float] = corrected_distance,
) -> float:
    """Measures how far the patches of an image are from pristine patches.

    Args:
        encoder: The encoder that made the pristine features.
        image: (3, H, W) float32 RGB in [0, 1], at its native size.
        pristine: Of the features of pristine patches.
        distance: :func:`corrected_distance`, or :func:`mvg_distance` as the published code does.

    Returns:
        The distance, smaller is better.
    """
    return distance(patch_statistics(encoder, patch_batches(image)), pristine)


def low_level_score(distance: Score) -> Score:
    """Turns distance to pristine patches into quality, Q_L = sigmoid(-d / 100).

    Args:
        distance: One distance, or an array of them.

    Returns:
        Quality, higher is better: in (0, 0.5] for distances from 0 up; a little above 0.5 for corrected ones below 0.
    """
    return sigmoid(-distance / DISTANCE_SCALE)


def high_level_score(cos_good: Score, cos_bad: Score, *, slope: float = COSINE_SLOPE) -> Score:
    """Turns likeness to the prompts into quality, Q_H = sigmoid(slope (cos_good - cos_bad)).

    Args:
        cos_good: Cosine of an image with the prompt for good photographs, or an array of cosines.
        cos_bad: Cosine with the prompt for bad ones.
        slope: Difference of cosines that counts as one unit, inverted.

    Returns:
        Quality in (0, 1), higher is better; 0.5 for equal cosines.
    """
    return sigmoid(slope * (cos_good - cos_bad))


def combined_score(low: Score, high: Score) -> Score:
    """Adds the scores of the two paths, which have equal weight, Q = Q_L + Q_H.

    Args:
        low: Of :func:`low_level_score`.
        high: Of :func:`high_level_score`.

    Returns:
        Quality in (0, 2), higher is better.
    """
    return low + high


def sigmoid(value: Score) -> Score:
    """Gives 1 / (1 + exp(-value))."""
    # As SciPy does, for which whoever scores would wait a fifth of a second.
    small = np.exp(-np.abs(value))
    result: Score = np.where(value >= 0, 1.0, small) / (1 + small)
    return result
