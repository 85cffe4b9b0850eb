"""Arrays of pixels that a program holds, as the image that a file of them would be."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from grepr_core.decoding.depth import to_eight_bits

#: Floating point pixels may lie outside [0, 1] by what rounds to its ends.
_ROUNDING = 0.5 / 255
#: What a network made may lie this far outside [0, 1] for values beyond to be taken as white and black: more is another
#: range.
OVERSHOOT = 0.25


def image_from_array(pixels: NDArray[Any]) -> Image.Image:
    """Makes an image of an array, for :func:`grepr_core.decoding.images.photo_from_image`.

    Args:
        pixels: (H, W) or (H, W, 1) grey, (H, W, 3) RGB or (H, W, 4) RGBA, in sRGB. uint8; uint16 over all its range, as
            files of 16 bits have it; bool; or floating point in [0, 1].

    Returns:
        An image that shares no memory with the array.

    Raises:
        ValueError: Its shape, type or values are others; says which.
    """
    shape = " x ".join(map(str, pixels.shape))
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4)):
        first = pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4)
        advice = "; with the channels first, give array.transpose(1, 2, 0)" if first else ""
        raise ValueError(f"an array of {shape or 1} is no image: expected is H x W x 3, or H x W grey{advice}")
    if not pixels.size:
        raise ValueError(f"an array of {shape} is no image: it is empty")
    kind, size = pixels.dtype.kind, pixels.dtype.itemsize
    if kind == "f":
        lowest, highest = float(pixels.min()), float(pixels.max())
        if not (lowest >= -_ROUNDING and highest <= 1 + _ROUNDING):  # nor is NaN
            near = lowest >= -OVERSHOOT and highest <= 1 + OVERSHOOT
            advice = "clip them (NumPy) or clamp them (PyTorch) to 0 and 1" if near else "divide by their white"
            raise ValueError(
                f"floating point pixels lie in 0 to 1, these from {lowest:.4g} to {highest:.4g}; {advice}, or give "
                "uint8"
            )
    elif kind != "b" and not (kind == "u" and size <= 2):
        raise ValueError(f"pixels of {pixels.dtype} are not taken: give uint8, uint16, or floating point in 0 to 1")
    levels = np.ascontiguousarray(to_eight_bits(pixels, float_white=1.0))
    return Image.fromarray(levels[:, :, 0] if levels.shape[2:] == (1,) else levels).copy()
