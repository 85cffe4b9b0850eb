"""Standardised ridge regression from features to quality, its penalty chosen by leave-one-out on the training ratings.

The paper fits a simple regressor on 50 to 200 ratings; the authors' README names ridge regression.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grepr_core.intervals import IntervalModel, fit_interval

Array = NDArray[np.float64]

#: Penalties tried, relative to the mean eigenvalue of the Gram matrix, so that they suit any number of features. With
#: 50 ratings leave-one-out often prefers none at all, by luck; the lower end guards against that.
RELATIVE_ALPHAS = np.logspace(-1, 3, 17)


@dataclass(frozen=True)
class Regressor:
    """A fitted ridge regression.

    Attributes:
        mean: (D,) mean of the training features.
        scale: (D,) what they are divided by: their standard deviation, or 1 where a feature is constant, times the root
            of the length of their block.
        coefficients: (D,) weights of the standardised features.
        intercept: Mean of the training ratings.
        alpha: The penalty chosen.
        interval: How far ratings may lie from predictions; None where there were too few ratings to tell.
    """

    mean: Array
    scale: Array
    coefficients: Array
    intercept: float
    alpha: float
    interval: IntervalModel | None = None

    def predict(self, features: NDArray[np.floating]) -> Array:
        """Predicts quality.

        Args:
            features: (N, D) features.

        Returns:
            (N,) float64 quality on the scale of the ratings it was fitted on; not clipped, so ranks are kept.
        """
        standardised = (features.astype(np.float64) - self.mean) / self.scale
        return standardised @ self.coefficients + self.intercept

    def to_arrays(self) -> dict[str, Array]:
        """Gives the numbers to store, by name."""
        arrays = {
            "mean": self.mean,
            "scale": self.scale,
            "coefficients": self.coefficients,
            "intercept": np.array([self.intercept]),
            "alpha": np.array([self.alpha]),
        }
        return arrays if self.interval is None else {**arrays, "interval": self.interval.to_array()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> "Regressor":
        """Rebuilds a regressor from :meth:`to_arrays`.

        Args:
            arrays: The stored numbers.

        Returns:
            The regressor.
        """
        return cls(
            mean=arrays["mean"],
            scale=arrays["scale"],
            coefficients=arrays["coefficients"],
            intercept=float(arrays["intercept"][0]),
            alpha=float(arrays["alpha"][0]),
            interval=IntervalModel.from_array(arrays["interval"]) if "interval" in arrays else None,
        )


def fit_ridge(
    features: NDArray[np.floating], mos: NDArray[np.floating], *, blocks: Sequence[int] | None = None
) -> Regressor:
    """Fits ridge regression with the penalty of least leave-one-out error.

    Features that belong together, such as those of one stage of an encoder, form a block. Every block has the same
    variance in all, however many features it has, so that a wide one does not drown the others.

    Works in the dual (N x N), since ratings are fewer than features: with Gram matrix K = X X^T and H = K (K + a I)^-1,
    the leave-one-out residual of rating i is (y - H y)_i / (1 - H_ii), so all penalties cost one eigendecomposition.
    The intercept is the mean rating; its part of H is 1/N.

    Args:
        features: (N, D) finite features of the rated images.
        mos: (N,) finite mean opinion scores.
        blocks: Lengths of the blocks that the features consist of, in order; by default they are one block.

    Returns:
        The fitted regressor.

    Raises:
        ValueError: Fewer than 3 ratings, shapes that do not fit, or values that are not finite or all equal.
    """
    x, y = features.astype(np.float64), mos.astype(np.float64)
    if x.ndim != 2 or y.shape != (len(x),):
        raise ValueError(f"features {x.shape} and ratings {y.shape} do not fit each other")
    if len(x) < 3:
        raise ValueError(f"{len(x)} ratings are too few to fit a regressor; at least 3 are needed")
    if blocks is not None and sum(blocks) != x.shape[1]:
        raise ValueError(f"blocks of {sum(blocks)} features in all do not fit {x.shape[1]} features")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("features and ratings must be finite")
    if np.ptp(y) == 0:
        raise ValueError("all ratings are equal; there is nothing to learn from")

    mean, deviation = x.mean(axis=0), x.std(axis=0)
    # A feature whose spread is rounding noise would be blown up to the size of the others.
    scale = np.where(deviation > 1e-6 * np.abs(mean).clip(min=1e-6), deviation, 1.0)
    if blocks is not None:
        scale = scale * np.repeat(np.sqrt(blocks), blocks)
    x = (x - mean) / scale
    intercept = float(y.mean())
    residual = y - intercept

    eigenvalues, vectors = np.linalg.eigh(x @ x.T)
    eigenvalues = eigenvalues.clip(min=0)
    rotated = vectors.T @ residual
    alphas = RELATIVE_ALPHAS * max(float(eigenvalues.mean()), 1e-12)
    left_out = []
    for alpha in alphas:
        shrinkage = eigenvalues / (eigenvalues + alpha)
        leverage = (vectors**2) @ shrinkage + 1 / len(y)
        left_out.append((residual - vectors @ (shrinkage * rotated)) / (1 - leverage).clip(min=1e-9))
    best = int(np.argmin([np.mean(residuals**2) for residuals in left_out]))
    alpha = float(alphas[best])
    coefficients = x.T @ (vectors @ (rotated / (eigenvalues + alpha)))
    interval = fit_interval(y - left_out[best], left_out[best])
    return Regressor(mean, scale, coefficients, intercept, alpha, interval)
