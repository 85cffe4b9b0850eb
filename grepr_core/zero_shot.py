"""GRepQ's quality without ratings: distance to pristine patches, likeness to the prompts, and their sum."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor

Array = NDArray[np.float64]
Score = TypeVar("Score", float, Array)
#: Names of the distances in :data:`DISTANCES`.
Distance = Literal["corrected", "mvg"]
#: (N, 3, H, W) float32 RGB in [0, 1] to (N, C) features.
Encoder = Callable[[Tensor], Tensor]

#: Side of a patch, in pixels.
PATCH = 96
#: Patches of an image that is scored overlap by half.
STRIDE = PATCH // 2
#: A pristine patch is sharper than this share of the sharpest patch of its photograph,
SHARPNESS_SHARE = 0.75
#: and more colourful than this share of the most colourful of those.
COLOURFULNESS_SHARE = 0.8
#: Added to the diagonal of covariances, so that they can be inverted.
REGULARISER = 1e-3
#: Distance that counts as one unit in the low-level score.
DISTANCE_SCALE = 100.0
#: Slope of the high-level score.
COSINE_SLOPE = 10.0


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


def patch_batches(image: Tensor, *, stride: int = STRIDE, batch_size: int = 64) -> Iterator[Tensor]:
    """Cuts an image into square patches of 96 pixels, a few at a time.

    What remains at the right and at the bottom is left out. Along a side shorter than 96 pixels a patch is as long as
    the image: enlarging the image would blur it, which is a distortion.

    Args:
        image: (3, H, W) RGB.
        stride: Pixels from one patch to the next, 96 for patches that do not overlap.
        batch_size: Patches at a time.

    Yields:
        (N, 3, min(H, 96), min(W, 96)) patches, row by row, in the dtype of the image, channels-last.
    """
    _, height, width = image.shape
    tall, wide = min(height, PATCH), min(width, PATCH)
    corners = [
        (top, left) for top in range(0, height - tall + 1, stride) for left in range(0, width - wide + 1, stride)
    ]
    pixels = image.permute(1, 2, 0)
    for first in range(0, len(corners), batch_size):
        batch = corners[first : first + batch_size]
        yield torch.stack([pixels[top : top + tall, left : left + wide] for top, left in batch]).permute(0, 3, 1, 2)


def select_pristine_patches(image: Tensor) -> Tensor:
    """Picks the patches of a pristine photograph that are worth comparing with: sharp, and of those the colourful.

    Args:
        image: (3, H, W) floating point RGB in [0, 1].

    Returns:
        (N, 3, 96, 96) patches that do not overlap. There are none in an image without a pixel of colour, nor in one
        shorter than 96 pixels on a side.
    """
    if min(image.shape[1:]) < PATCH:
        return image.new_empty(0, 3, PATCH, PATCH)
    patches = torch.cat(list(patch_batches(image, stride=PATCH)))
    sharp = sharpness(patches)
    patches = patches[sharp > SHARPNESS_SHARE * sharp.max()]
    if len(patches) == 0:
        return patches
    colour = colourfulness(patches)
    return patches[colour > COLOURFULNESS_SHARE * colour.max()]


def sharpness(patches: Tensor) -> Tensor:
    """Sums the local standard deviation of luminance, in a Gaussian window as NIQE uses it, over each patch.

    The surroundings of a patch count as black, as in the published code, so its edges count as sharp.

    Args:
        patches: (N, 3, h, w) floating point RGB in [0, 1].

    Returns:
        (N,) float64 sums over pixels, 0 or more.
    """
    weights = torch.tensor([0.2989, 0.587, 0.114], dtype=torch.float64, device=patches.device)
    # The difference of two nearly equal numbers needs double precision.
    luma = torch.einsum("c,nchw->nhw", weights, patches.double())
    offsets = torch.arange(-3, 4, dtype=torch.float64, device=patches.device)
    window = torch.softmax(-(offsets**2) / (2 * (7 / 6) ** 2), dim=0)
    moments = torch.stack([luma, luma.square()], dim=1).flatten(0, 1)[:, None]
    smooth = F.conv2d(
        F.conv2d(moments, window.view(1, 1, 7, 1), padding=(3, 0)), window.view(1, 1, 1, 7), padding=(0, 3)
    )
    mean, mean_square = smooth.view(len(patches), 2, *luma.shape[1:]).unbind(1)
    return (mean_square - mean.square()).abs().sqrt().sum(dim=(1, 2))


def colourfulness(patches: Tensor) -> Tensor:
    """Measures how strong and how varied the colours of each patch are.

    As in the published code: unlike Hasler and Suesstrunk's measure it takes absolute opponent values, and their
    means count in full.

    Args:
        patches: (N, 3, h, w) floating point RGB in [0, 1].

    Returns:
        (N,) float64, 0 for grey.
    """
    red, green, blue = patches.double().flatten(2).unbind(1)
    opponents = torch.stack([(red - green).abs(), ((red + green) / 2 - blue).abs()])
    return torch.hypot(*opponents.std(dim=2)) + torch.hypot(*opponents.mean(dim=2))


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
    score: Score = expit(-distance / DISTANCE_SCALE)
    return score


def high_level_score(cos_good: Score, cos_bad: Score, *, slope: float = COSINE_SLOPE) -> Score:
    """Turns likeness to the prompts into quality, Q_H = sigmoid(slope (cos_good - cos_bad)).

    Args:
        cos_good: Cosine of an image with the prompt for good photographs, or an array of cosines.
        cos_bad: Cosine with the prompt for bad ones.
        slope: Difference of cosines that counts as one unit, inverted.

    Returns:
        Quality in (0, 1), higher is better; 0.5 for equal cosines.
    """
    score: Score = expit(slope * (cos_good - cos_bad))
    return score


def combined_score(low: Score, high: Score) -> Score:
    """Adds the scores of the two paths, which have equal weight, Q = Q_L + Q_H.

    Args:
        low: Of :func:`low_level_score`.
        high: Of :func:`high_level_score`.

    Returns:
        Quality in (0, 2), higher is better.
    """
    return low + high


def _regularised(covariance: Array, regulariser: float) -> Array:
    return covariance + regulariser * np.eye(len(covariance))
