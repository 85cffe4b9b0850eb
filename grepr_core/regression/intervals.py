"""Prediction intervals by split conformal prediction on left-out residuals, wider where errors are larger.

A photograph that had to be enlarged to be seen at the size of the rated ones tells less of its quality, and looks worse
than its original; so intervals grow with the enlargement, by an amount for each side.

Errors of predicted quality are not alike everywhere: the middle of the scale is harder than its ends. So the typical
error is first modelled as a parabola over the predicted score, and residuals are compared with it (locally weighted
conformal prediction, Lei et al., J. Am. Stat. Assoc. 113, 2018, section 5.2).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

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
        widening: (K, 3) of photographs that were enlarged: by how much, ascending from above 1; and how often the
            ``factor`` their interval reaches down, and up. Between 1 and these it is interpolated over the logarithm;
            beyond, it is continued flat. None where it was not measured.
    """

    level: float
    coefficients: Array
    lowest: float
    highest: float
    floor: float
    factor: float
    widening: Array | None = None

    def bounds(self, predicted: Array, enlargement: Array | float = 1.0) -> tuple[Array, Array]:
        """Gives the intervals.

        Args:
            predicted: (N,) predicted scores.
            enlargement: (N,) or one, by how much the sides of the photographs were enlarged; 1 where they were not.

        Returns:
            (N,) lower and (N,) upper ends.
        """
        half = self.factor * self._typical_error(predicted)
        if self.widening is None:
            return predicted - half, predicted + half
        steps = np.log([1.0, *self.widening[:, 0]])
        down, up = (np.interp(np.log(enlargement), steps, [1.0, *self.widening[:, side]]) for side in (1, 2))
        return predicted - down * half, predicted + up * half

    def _typical_error(self, predicted: Array) -> Array:
        inside = predicted.clip(self.lowest, self.highest)
        error: Array = np.polyval(self.coefficients, inside).clip(min=self.floor)
        return error

    def to_array(self) -> Array:
        """Gives the numbers to store, (8,)."""
        return np.array([self.level, *self.coefficients, self.lowest, self.highest, self.floor, self.factor])

    @classmethod
    def from_array(cls, numbers: Array, widening: Array | None = None) -> "IntervalModel":
        """Rebuilds a model from :meth:`to_array` and its ``widening``."""
        level, lowest, highest, floor, factor = (float(numbers[i]) for i in (0, 4, 5, 6, 7))
        return cls(level, numbers[1:4], lowest, highest, floor, factor, widening)

    def widened(self, enlarged: Mapping[float, tuple[Array, Array]]) -> "IntervalModel":
        """Calibrates the intervals of photographs that were enlarged.

        Args:
            enlarged: For some enlargements, ascending, (N,) scores of rated photographs that were made smaller,
                predicted without their ratings, and (N,) the ratings of their originals minus these.

        Returns:
            The model that holds as many of those ratings, half of the others below and half above.
        """
        tail = (1 - self.level) / 2
        rows = []
        for enlargement, (predicted, residuals) in enlarged.items():
            ratios = residuals / (self.factor * self._typical_error(predicted))
            down, up = np.quantile(ratios, [tail, 1 - tail], method="inverted_cdf")
            rows.append((enlargement, max(0.0, -float(down)), max(0.0, float(up))))
        return replace(self, widening=np.array(rows))


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
