"""Statistics of patches' features, and how far those of an image are from those of pristine photographs."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
#: Names of the distances in :data:`DISTANCES`.
Distance = Literal["corrected", "mvg"]
#: (N, 3, H, W) float32 RGB in [0, 1] to (N, C) features.
Encoder = Callable[[Tensor], Tensor]
#: Added to the diagonal of covariances, so that they can be inverted.
REGULARISER = 1e-3


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Multivariate Gaussian fitted to features.

    Attributes:
        mean: (C,) float64.
        covariance: (C, C) float64, unbiased; zeros where there is but one feature vector.
        count: Number of feature vectors, at least 1.
    """

    mean: Array
    covariance: Array
    count: int


class GaussianAccumulator:
    """Fits a Gaussian to features that come in batches, of which none is kept.

    How the features are divided into batches does not matter. Deviations are taken from the means of the batches
    (Chan et al. 1979), so that nothing cancels where the mean is large against the spread.

    Attributes:
        count: Feature vectors seen so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean: Array = np.zeros(())
        self._scatter: Array = np.zeros(())

    def update(self, features: NDArray[np.floating]) -> None:
        """Takes in a batch.

        Args:
            features: (N, C) features; N may be 0.
        """
        if len(features) == 0:
            return
        batch = features.astype(np.float64)
        mean = batch.mean(axis=0)
        centred = batch - mean
        total = self.count + len(batch)
        shift = mean - self._mean
        weight = self.count * len(batch) / total
        self._scatter = self._scatter + centred.T @ centred + weight * np.multiply.outer(shift, shift)
        self._mean = self._mean + shift * (len(batch) / total)
        self.count = total

    def gaussian(self) -> Gaussian:
        """Gives the Gaussian of all features so far.

        Raises:
            ValueError: There are none.
        """
        if self.count == 0:
            raise ValueError("no features, so no mean and covariance: none of the images gave a patch")
        return Gaussian(self._mean, self._scatter / max(self.count - 1, 1), self.count)


def patch_statistics(encoder: Encoder, batches: Iterable[Tensor]) -> Gaussian:
    """Encodes patches and fits a Gaussian to their features, holding one batch at a time.

    Args:
        encoder: Encodes (N, 3, h, w) patches as (N, C) features.
        batches: (N, 3, h, w) float32 RGB in [0, 1]; of one image from :func:`patch_batches`, of pristine photographs
            from :func:`select_pristine_patches`. Empty batches are passed over.

    Returns:
        The Gaussian.

    Raises:
        ValueError: There are no patches.
    """
    accumulator = GaussianAccumulator()
    with torch.inference_mode():
        for batch in batches:
            if len(batch):
                accumulator.update(encoder(batch).double().cpu().numpy())
    return accumulator.gaussian()


def mvg_distance(test: Gaussian, pristine: Gaussian, *, regulariser: float = REGULARISER) -> float:
    """Measures how far apart two Gaussians are, as NIQE and the published code do.

    d = sqrt((m1 - m2)^T ((C1 + C2) / 2 + regulariser I)^-1 (m1 - m2)). With few test patches it comes out too large,
    whatever the quality: see :func:`corrected_distance`.

    Args:
        test: Of the patches of the image in question.
        pristine: Of pristine patches.
        regulariser: Added to the diagonal.

    Returns:
        d, 0 or more; NaN where a feature is NaN.
    """
    metric = _regularised((test.covariance + pristine.covariance) / 2, regulariser)
    shift = test.mean - pristine.mean
    return float(np.sqrt(shift @ np.linalg.solve(metric, shift)))


def corrected_distance(test: Gaussian, pristine: Gaussian, *, regulariser: float = REGULARISER) -> float:
    """Measures the distance of an image to pristine patches without the bias of few patches.

    A mean over n patches is off by chance even where the quality is pristine, by tr(M^-1 C) / n in terms of the squared
    distance with metric M. This expectation is subtracted, for test and pristine patches both::

        D = (m1 - m2)^T M^-1 (m1 - m2) - tr(M^-1 C1) / n1 - tr(M^-1 C2) / n2,   M = C2 + regulariser I

    The metric is that of the pristine patches alone: the covariance of few test patches is singular, and would change
    the metric with their number. D is then unbiased at any n1 from 2 up (for patches drawn independently) and must be
    free to be negative, hence the signed root. The spread of the result remains what so few patches allow. A single
    patch has no covariance; that of the pristine patches stands in for it.

    Args:
        test: Of the patches of the image in question.
        pristine: Of at least 2 pristine patches, better several times as many as there are features.
        regulariser: Added to the diagonal.

    Returns:
        sign(D) sqrt(|D|); around 0 where the image is as good as the pristine ones, NaN where a feature is NaN.

    Raises:
        ValueError: There are fewer than 2 pristine patches.
    """
    if pristine.count < 2:
        raise ValueError(f"{pristine.count} pristine patch has no covariance to measure distances with")
    metric = _regularised(pristine.covariance, regulariser)
    shift = test.mean - pristine.mean
    # The metric fits the very patches it was made of too well; to a fresh one they have this mean squared distance,
    # by the leverage of a patch on its own distance.
    spread = float(np.trace(np.linalg.solve(metric, pristine.covariance)))
    spread /= 1 - spread / (pristine.count - 1)
    test_spread = float(np.trace(np.linalg.solve(metric, test.covariance))) if test.count > 1 else spread
    squared = float(shift @ np.linalg.solve(metric, shift))
    squared -= test_spread / test.count + spread / pristine.count
    return math.copysign(math.sqrt(abs(squared)), squared)


#: How far an image is from pristine patches, by the names that bundles use.
DISTANCES: Mapping[Distance, Callable[[Gaussian, Gaussian], float]] = {
    "corrected": corrected_distance,
    "mvg": mvg_distance,
}


def _regularised(covariance: Array, regulariser: float) -> Array:
    return covariance + regulariser * np.eye(len(covariance))
