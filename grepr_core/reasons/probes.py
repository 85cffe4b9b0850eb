"""Linear probes from features to severities of faults. Reading them needs NumPy only."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

#: Faults, as the columns of the scores name them.
SEVERITIES = (
    "blur",
    "noise",
    "compression",
    "underexposure",
    "overexposure",
    "low_contrast",
    "color_cast",
    "pixelation",
)
NOT_PHOTO = "not_photo"
#: Severity from which on a fault is told as the reason.
NOTABLE = 0.4


class Diagnosis(NamedTuple):
    """What ails N images.

    Attributes:
        severities: (N, K) float32 in [0, 1], in the order of :data:`SEVERITIES`; clean photographs have 0.
        not_photo: (N,) bool, whether an image is none: blank, a graphic, a screenshot, a page of text, noise.
    """

    severities: NDArray[np.float32]
    not_photo: NDArray[np.bool_]

    @property
    def reasons(self) -> list[str | None]:
        """The N names of what is worst: ``not_photo``, else a severity that is notable, or None."""
        worst = self.severities.argmax(axis=1)
        return [
            NOT_PHOTO if none else SEVERITIES[fault] if row[fault] >= NOTABLE else None
            for row, fault, none in zip(self.severities, worst, self.not_photo, strict=True)
        ]


@dataclass(frozen=True, eq=False)
class Probes:
    """M linear probes: one or several for each of the K severities, and one for the flag.

    A severity is the largest w . x + b of its probes, clipped to [0, 1]: a colour cast may go several ways, and no
    linear probe rises with all of them. An image is flagged where the value of the last probe is above 0.

    Attributes:
        weights: (D, M) float32.
        offsets: (M,) float32.
        columns: (M,) int64, which severity each probe is for, ascending; K for the flag.
    """

    weights: NDArray[np.float32]
    offsets: NDArray[np.float32]
    columns: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Checks that there is a probe for all that this version tells.

        Raises:
            ValueError: There are others, in another order, or numbers that are not finite.
        """
        shapes = self.weights.shape[1:], self.offsets.shape, self.columns.shape
        ascending = len(set(shapes)) == 1 and self.columns.tolist() == sorted(self.columns.tolist())
        if not ascending or sorted(set(self.columns.tolist())) != list(range(len(SEVERITIES) + 1)):
            raise ValueError(f"reasons need probes for {len(SEVERITIES)} severities and the flag, not {self.columns}")
        if not (np.isfinite(self.weights).all() and np.isfinite(self.offsets).all()):
            raise ValueError("the probes for reasons must be finite")

    @property
    def feature_size(self) -> int:
        """Number of features D that the probes look at."""
        return len(self.weights)

    def diagnose(self, features: NDArray[np.float32]) -> Diagnosis:
        """Says what ails images.

        Args:
            features: (N, D or more) features, those of EfficientNet-Lite0 first.

        Returns:
            Of each image.
        """
        values = features[:, : self.feature_size] @ self.weights + self.offsets
        largest = np.maximum.reduceat(values, np.searchsorted(self.columns, range(len(SEVERITIES) + 1)), axis=1)
        return Diagnosis(largest[:, :-1].clip(0, 1), largest[:, -1] > 0)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Gives the numbers to store, by name."""
        return {"weights": self.weights, "offsets": self.offsets, "columns": self.columns}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Rebuilds probes from :meth:`to_arrays`.

        Raises:
            KeyError: Numbers are missing.
            ValueError: They are of other probes than those of this version.
        """
        return cls(arrays["weights"], arrays["offsets"], arrays["columns"])
