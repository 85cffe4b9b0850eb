"""How far a mean opinion score can be trusted, and what weight it deserves in a fit."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Floats = NDArray[np.floating]

#: The standard deviation of few ratings is a matter of luck: two that agree by chance are not exact. So the variance of
#: each image is drawn towards that of all images, which counts as much as this many ratings.
PRIOR_RATINGS = 4
#: The model's own errors never count for less than this fraction of all squared error, which bounds the weights.
LEAST_MODEL_FRACTION = 0.1
FOLDS = 5


def variance_of_mean(std: Array, count: Array | None = None) -> Array:
    """Gives the variance of each mean opinion score.

    With numbers of ratings n_i it is v_i = s_i^2 / n_i, where s_i^2 = ((n_i - 1) std_i^2 + 4 p) / (n_i + 3) and
    p = sum (n_i - 1) std_i^2 / sum (n_i - 1) is the variance of single ratings pooled over all images. Without, or
    where every image has one rating, n_i = 1 and nothing is pooled: v_i = std_i^2.

    Args:
        std: (N,) standard deviations of the ratings of each image, 0 or more.
        count: (N,) numbers of ratings of each image, 1 or more.

    Returns:
        (N,) variances, in squared units of the ratings.
    """
    variance: Array = np.square(std)
    if count is None or not (count > 1).any():
        return variance
    freedom = count - 1
    pooled = freedom @ variance / freedom.sum()
    of_mean: Array = (freedom * variance + PRIOR_RATINGS * pooled) / (freedom + PRIOR_RATINGS) / count
    return of_mean


def model_variance(
    features: Floats, mos: Floats, variance: Array, *, fit: Callable[[Floats, Floats], Callable[[Floats], Floats]]
) -> float:
    """Estimates how far ratings without noise would lie from a model's predictions, as a variance m.

    A rating lies from what a model predicts by the model's own error and by its noise, of variance v_i. Least squares
    is efficient with weights inverse to the sum, w_i = 1 / (m + v_i), as in a meta-analysis with random effects. m is
    what is left of the mean squared error of unweighted fits, each on four fifths of the ratings and tested on the last
    fifth: m = mean(e_i^2) - mean(v_i), but at least a tenth of mean(e_i^2).

    Args:
        features: (N, D) features.
        mos: (N,) mean opinion scores.
        variance: (N,) of each of them, as :func:`variance_of_mean` gives it.
        fit: From (n, D) features and (n,) ratings to a function that predicts ratings from features.

    Returns:
        The variance, in squared units of the ratings.
    """
    error = np.empty(len(mos))
    for left_out in np.array_split(np.random.default_rng(0).permutation(len(mos)), FOLDS):
        kept = np.setdiff1d(np.arange(len(mos)), left_out)
        error[left_out] = mos[left_out] - fit(features[kept], mos[kept])(features[left_out])
    whole = float(np.mean(error**2))
    return max(whole - float(variance.mean()), LEAST_MODEL_FRACTION * whole)
