"""Learns probes from examples: ridge regressions, and a scale on which clean photographs have 0."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve

from grepr_core.reasons.probes import NOT_PHOTO, SEVERITIES, Probes
from grepr_core.regression.regressor import standardisation

Array = NDArray[np.float64]

#: For blocks of features that have a variance of 1 each. Of 1, 3 and 10 it has the least squared error on groups left
#: out for nine of twelve probes, and is within 3 % of that for the others.
PENALTY = 3.0
FOLDS = 5
#: Targets that tell how far a severity reaches; lower ones are too near to none.
HIGH = 0.5
#: Share of the clean photographs that a severity may be above 0 for.
ABOVE_ZERO = 0.05
#: Share of the photographs as they are that may be taken for none while the probe is learned.
TAKEN_FOR_NONE = 0.002
#: Share of what is none that may pass for a photograph, where that spares photographs.
PASSED_FOR_ONE = 0.05


@dataclass(frozen=True, eq=False)
class Examples:
    """What M probes are learned from: N photographs, faulty versions of them, and graphics.

    Attributes:
        features: (N, D) float32.
        targets: (N, M) severities in [0, 1]; of the last probe 1 for what is no photograph.
        known: (N, M) bool, which targets are to be learned from.
        columns: (M,) int64, which severity each probe is for, see :class:`~grepr_core.reasons.probes.Probes`.
        groups: (N,) what belongs together, and is left out together: a scene, a kind of graphic.
        unchanged: (N,) bool, photographs as they are.
        clean: (N,) bool, those of them that have no fault.
    """

    features: NDArray[np.float32]
    targets: NDArray[np.float32]
    known: NDArray[np.bool_]
    columns: NDArray[np.int64]
    groups: NDArray[np.int64]
    unchanged: NDArray[np.bool_]
    clean: NDArray[np.bool_]


def fit_probes(examples: Examples, *, blocks: Sequence[int]) -> Probes:
    """Fits the probes of severities, and the one that tells what is no photograph.

    Each is a ridge regression on standardised features. A severity is stretched, by what it is for groups left out, so
    that it is 0 up to the 95 % quantile of the clean photographs (of several probes together), and from there on grows
    with the target, by the median of their ratio. What is no photograph begins where 0.2 % of the photographs as they
    are would, or only where 95 % of the others are past.

    Args:
        examples: To learn from.
        blocks: Lengths of the blocks that the features consist of.

    Returns:
        The probes.

    Raises:
        ValueError: There are no clean photographs, or for a probe no example of a severity of 0.5 or more.
    """
    x = examples.features.astype(np.float64)
    mean, scale = standardisation(x, np.full(len(x), 1 / len(x)), blocks=blocks)
    x = (x - mean) / scale
    gram = x @ x.T
    folds = np.random.default_rng(0).permutation(examples.groups.max() + 1)[examples.groups] % FOLDS
    weights, offsets = [], []
    for probe, column in enumerate(examples.columns.tolist()):
        y, known = examples.targets[:, probe].astype(np.float64), examples.known[:, probe]
        high = known & (y >= HIGH)
        if not high.any() or not (examples.clean & known).any():
            name = (*SEVERITIES, NOT_PHOTO)[column]
            raise ValueError(f"there are no examples of {name} at a high level, or no clean photographs")
        values = _left_out(gram, y, known, folds)
        dual, centre = _dual(gram, y, known)
        if column < len(SEVERITIES):
            above = ABOVE_ZERO / np.count_nonzero(examples.columns == column)
            low = float(np.quantile(values[examples.clean & known], 1 - above))
            slope = 1 / float(np.median((values[high] - low) / y[high]))
        else:
            photographs = float(np.quantile(values[examples.unchanged], 1 - TAKEN_FOR_NONE))
            low, slope = max(photographs, float(np.quantile(values[high], PASSED_FOR_ONE))), 1.0
        weight = slope * (x[known].T @ dual) / scale
        weights.append(weight)
        offsets.append(slope * (centre - low) - float(mean @ weight))
    return Probes(np.stack(weights, axis=1).astype(np.float32), np.array(offsets, np.float32), examples.columns)


def _dual(gram: Array, y: Array, rows: NDArray[np.bool_]) -> tuple[Array, float]:
    """Solves a ridge regression on some of the rows; gives the weight of each of them, and the mean."""
    inner = gram[np.ix_(rows, rows)]
    inner[np.diag_indices(len(inner))] += PENALTY
    centre = float(y[rows].mean())
    return solve(inner, y[rows] - centre, assume_a="pos", overwrite_a=True), centre


def _left_out(gram: Array, y: Array, known: NDArray[np.bool_], folds: NDArray[np.int64]) -> Array:
    """Predicts all rows, each by a regression that knows nothing of its group."""
    values = np.empty(len(y))
    for fold in range(FOLDS):
        rows = known & (folds != fold)
        dual, centre = _dual(gram, y, rows)
        values[folds == fold] = gram[np.ix_(folds == fold, rows)] @ dual + centre
    return values
