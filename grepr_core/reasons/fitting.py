"""Learns probes from examples: ridge regressions, and a scale on which clean photographs have 0."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve

from grepr_core.reasons.probes import SEVERITIES, Probes
from grepr_core.regression.regressor import standardisation

Array = NDArray[np.float64]

#: Penalties tried, for blocks of features that have a variance of 1 each.
PENALTIES = (0.3, 1.0, 3.0, 10.0)
FOLDS = 5
#: Share of the clean photographs that a severity may be above 0 for.
ABOVE_ZERO = 0.05
#: Share of all photographs, faulty ones too, that may be taken for none while the probe is learned.
TAKEN_FOR_NONE = 0.001


@dataclass(frozen=True, eq=False)
class Examples:
    """What probes are learned from: N photographs, faulty versions of them, and graphics.

    Attributes:
        features: (N, D) float32.
        targets: (N, K + 1) severities in [0, 1], and 1 for what is no photograph.
        known: (N, K + 1) bool, which targets are to be learned from.
        groups: (N,) what belongs together, and is left out together: a scene, a kind of graphic.
        clean: (N,) bool, clean photographs.
    """

    features: NDArray[np.float32]
    targets: NDArray[np.float32]
    known: NDArray[np.bool_]
    groups: NDArray[np.int64]
    clean: NDArray[np.bool_]


def fit_probes(examples: Examples, *, blocks: Sequence[int]) -> Probes:
    """Fits a probe for each severity, and the one that tells what is no photograph.

    Each is a ridge regression on standardised features, whose penalty has the least squared error on groups left out.
    A severity is stretched, by what it is for groups left out, so that it is 0 up to the 95 % quantile of the clean
    photographs and 1 at the median of the highest level. What is no photograph begins where 0.1 % of the photographs
    and their faulty versions would.

    Args:
        examples: To learn from.
        blocks: Lengths of the blocks that the features consist of.

    Returns:
        The probes.

    Raises:
        ValueError: There are not examples of every fault at its highest level, of clean photographs, and of graphics.
    """
    x = examples.features.astype(np.float64)
    mean, scale = standardisation(x, np.full(len(x), 1 / len(x)), blocks=blocks)
    x = (x - mean) / scale
    gram = x @ x.T
    folds = np.random.default_rng(0).permutation(examples.groups.max() + 1)[examples.groups] % FOLDS
    weights, offsets = [], []
    for probe, name in enumerate((*SEVERITIES, None)):
        y, known = examples.targets[:, probe].astype(np.float64), examples.known[:, probe]
        highest = known & (y == 1)
        if not highest.any() or not examples.clean.any():
            raise ValueError(f"there are no examples of {name or 'graphics'} at the highest level, or no clean ones")
        penalty, values = min(
            ((penalty, _left_out(gram, y, known, folds, penalty)) for penalty in PENALTIES),
            key=lambda tried: float(np.mean((tried[1] - y)[known] ** 2)),
        )
        dual, centre = _dual(gram, y, known, penalty)
        if name is not None:
            low = float(np.quantile(values[examples.clean & known], 1 - ABOVE_ZERO))
            slope = 1 / (float(np.median(values[highest])) - low)
        else:
            low, slope = float(np.quantile(values[known & (y == 0)], 1 - TAKEN_FOR_NONE)), 1.0
        weight = slope * (x[known].T @ dual) / scale
        weights.append(weight)
        offsets.append(slope * (centre - low) - float(mean @ weight))
    return Probes(np.stack(weights, axis=1).astype(np.float32), np.array(offsets, np.float32))


def _dual(gram: Array, y: Array, rows: NDArray[np.bool_], penalty: float) -> tuple[Array, float]:
    """Solves a ridge regression on some of the rows; gives the weight of each of them, and the mean."""
    inner = gram[np.ix_(rows, rows)]
    inner[np.diag_indices(len(inner))] += penalty
    centre = float(y[rows].mean())
    return solve(inner, y[rows] - centre, assume_a="pos", overwrite_a=True), centre


def _left_out(gram: Array, y: Array, known: NDArray[np.bool_], folds: NDArray[np.int64], penalty: float) -> Array:
    """Predicts all rows, each by a regression that knows nothing of its group."""
    values = np.empty(len(y))
    for fold in range(FOLDS):
        rows = known & (folds != fold)
        dual, centre = _dual(gram, y, rows, penalty)
        values[folds == fold] = gram[np.ix_(folds == fold, rows)] @ dual + centre
    return values
