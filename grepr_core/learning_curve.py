"""What more ratings would likely bring: learning curves continued beyond the ratings there are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grepr_core.metrics import LabelBudgetResult

Array = NDArray[np.float64]

#: Fewer numbers of ratings say nothing of how a curve bends.
FEWEST_POINTS = 3
#: The largest number of ratings over the smallest that a law is fitted to.
LONGEST_REACH = 8
#: Least 1 - SROCC of a draw whose logarithm is taken; few test images can be ranked without fault by luck.
LEAST_MISSED = 1e-3
#: Ranges are this many standard errors to each side, for 90 %.
STANDARD_ERRORS = 1.645
#: Test images over training images of a draw. Draws share images, so their mean varies more than independent ones'
#: would: by 1 / draws + this, times the variance of a draw (Nadeau and Bengio, Machine Learning 52, 2003).
TEST_FRACTION = 0.25


@dataclass(frozen=True)
class Outlook:
    """What a learning curve would likely come to.

    Attributes:
        labels: Ratings fitted on.
        srocc: Likely rank correlation.
        low: Lower end of a range of about 90 %.
        high: Upper end of it.
    """

    labels: int
    srocc: float
    low: float
    high: float


def extrapolate(curve: Sequence[LabelBudgetResult], labels: Sequence[int]) -> list[Outlook]:
    """Continues a learning curve.

    Two laws are fitted to 1 - SROCC at the numbers n of ratings: a power law without floor, c n^-p, and an inverse
    square root with one, c + d n^-1/2. Measured curves mostly run between them: the first hopes for perfect agreement
    in the end, the second levels off soon. The likely value is the mean of both; the range reaches from the lower to
    the higher one, widened by their standard errors. Only the part of the curve from an eighth of its ratings on is
    used, since the first ratings help more than any law says.

    Args:
        curve: Results of :func:`grepr_core.metrics.few_label_protocol` without a fixed test set.
        labels: Numbers of ratings to continue to.

    Returns:
        One outlook for each number of ratings; none where the curve has fewer than 3 points in that part, or its mean
        does not rise from the first of them to the last.
    """
    most = max((point.labels for point in curve), default=0)
    points = [point for point in curve if point.labels * LONGEST_REACH >= most]
    n = np.array([point.labels for point in points], np.float64)
    missed = 1 - np.array([point.srocc_by_draw for point in points]).T  # (draws, numbers of ratings)
    if len(n) < FEWEST_POINTS or missed[:, -1].mean() >= missed[:, 0].mean():
        return []
    outlooks = []
    for m in labels:
        power = 1 - np.exp(_continue(np.log(n), np.log(missed.clip(min=LEAST_MISSED)), float(np.log(m))))
        root = 1 - _continue(n**-0.5, missed, m**-0.5)
        (low, likely, high) = zip(power, root, strict=True)
        outlooks.append(Outlook(m, float(np.mean(likely)), float(min(low)), float(max(high))))
    return outlooks


def _continue(x: Array, y: Array, at: float) -> Array:
    """Continues the line through the values (draws, points) of each draw: upper end, mean and lower end at a place."""
    line = np.linalg.pinv(np.column_stack([np.ones_like(x), x]))
    values = y @ line.T @ np.array([1.0, at])
    error = STANDARD_ERRORS * values.std(ddof=1) * (1 / len(values) + TEST_FRACTION) ** 0.5
    ends: Array = values.mean() + error * np.array([1, 0, -1])
    return ends
