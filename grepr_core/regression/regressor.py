"""Standardised ridge regression from features to quality, its penalty chosen by leave-one-out on the training ratings.

The paper fits a simple regressor on 50 to 200 ratings; the authors' README names ridge regression.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grepr_core.regression.intervals import IntervalModel, fit_interval

Array = NDArray[np.float64]

#: Penalties tried, relative to the mean eigenvalue of the Gram matrix, so that they suit any number of features. With
#: 50 ratings leave-one-out often prefers none at all, by luck; the lower end guards against that.
RELATIVE_ALPHAS = np.logspace(-1, 3, 17)
#: What the predictions of a regressor that a fit starts from count, beside a block of features. Mean SROCC with 20, 50,
#: 100, 200 and 400 ratings on the subsets of ``benchmarks.transfer``: .554, .630, .668, .699 and .725 without them;
#: .641, .675, .695, .716 and .734 by 1; .643, .677, .696, .716 and .734 by 4; .646, .678, .697, .717 and .735 by 16.
VARIANCE_OF_START = 16.0


@dataclass(frozen=True)
class Regressor:
    """A fitted ridge regression.

    Attributes:
        mean: (D,) mean of the training features.
        scale: (D,) what they are divided by: their standard deviation, or 1 where a feature is constant, times the root
            of the length of their block.
        coefficients: (D,) weights of the standardised features.
        intercept: Mean of the training ratings.
        alpha: The penalty chosen, of the fit on the features alone.
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
        if self.interval is not None:
            arrays["interval"] = self.interval.to_array()
            if self.interval.widening is not None:
                arrays["interval_widening"] = self.interval.widening
        return arrays

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
            interval=(
                IntervalModel.from_array(arrays["interval"], arrays.get("interval_widening"))
                if "interval" in arrays
                else None
            ),
        )


def fit_ridge(
    features: NDArray[np.floating],
    mos: NDArray[np.floating],
    weights: NDArray[np.floating] | None = None,
    *,
    blocks: Sequence[int] | None = None,
    variances: Sequence[float] | None = None,
    start: Regressor | None = None,
    relative_alphas: Sequence[float] | NDArray[np.floating] = RELATIVE_ALPHAS,
) -> Regressor:
    """Fits ridge regression with the penalty of least leave-one-out error.

    Features that belong together, such as those of one stage of an encoder, form a block. Every block has the same
    variance in all, however many features it has, so that a wide one does not drown the others.

    Minimises sum w_i (y_i - b - x_i . c)^2 + a |c|^2. Features are centred on their weighted mean, so b is the weighted
    mean rating. With rows scaled by sqrt(w_i), X and y - b are those of an unweighted problem. Its Gram matrix
    K = X X^T and H = K (K + a I)^-1 give the leave-one-out residual of rating i, (y - H y)_i / (1 - H_ii - s_i), where
    s_i = w_i / sum w is the intercept's part; divided by sqrt(w_i) it is on the scale of the ratings. So all penalties
    cost one eigendecomposition: of X X^T, or of X^T X, which has the same eigenvalues, where ratings are more than
    features. The penalty is that of the least weighted mean of squared leave-one-out residuals.

    A fit may start from a regressor on the same features, of other ratings. It is then the mean of three: one on the
    features, one on these and that regressor's predictions as one more feature, and one, by least squares, on the
    predictions alone; each weighs by its mean squared leave-one-out residual to the power -2. Predictions are linear
    in the features, so that the result is a regression on these all the same.

    Args:
        features: (N, D) finite features of the rated images.
        mos: (N,) finite mean opinion scores.
        weights: (N,) positive weights, inverse to the variance of what a rating differs from a model by; only their
            ratios matter. Equal by default.
        blocks: Lengths of the blocks that the features consist of, in order; by default they are one block.
        variances: Of each block beside the others, where they are not alike.
        start: What to start from; fitted on other ratings, or it tells nothing new and errors are underestimated.
        relative_alphas: Penalties to choose from, relative to the mean eigenvalue of the Gram matrix.

    Returns:
        The fitted regressor.

    Raises:
        ValueError: Fewer than 3 ratings, shapes that do not fit, or values that are not finite, weights that are not
            positive, or ratings that are all equal.
    """
    x, y = features.astype(np.float64), mos.astype(np.float64)
    w = np.ones(len(x)) if weights is None else weights.astype(np.float64)
    if x.ndim != 2 or not y.shape == w.shape == (len(x),):
        raise ValueError(f"features {x.shape}, ratings {y.shape} and weights {w.shape} do not fit each other")
    if len(x) < 3:
        raise ValueError(f"{len(x)} ratings are too few to fit a regressor; at least 3 are needed")
    if blocks is not None and sum(blocks) != x.shape[1]:
        raise ValueError(f"blocks of {sum(blocks)} features in all do not fit {x.shape[1]} features")
    if not (np.isfinite(x).all() and np.isfinite(y).all() and np.isfinite(w).all()):
        raise ValueError("features, ratings and weights must be finite")
    if not (w > 0).all():
        raise ValueError("weights must be positive")
    if np.ptp(y) == 0:
        raise ValueError("all ratings are equal; there is nothing to learn from")

    share = w / w.sum()
    mean, scale = standardisation(x, share, blocks=blocks, variances=variances)
    root = np.sqrt(share * len(y))
    x = root[:, None] * (x - mean) / scale
    intercept = float(share @ y)
    residual = root * (y - intercept)
    eigenvalues, vectors = _gram_eigenvectors(x)
    alphas = np.asarray(relative_alphas) / len(y)
    total = max(float(eigenvalues.sum()), 1e-12)
    dual, alpha, left_out = _solve(eigenvalues, vectors, residual, share, total * alphas)
    fits = [(x.T @ (vectors @ dual), left_out)]
    direction = None if start is None else _direction(start, features, scale, share)
    if direction is not None:
        column = x @ direction
        added = vectors.T @ column
        square = float(column @ column)
        total += square
        dual, _, left_out = _solve(eigenvalues, vectors, residual, share, total * alphas, added=added)
        fits.append((x.T @ (vectors @ dual) + (added @ dual) * direction, left_out))
        slope, leverage = float(column @ residual) / square, column**2 / square + share
        fits.append((slope * direction, (residual - slope * column) / (1 - leverage).clip(min=1e-9)))
    coefficients, left_out = _mean_of(fits)
    errors = left_out / root
    return Regressor(mean, scale, coefficients, intercept, alpha, fit_interval(y - errors, errors))


def _mean_of(fits: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Gives the mean coefficients and leave-one-out residuals of fits, each weighed by how small these are."""
    errors = np.array([np.mean(left_out**2) for _, left_out in fits]).clip(min=1e-30)
    weights = (errors.min() / errors) ** 2
    weights /= weights.sum()
    coefficients, left_out = (np.average(part, axis=0, weights=weights) for part in zip(*fits, strict=True))
    return coefficients, left_out


def _solve(
    eigenvalues: Array, vectors: Array, residual: Array, share: Array, alphas: Array, *, added: Array | None = None
) -> tuple[Array, float, Array]:
    """Chooses the penalty a.

    Args:
        eigenvalues: (R,) of the Gram matrix K.
        vectors: (N, R) its eigenvectors V.
        residual: (N,) centred ratings, scaled as the rows of K are.
        share: (N,) weights that sum to 1.
        alphas: To choose from.
        added: (R,) V^T z of one more feature z, whose Gram matrix is K + z z^T.

    Returns:
        (R,) V^T (K + a I)^-1 residual, a, and the (N,) leave-one-out residuals.
    """
    rotated, squares = vectors.T @ residual, vectors**2
    found = []
    for alpha in alphas.tolist():
        inverse = 1 / (eigenvalues + alpha)
        dual = inverse * rotated
        hat, leverage = vectors @ (eigenvalues * dual), squares @ (eigenvalues * inverse) + share
        if added is not None:
            # By Sherman and Morrison, with u = (K + a I)^-1 z the inverse loses u u^T / (1 + z^T u), so that H gains a
            # times that.
            rotated_u = inverse * added
            u, grown = vectors @ rotated_u, 1 + added @ rotated_u
            gain = float(rotated_u @ rotated) / grown
            dual = dual - gain * rotated_u
            hat, leverage = hat + alpha * gain * u, leverage + alpha * u**2 / grown
        found.append((dual, alpha, (residual - hat) / (1 - leverage).clip(min=1e-9)))
    return min(found, key=lambda one: float(np.mean(one[2] ** 2)))


def _direction(start: Regressor, features: NDArray[np.floating], scale: Array, share: Array) -> Array | None:
    """Gives what a regressor predicts along, in standardised features; None where they are all the same to it."""
    if len(start.coefficients) != features.shape[1]:
        raise ValueError(f"a regressor of {len(start.coefficients)} features does not fit {features.shape[1]} features")
    predicted = start.predict(features)
    mean = float(share @ predicted)
    deviation = float(np.sqrt(share @ (predicted - mean) ** 2))
    # As of a feature: what varies by rounding noise alone would be blown up.
    if deviation <= 1e-6 * max(abs(mean), 1e-6):
        return None
    direction: Array = start.coefficients * scale / start.scale * (VARIANCE_OF_START**0.5 / deviation)
    return direction


def standardisation(
    x: Array, share: Array, *, blocks: Sequence[int] | None = None, variances: Sequence[float] | None = None
) -> tuple[Array, Array]:
    """Gives what makes features comparable: every block has variance 1 in all once they are shifted and divided.

    Args:
        x: (N, D) features.
        share: (N,) weights that sum to 1.
        blocks: Lengths of the blocks that the features consist of, in order; by default they are one block, and every
            feature has variance 1.
        variances: Of each block, where it is not 1.

    Returns:
        (D,) weighted mean, and (D,) what to divide by once it is subtracted.

    Raises:
        ValueError: There are variances without blocks.
    """
    if variances is not None and blocks is None:
        raise ValueError("variances are those of blocks; give these too")
    mean = share @ x
    deviation = np.sqrt(share @ (x - mean) ** 2)
    # A feature whose spread is rounding noise would be blown up to the size of the others.
    scale = np.where(deviation > 1e-6 * np.abs(mean).clip(min=1e-6), deviation, 1.0)
    if blocks is None:
        return mean, scale
    each = np.asarray(blocks) / (1 if variances is None else np.asarray(variances))
    return mean, scale * np.repeat(np.sqrt(each), blocks)


def _gram_eigenvectors(x: Array) -> tuple[Array, Array]:
    """Eigenvalues (R,) and eigenvectors (N, R) of X X^T, by way of the smaller of X X^T and X^T X."""
    if len(x) <= x.shape[1]:
        eigenvalues, vectors = np.linalg.eigh(x @ x.T)
        return eigenvalues.clip(min=0), vectors
    eigenvalues, axes = np.linalg.eigh(x.T @ x)
    # Directions without variance have no eigenvector of X X^T, and no part in the fit.
    kept = eigenvalues > 1e-12 * eigenvalues[-1]
    return eigenvalues[kept], x @ axes[:, kept] / np.sqrt(eigenvalues[kept])
