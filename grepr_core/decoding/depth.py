"""Samples of any depth to 8 bits, and transparency to white; by strips of rows, which takes little memory."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Four stops above white.
MOST_FLOAT = 16.0
#: What is converted at once, in samples: stays in the cache.
_STRIP = 2**18


def to_eight_bits(
    values: NDArray[Any], bits: int | None = None, *, float_white: float | None = None
) -> NDArray[np.uint8]:
    """Scales samples to [0, 255].

    Unsigned integers of up to 16 bits span all that their bits hold, and signed ones too, their least value being
    black (as in ImageMagick). Those of more bits, which do not say what they span, span the first of [0, 255] and
    [0, 65535] that holds them all, else [0, their maximum]; below 0 is black. Floating point numbers span [0, 1] where
    none is above 16, which leaves room for highlights beyond white.

    Args:
        values: (H, ...) samples.
        bits: How many of the bits are used; None for all.
        float_white: What floating point numbers span where the format tells.

    Returns:
        The same shape.
    """
    if values.dtype == np.uint8 and bits in (None, 8):
        return values.view(np.uint8)
    if values.dtype.kind in "ui" and values.dtype.itemsize <= 2:
        return _looked_up(values, bits or 8 * values.dtype.itemsize)
    white = 1.0
    if values.dtype.kind == "f" and float_white is not None:
        white = float_white
    elif values.dtype.kind != "b":
        top = max((float(_finite(strip).max(initial=0)) for _, strip in _strips(values)), default=0.0)
        if values.dtype.kind != "f" or top > MOST_FLOAT:
            white = next((span for span in (255.0, 65535.0, top) if top <= span), 1.0)
    scaled = np.empty(values.shape, np.uint8)
    for rows, strip in _strips(values):
        levels = np.multiply(_finite(strip), 255 / white, dtype=np.float32)
        scaled[rows] = np.rint(np.clip(levels, 0, 255))
    return scaled


def _looked_up(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Scales integers of up to 16 bits by a table, which is 10 times as fast as reckoning."""
    unsigned = np.dtype(f"u{values.dtype.itemsize}")
    numbers = np.arange(2 ** (8 * unsigned.itemsize))
    if values.dtype.kind == "i":
        numbers = numbers.astype(unsigned).view(f"i{unsigned.itemsize}") + 2.0 ** (bits - 1)
    table = np.rint(np.clip(numbers * (255 / (2**bits - 1)), 0, 255)).astype(np.uint8)
    scaled = np.empty(values.shape, np.uint8)
    for rows, strip in _strips(values):
        scaled[rows] = table[strip.astype(unsigned, copy=False)]
    return scaled


def over_white(
    colours: NDArray[np.uint8], alpha: NDArray[np.uint8], white: tuple[int, ...], *, associated: bool
) -> NDArray[np.uint8]:
    """Puts what is transparent over white.

    Args:
        colours: (H, W, C).
        alpha: (H, W), 255 where opaque.
        white: C values.
        associated: The colours have been multiplied by alpha.

    Returns:
        (H, W, C).
    """
    result = np.empty(colours.shape, np.uint8)
    paper = np.asarray(white, np.float32)
    for rows, strip in _strips(colours):
        share = alpha[rows, :, None].astype(np.float32) / 255
        result[rows] = np.rint(np.minimum((strip if associated else strip * share) + paper * (1 - share), 255))
    return result


def _strips(values: NDArray[Any]) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Gives the rows a strip at a time."""
    step = max(1, _STRIP // max(1, values[:1].size))
    for top in range(0, len(values), step):
        rows = slice(top, top + step)
        yield rows, values[rows]


def _finite(values: NDArray[Any]) -> NDArray[Any]:
    return np.where(np.isfinite(values), values, 0) if values.dtype.kind == "f" else values
