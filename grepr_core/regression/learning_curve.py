"""What more ratings would likely bring: learning curves continued beyond the ratings there are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grepr_core.regression.metrics import LabelBudgetResult

Array = NDArray[np.float64]

#: Fewer numbers of ratings, or numbers closer to each other, say too little of how a curve bends.
FEWEST_POINTS, SHORTEST_REACH = 3, 4
#: The first ratings help more than any law says, so those numbers below an eighth of the largest are left out.
LONGEST_REACH = 8
#: Least 1 - SROCC of a draw whose logarithm is taken; few test images can be ranked without fault by luck.
LEAST_MISSED = 1e-3
#: Ranges are this many standard errors wide to each side, for 90 %.
STANDARD_ERRORS = 1.645
#: Test images over training images of a draw. Draws share images, so their mean varies more than that of independent
#: ones: by 1 / draws + this, times the variance of a draw (Nadeau and Bengio, Machine Learning 52, 2003).
TEST_FRACTION = 0.25


@dataclass(frozen=True)
class Outlook:
    """What a learning curve would likely come to.

    Attributes:
        labels: Ratings fitted on.
        srocc: Likely rank correlation with the ratings of other images like these.
        low: Lower end of a range of about 90 %.
        high: Upper end of it.
    """

    labels: int
    srocc: float
    low: float
    high: float


def extrapolate(curve: Sequence[LabelBudgetResult], labels: Sequence[int]) -> list[Outlook]:
    """Continues a learning curve.

    Two laws are fitted to 1 - SROCC at the numbers n of ratings: an inverse square root above a floor, a + b n^-1/2,
    and a power law without one, c n^-p. Measured curves run between them, nearer to the first, which is taken for the
    likely value; the second hopes for perfect agreement in the end. The range spans both with their standard errors,
    which are mostly those of the curve itself.

    Args:
        curve: Results of :func:`grepr_core.regression.metrics.few_label_protocol` without a fixed test set.
        labels: Numbers of ratings to continue to.

    Returns:
        One outlook for each number of ratings; none where the curve has fewer than 3 points, reaches over less than a
        factor of 4, or does not rise.
    """
    most = max((point.labels for point in curve), default=0)
    points = [point for point in curve if point.labels * LONGEST_REACH >= most]
    if len(points) < FEWEST_POINTS or most < SHORTEST_REACH * min(point.labels for point in points):
        return []
    n = np.array([point.labels for point in points], np.float64)
    missed = 1 - np.array([point.srocc_by_draw for point in points]).T  # (draws, numbers of ratings)
    if missed[:, n.argmax()].mean() >= missed[:, n.argmin()].mean():
        return []
    outlooks = []
    for m in labels:
        root = 1 - _continue(n**-0.5, missed, m**-0.5)
        power = 1 - np.exp(_continue(np.log(n), np.log(missed.clip(min=LEAST_MISSED)), float(np.log(m))))
        low, high = min(root[0], power[0]), max(root[2], power[2])
        outlooks.append(Outlook(m, float(root[1]), float(low), float(high)))
    return outlooks


def _continue(x: Array, y: Array, at: float) -> Array:
    """Continues the line through the values (draws, points) of each draw: upper end, mean and lower end at a place."""
    line = np.linalg.pinv(np.column_stack([np.ones_like(x), x]))
    values = y @ line.T @ np.array([1.0, at])
    error = STANDARD_ERRORS * values.std(ddof=1) * (1 / len(values) + TEST_FRACTION) ** 0.5
    ends: Array = values.mean() + error * np.array([1, 0, -1])
    return ends
