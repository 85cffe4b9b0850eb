"""Faulty versions of photographs: what :mod:`grepr_core.reasons` is learned from and tried on.

The kinds are those of pretraining and a few more, which must not be among those, or pretraining by a seed would change.
"""

import io
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from grepr_core.pretraining.distortions import DISTORTIONS, LEVELS, distort
from grepr_core.reasons.probes import NOT_PHOTO, SEVERITIES

Pixels = NDArray[np.uint8]
#: Kind and level of each fault of a version; none of a photograph as it is.
Faults = tuple[tuple[str, int], ...]


class Kind(NamedTuple):
    """What a kind of fault is to tell.

    Attributes:
        reason: The severity that it raises; None where there is none for it.
        unclear: Severities that may rise with it: it teaches nothing of them.
    """

    reason: str | None
    unclear: frozenset[str]


def _kind(reason: str | None, *unclear: str) -> Kind:
    return Kind(reason, frozenset(unclear))


#: All kinds, in the order in which a version gets them: of the scene, of the camera, of the file.
KINDS: dict[str, Kind] = {
    "haze": _kind("low_contrast", "overexposure"),
    "gaussian_blur": _kind("blur"),
    "motion_blur": _kind("blur"),
    "lens_blur": _kind("blur"),
    "underexposure": _kind("underexposure", "low_contrast"),
    "low_light": _kind("underexposure", "low_contrast", "noise"),
    "vignetting": _kind(None, "underexposure"),
    "overexposure": _kind("overexposure", "low_contrast"),
    "low_contrast": _kind("low_contrast"),
    "colour_cast": _kind("color_cast"),
    "oversaturation": _kind(None, "color_cast"),
    "gaussian_noise": _kind("noise"),
    "impulse_noise": _kind("noise"),
    "speckle_noise": _kind("noise"),
    "colour_noise": _kind("noise"),
    "oversmoothing": _kind(None, "blur"),
    "oversharpening": _kind(None, "noise"),
    "banding": _kind(None, "compression"),
    "upscaling": _kind("pixelation", "blur"),
    "resampling": _kind("pixelation", "blur"),
    "pixelation": _kind("pixelation"),
    "resized_jpeg": _kind("compression", "pixelation", "blur"),
    "jpeg2000": _kind("compression", "blur"),
    "jpeg": _kind("compression"),
}


#: Ways that a colour cast may go, of which each has a probe of its own.
CASTS = 4
#: Severity that each probe is for, and the flag.
PROBES = (*(name for name in SEVERITIES for _ in range(CASTS if name == "color_cast" else 1)), NOT_PHOTO)


def version(photo: Pixels, faults: Faults, *, seed: int) -> Pixels:
    """Gives a photograph its faults, and stores it as the JPEG of good quality that a photograph is in the end.

    Without that, probes learn what only pixels have that were never stored: with it colours are told coarsely, say.

    Args:
        photo: (H, W, 3) sRGB.
        faults: Which.
        seed: Of what is drawn.

    Returns:
        The version, of the same size.
    """
    for kind, level in sorted(faults, key=lambda fault: list(KINDS).index(fault[0])):
        photo = _MORE[kind](photo, LEVELS.index(level)) if kind in _MORE else distort(photo, kind, level, seed=seed)
    encoded = io.BytesIO()
    Image.fromarray(photo).save(encoded, "JPEG", quality=85 + seed % 12)
    return np.array(Image.open(encoded))


def targets(faults: Faults, *, seed: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Says what the probes are to learn from a version.

    Args:
        faults: Of the version.
        seed: That it was made by.

    Returns:
        (M,) severities for the probes of :data:`PROBES`, a fifth a level, and (M,) which of them the version teaches.
        A colour cast that goes two ways has a part of its level in each.
    """
    severity, known = np.zeros(len(PROBES), np.float32), np.ones(len(PROBES), bool)
    for kind, _ in faults:
        known &= [name not in KINDS[kind].unclear for name in PROBES]
    for kind, level in faults:
        own = np.array([name == KINDS[kind].reason for name in PROBES])
        shares = _cast_shares(seed) if kind == "colour_cast" else np.ones(1)
        severity[own] = np.maximum(severity[own], shares * level / len(LEVELS))
        known |= own
    return severity, known


def _cast_shares(seed: int) -> NDArray[np.float64]:
    """Tells how far a colour cast goes towards warm, magenta, cold and green."""
    # The one number that the distortion draws.
    angle = np.random.default_rng([seed, zlib.crc32(b"colour_cast")]).uniform(0, 2 * np.pi)
    shares: NDArray[np.float64] = np.cos(angle - np.arange(CASTS) * np.pi / 2).clip(min=0)
    return shares


def _underexposed(photo: Pixels, step: int) -> Pixels:
    """Takes a part of the light, and amplifies nothing: darkness without noise."""
    light = (photo.astype(np.float32) / 255) ** 2.2 * (0.6, 0.38, 0.22, 0.12, 0.06)[step]
    return np.rint(255 * light ** (1 / 2.2)).astype(np.uint8)


def _upscaled(photo: Pixels, step: int) -> Pixels:
    """Shrinks with care, and enlarges again."""
    height, width, _ = photo.shape
    factor = (1.6, 2.2, 3.0, 4.2, 6.0)[step]
    small = Image.fromarray(photo).resize((round(width / factor), round(height / factor)), Image.Resampling.LANCZOS)
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


_MORE: dict[str, Callable[[Pixels, int], Pixels]] = {"underexposure": _underexposed, "upscaling": _upscaled}

assert set(KINDS) == {*DISTORTIONS, *_MORE}, "every kind says what it is to tell"
