"""The high-level zero-shot score without prompts: where an image lies between good photographs and bad ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from grepr_core.zero_shot.scores import sigmoid

Array = NDArray[np.float64]
#: Added to the covariance, in mean eigenvalues: much, since features are more than the photographs they vary with.
SHRINKAGE = 100.0
#: Of the mean of the bad group: photographs as they come have faults that no distortion has. With them the SROCC by 800
#: ratings was .598, without .564.
UNRATED_SHARE = 1 / 3


@dataclass(frozen=True, eq=False)
class QualityAxis:
    """The axis between two groups of photographs in the features of an encoder that knows no text.

    GRepQ (arXiv 2312.04838) tells good from bad photographs twice: by likeness to a good and a bad prompt, and by a
    loss that pulls a group of good and a group of bad ones apart. Here the means of two such groups take the prompts'
    place: photographs that are known to be clean, and their distorted versions with photographs as they come. No rating
    goes in.

    Attributes:
        direction: (D,) position for each unit of a feature.
        origin: Where unrated photographs lie on average, along the direction.
        slope: Of the score, as that of cosines with prompts.
    """

    direction: Array
    origin: float
    slope: float = 1.0

    def __post_init__(self) -> None:
        """Checks that it gives a score.

        Raises:
            ValueError: The direction is not (D,), or numbers are not finite, or the slope is not positive.
        """
        finite = np.isfinite(self.direction).all() and np.isfinite([self.origin, self.slope]).all()
        if self.direction.ndim != 1 or not finite or not self.slope > 0:
            raise ValueError("a quality axis needs a direction (D,), an origin and a positive slope, all finite")

    def position(self, features: NDArray[np.floating]) -> Array:
        """Gives where images lie, in standard deviations of the unrated photographs.

        Args:
            features: (N, D) of the encoder.

        Returns:
            (N,) positions, 0 where those lie on average, higher is better.
        """
        return features.astype(np.float64) @ self.direction - self.origin

    def score(self, features: NDArray[np.floating]) -> Array:
        """Gives the high-level zero-shot score, Q_H = sigmoid(slope position).

        Args:
            features: (N, D) of the encoder.

        Returns:
            (N,) in (0, 1), higher is better; 0.5 where unrated photographs lie on average.
        """
        return self.score_at(self.position(features))

    def score_at(self, position: Array) -> Array:
        """Gives the score of images whose :meth:`position` is known already.

        Args:
            position: (N,) of the images.

        Returns:
            (N,) as :meth:`score`.
        """
        return sigmoid(self.slope * position)

    def with_spread(self, spread: float) -> Self:
        """Gives the axis whose scores vary by so much, which decides what they weigh in a sum with others.

        The published sum takes what ranges come: Q_L = sigmoid(-d / 100) varies by hundredths, Q_H by tenths.

        Args:
            spread: Standard deviation that the scores of unrated photographs shall have, well below 0.25.

        Returns:
            The axis with its slope set; the steepest part of a sigmoid rises by a quarter of it.
        """
        return replace(self, slope=4 * spread)

    def to_arrays(self) -> dict[str, Array]:
        """Gives the numbers to store, by name."""
        return {"direction": self.direction, "origin": np.array([self.origin]), "slope": np.array([self.slope])}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        """Rebuilds an axis from :meth:`to_arrays`."""
        return cls(arrays["direction"], float(arrays["origin"][0]), float(arrays["slope"][0]))


def fit_axis(
    good: NDArray[np.floating],
    bad: NDArray[np.floating],
    unrated: NDArray[np.floating],
    *,
    blocks: Sequence[int],
    shrinkage: float = SHRINKAGE,
) -> QualityAxis:
    """Fits the axis: the difference of the groups' means, shrunk by how features vary anyway.

    Features are standardised by the unrated photographs, and those of a block divided by the root of its length, as the
    regressor has it. With C their covariance and t its mean eigenvalue, the direction is
    (C + shrinkage t I)^-1 (mean of good - mean of bad), unrated photographs being a third of the bad ones.

    Args:
        good: (G, D) features of clean photographs.
        bad: (B, D) features of distorted ones, best of the same.
        unrated: (N, D) features of photographs as they come.
        blocks: Lengths of the blocks that the features consist of, in order.
        shrinkage: How little the covariance counts.

    Returns:
        The axis, its positions in standard deviations of the unrated photographs.

    Raises:
        ValueError: The unrated photographs, or the two groups, do not differ.
    """
    from scipy.linalg import solve  # noqa: PLC0415 - takes a fifth of a second, and scoring needs none of it

    unrated = unrated.astype(np.float64)
    mean, deviation = unrated.mean(axis=0), unrated.std(axis=0)
    good_mean, bad_mean = (group.mean(axis=0, dtype=np.float64) for group in (good, bad))
    bad_mean = UNRATED_SHARE * mean + (1 - UNRATED_SHARE) * bad_mean
    constant = deviation <= 1e-6 * np.abs(mean).clip(min=1e-6)
    # What does not vary among photographs has no part in the axis.
    scale = np.where(constant, np.inf, deviation) * np.repeat(np.sqrt(blocks), blocks)
    standardised = (unrated - mean) / scale
    gap = (good_mean - bad_mean) / scale
    # By way of the Gram matrix X X^T, since photographs are mostly fewer than features:
    # (X^T X / N + a I)^-1 gap = (gap - X^T (X X^T + N a I)^-1 X gap) / a.
    gram = standardised @ standardised.T
    gram[np.diag_indices_from(gram)] += shrinkage * max(float(gram.trace()), 1e-12) / len(gap)
    direction = (gap - standardised.T @ solve(gram, standardised @ gap, assume_a="pos", overwrite_a=True)) / scale
    spread = float((unrated @ direction).std())
    if not spread > 0:
        raise ValueError("photographs or groups do not differ, so there is no axis between them")
    direction /= spread
    return QualityAxis(direction, float(mean @ direction))
