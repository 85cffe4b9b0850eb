"""What more ratings would likely bring: learning curves continued beyond the ratings there are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grepr_core.metrics import LabelBudgetResult

Array = NDArray[np.float64]

#: Fewer numbers of ratings say nothing of how a curve bends.
FEWEST_POINTS = 3
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

    Two laws are fitted to 1 - SROCC at the numbers n of ratings of the curve: a power law without floor, c n^-p, and
    an inverse square root with one, c + d n^-1/2. Real curves run between them: a power law hopes for perfect
    agreement in the end, and an inverse square root, fitted where the first ratings help most, levels off too soon.
    The likely value is the mean of both, and the range reaches from the lower to the higher, with the standard error of
    either.

    Args:
        curve: Results of :func:`grepr_core.metrics.few_label_protocol` without a fixed test set.
        labels: Numbers of ratings to continue to.

    Returns:
        One outlook for each number of ratings; none where the curve has fewer than 3 points, or does not rise.
    """
    n = np.array([point.labels for point in curve], np.float64)
    if len(n) < FEWEST_POINTS:
        return []
    # By draw and number of ratings.
    missed = 1 - np.array([point.srocc_by_draw for point in curve]).T
    power = [_continue(np.log(n), np.log(missed.clip(min=1e-3)), np.log(m), np.exp) for m in labels]
    root = [_continue(n**-0.5, missed, m**-0.5, lambda x: x) for m in labels]
    likely = [Outlook(m, (a[1] + b[1]) / 2, min(a[0], b[0]), max(a[2], b[2])) for m, a, b in zip(labels, power, root, strict=True)]
    return likely


def _continue(x: Array, y: Array, at: float, inverse: Callable[[float], float]) -> tuple[float, float, float]:
    """Fits lines through the values of each draw, and gives lower end, mean and upper end of the SROCC at a point."""
    line = np.linalg.pinv(np.column_stack([np.ones_like(x), x]))
    values = y @ line.T @ np.array([1.0, at])
    error = STANDARD_ERRORS * float(values.std(ddof=1)) * (1 / len(values) + TEST_FRACTION) ** 0.5
    middle = float(values.mean())
    return 1 - inverse(middle + error), 1 - inverse(middle), 1 - inverse(middle - error)
