"""Prediction intervals by split conformal prediction on left-out residuals, wider where errors are larger.

Errors of predicted quality are not alike everywhere: the middle of the scale is harder than its ends. So the typical
error is first modelled as a parabola over the predicted score, and residuals are compared with it (locally weighted
conformal prediction, Lei et al., J. Am. Stat. Assoc. 113, 2018, section 5.2).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Fraction of the ratings that intervals are made to hold.
LEVEL = 0.9
#: Fewer ratings than this say too little about a tenth of the errors.
FEWEST_RATINGS = 30
#: The typical error is never taken for smaller than this fraction of its mean.
FLOOR = 0.25


@dataclass(frozen=True)
class IntervalModel:
    """How wide a prediction interval is at each predicted score.

    Attributes:
        level: Fraction of the ratings that lie within.
        coefficients: (3,) of the typical error as a parabola over the predicted score, highest power first.
        lowest: Lowest predicted score that the parabola was fitted on; below, it is continued flat.
        highest: Highest one; above, it is continued flat.
        floor: Least typical error.
        factor: Half the width of the interval, in typical errors.
    """

    level: float
    coefficients: Array
    lowest: float
    highest: float
    floor: float
    factor: float

    def bounds(self, predicted: Array) -> tuple[Array, Array]:
        """Gives the intervals.

        Args:
            predicted: (N,) predicted scores.

        Returns:
            (N,) lower and (N,) upper ends.
        """
        half = self.factor * self._typical_error(predicted)
        return predicted - half, predicted + half

    def _typical_error(self, predicted: Array) -> Array:
        inside = predicted.clip(self.lowest, self.highest)
        error: Array = np.polyval(self.coefficients, inside).clip(min=self.floor)
        return error

    def to_array(self) -> Array:
        """Gives the numbers to store, (8,)."""
        return np.array([self.level, *self.coefficients, self.lowest, self.highest, self.floor, self.factor])

    @classmethod
    def from_array(cls, numbers: Array) -> "IntervalModel":
        """Rebuilds a model from :meth:`to_array`."""
        level, lowest, highest, floor, factor = (float(numbers[i]) for i in (0, 4, 5, 6, 7))
        return cls(level, numbers[1:4], lowest, highest, floor, factor)


def fit_interval(predicted: Array, residuals: Array, *, level: float = LEVEL) -> IntervalModel | None:
    """Calibrates intervals.

    Args:
        predicted: (N,) score of each rated image, predicted without its own rating.
        residuals: (N,) rating minus that prediction.
        level: Fraction of the ratings that intervals are to hold.

    Returns:
        The model; None with fewer than 30 ratings.
    """
    errors = np.abs(residuals)
    if len(errors) < FEWEST_RATINGS or not errors.any():
        return None
    coefficients = np.polyfit(predicted, errors, 2)
    floor = FLOOR * float(errors.mean())
    unscaled = IntervalModel(level, coefficients, float(predicted.min()), float(predicted.max()), floor, 1.0)
    ratios = np.sort(errors / unscaled._typical_error(predicted))
    # The conformal quantile: the rank that holds for one more image like these.
    rank = min(math.ceil(level * (len(ratios) + 1)), len(ratios))
    return IntervalModel(level, coefficients, unscaled.lowest, unscaled.highest, floor, float(ratios[rank - 1]))
