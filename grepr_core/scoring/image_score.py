"""What becomes of one image in scoring."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from grepr_core.decoding.images import Failure, Status
from grepr_core.reasons.probes import SEVERITIES


@dataclass(frozen=True, slots=True)
class ImageScore:
    """What becomes of one image. Either ``score`` or ``error`` is given, never both.

    Only a bundle that has no way to a score yet leaves both out, and gives features alone. Equal are those that agree
    in all but the features.

    Attributes:
        status: ``scored``, or why not.
        error: The reason in words, None when scored.
        score: Predicted quality on the scale of the bundle, higher is better.
        score_low: Zero-shot score of the low-level path, in (0, 1); None where the bundle lacks it.
        score_high: Zero-shot score of the high-level path, in (0, 1); None where the bundle lacks it.
        score_lower: Lower end of the prediction interval; None where not calibrated.
        score_upper: Upper end of it.
        severities: Of each fault by name, see :data:`grepr_core.reasons.probes.SEVERITIES`, in [0, 1]; None where the
            bundle does not tell.
        not_photo: Whether it is no photograph; likewise.
        reason: The fault that is worst, ``not_photo`` first; None where none is notable, too.
        width: Of the upright image in full size, in pixels; None where it could not be told.
        height: Likewise.
        scored_pixels: Pixels that the model saw.
        bytes: Encoded size; None where the image could not be read, or was no file.
        phash: Perceptual hash, see :func:`grepr_core.decoding.perceptual_hash.perceptual_hash`; None unless scored.
        features: (D,) float32 features; None unless scored, or where they are not wanted.
    """

    status: Status
    error: str | None = None
    score: float | None = None
    score_low: float | None = None
    score_high: float | None = None
    score_lower: float | None = None
    score_upper: float | None = None
    severities: Mapping[str, float] | None = field(default=None, hash=False)
    not_photo: bool | None = None
    reason: str | None = None
    width: int | None = None
    height: int | None = None
    scored_pixels: int | None = None
    bytes: int | None = None
    phash: str | None = None
    features: NDArray[np.float32] | None = field(default=None, compare=False)

    @classmethod
    def from_failure(cls, failure: Failure, size: int | None = None) -> Self:
        """Makes the row of an image that could not be scored.

        Args:
            failure: Why.
            size: Encoded size, where known.

        Returns:
            The row.
        """
        return cls(status=failure.status, error=failure.error, width=failure.width, height=failure.height, bytes=size)

    def columns(self) -> dict[str, Any]:
        """Gives what a table has of it: a value by the name of each column, the severities each by its own."""
        found: dict[str, Any] = {}
        for name in (column.name for column in fields(self)):
            if name == "severities":
                found |= dict.fromkeys(SEVERITIES) if self.severities is None else self.severities
            else:
                found[name] = getattr(self, name)
        return found
