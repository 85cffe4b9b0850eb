"""BMP: pixels whose channels are any bits of a word, of which Pillow reads the usual layouts alone."""

import io
import struct

import numpy as np
from PIL import Image

from grepr_core.decoding.depth import over_white
from grepr_core.decoding.later_image import LaterImage
from grepr_core.decoding.refusal import CutShort

_BITFIELDS, _ALPHA_BITFIELDS = 3, 6


def open_bmp(encoded: bytes) -> Image.Image:
    """Reads the header of a BMP."""
    if len(encoded) < 66 or encoded[14] < 40:
        return Image.open(io.BytesIO(encoded), formats=("BMP",))
    header, width, height, _, bits, compression = struct.unpack_from("<IiiHHI", encoded, 14)
    if compression not in (_BITFIELDS, _ALPHA_BITFIELDS) or bits not in (16, 32) or width <= 0 or height == 0:
        return Image.open(io.BytesIO(encoded), formats=("BMP",))
    has_alpha = header >= 56 or compression == _ALPHA_BITFIELDS
    masks = struct.unpack_from("<IIII" if has_alpha else "<III", encoded, 54)
    if not any(masks):
        return Image.open(io.BytesIO(encoded), formats=("BMP",))
    size = (width, abs(height))
    return LaterImage("BMP", size, {}, lambda: _pixels(encoded, size, height < 0, bits, masks))


def _pixels(encoded: bytes, size: tuple[int, int], top_down: bool, bits: int, masks: tuple[int, ...]) -> Image.Image:
    """Decodes to RGB, over white where transparent."""
    width, height = size
    (offset,) = struct.unpack_from("<I", encoded, 10)
    stride = (width * bits + 31) // 32 * 4
    if offset + stride * height > len(encoded):
        raise CutShort
    words = np.ndarray((height, width), f"<u{bits // 8}", encoded, offset, (stride, bits // 8))
    if not top_down:
        words = words[::-1]
    channels = np.empty((height, width, len(masks)), np.uint8)
    for index, mask in enumerate(masks):
        shift = (mask & -mask).bit_length() - 1 if mask else 0
        levels = mask >> shift
        for row in range(0, height, 64):
            values = (words[row : row + 64] & words.dtype.type(mask)) >> shift
            scaled = np.rint(values * (255 / levels)) if levels else np.zeros(values.shape)
            channels[row : row + 64, :, index] = scaled
    # Programs that know of no transparency leave it 0 throughout.
    if len(masks) > 3 and masks[3] and channels[:, :, 3].any():
        return Image.fromarray(over_white(channels[:, :, :3], channels[:, :, 3], (255, 255, 255), associated=False))
    return Image.fromarray(np.ascontiguousarray(channels[:, :, :3]))
