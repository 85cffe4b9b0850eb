"""Which photos to rate, so that a regressor fitted on few ratings predicts all others best.

Greedy V-optimal design, known in this sequential form as transductive experimental design (Yu, Bi and Tresp, Active
learning via transductive experimental design, ICML 2006). It takes the ridge regression for what it is, a Gaussian
process with a linear kernel on the standardised features, whose predictions have a variance that depends on which
photos are rated and not on the ratings. Each photo chosen is the one whose rating lowers that variance most, summed
over all photos. So photos are chosen that stand for many others, and none twice over; the odd ones out that designs for
the largest variance prefer are not.

A model that predicts quality already, however well, adds its predictions as one more feature. Ratings are then spread
along it, from the worst photos to the best, besides.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from grepr_core.regression.regressor import standardisation

Array = NDArray[np.float64]

#: Variance of a rating's noise, relative to the mean variance of a photo's quality by its features.
NOISE = 0.1
#: Variance of quality along the predictions that are there already, relative to the same.
WEIGHT_OF_QUALITY = 1.0


def choose(
    features: NDArray[np.floating],
    count: int,
    *,
    blocks: Sequence[int] | None = None,
    variances: Sequence[float] | None = None,
    quality: NDArray[np.floating] | None = None,
    rated: Sequence[int] = (),
    accept: Callable[[int], bool] = lambda row: True,
) -> NDArray[np.intp]:
    """Chooses the photos whose ratings teach most.

    With covariance K of the photos' qualities and noise s, the choice j lowers the variance summed over all photos by
    sum_i K_ij^2 / (K_jj + s), and leaves K - K_j K_j^T / (K_jj + s). No rating is needed for it, and the first n of a
    larger choice are the choice of n.

    Args:
        features: (N, D) finite features of the photos.
        count: How many to choose.
        blocks: Lengths of the blocks that the features consist of, as for
            :func:`~grepr_core.regression.regressor.fit_ridge`.
        variances: Of each block, as for it.
        quality: (N,) predicted quality on any scale, where there is a prediction.
        rated: Photos that are rated already, or will be.
        accept: Is asked of the best one, each time, whether to choose it; if not, it is passed over for good.

    Returns:
        (count,) different rows, best first, none of them in ``rated``; fewer where no others are accepted.

    Raises:
        ValueError: There are fewer photos left than are to be chosen, shapes do not fit, or values are not finite.
    """
    if features.ndim != 2 or (quality is not None and quality.shape != (len(features),)):
        raise ValueError("features and quality do not fit each other")
    if count > len(features) - len(set(rated)):
        raise ValueError(f"{count} photos cannot be chosen of {len(features) - len(set(rated))}")
    covariance = _covariance(features.astype(np.float64), blocks, variances, quality)
    if not np.isfinite(covariance).all():
        raise ValueError("features and quality must be finite")
    free = np.ones(len(features), bool)
    for row in dict.fromkeys(rated):
        _rate(covariance, row)
        free[row] = False
    chosen: list[int] = []
    while len(chosen) < count and free.any():
        lowered = np.square(covariance).sum(axis=0) / (covariance.diagonal() + NOISE)
        for row in np.flatnonzero(free)[np.argsort(-lowered[free], kind="stable")].tolist():
            free[row] = False
            if accept(row):
                chosen.append(row)
                _rate(covariance, row)
                break
    return np.array(chosen, np.intp)


def _covariance(
    x: Array, blocks: Sequence[int] | None, variances: Sequence[float] | None, quality: NDArray[np.floating] | None
) -> Array:
    """(N, N) covariance of the photos' qualities; its diagonal is 1 on average, without that along ``quality``."""
    mean, scale = standardisation(x, np.full(len(x), 1 / len(x)), blocks=blocks, variances=variances)
    x = (x - mean) / scale
    covariance: Array = x @ x.T
    covariance /= max(float(covariance.trace()) / len(x), 1e-12)
    if quality is not None and np.ptp(quality) > 0:
        direction = (quality - quality.mean()) / quality.std()
        covariance += WEIGHT_OF_QUALITY * np.outer(direction, direction)
    return covariance


def _rate(covariance: Array, row: int) -> None:
    """Takes away, in place, what a rating of one photo tells of all."""
    column = covariance[:, row].copy()
    covariance -= np.outer(column, column) / (column[row] + NOISE)
