"""JPEG XL, which Pillow does not read: libjxl decodes, through imagecodecs."""

from typing import NamedTuple

from PIL import Image

from grepr_core.decoding.boxes import boxes
from grepr_core.decoding.depth import over_white, to_eight_bits
from grepr_core.decoding.later_image import LaterImage
from grepr_core.decoding.refusal import Refusal

CODESTREAM = b"\xff\x0a"
CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
#: Bytes of the codestream that hold its header, whatever names channels have.
_HEADER = 256
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


class _Header(NamedTuple):
    """What the begin of the codestream says.

    Attributes:
        width: Of the upright image.
        height: Likewise.
        bits: Bits a sample.
        alpha_bits: Those of the transparency, 0 where there is none.
        is_associated: The colours have been multiplied by the transparency.
        is_srgb: The colours are those of sRGB.
    """

    width: int
    height: int
    bits: int
    alpha_bits: int
    is_associated: bool
    is_srgb: bool


def open_jpegxl(encoded: bytes) -> Image.Image:
    """Reads the header of a JPEG XL.

    Raises:
        Refusal: It holds no picture, or one of other colours than those of sRGB, which imagecodecs does not convert.
    """
    header = _header(_codestream(encoded))
    if not header.is_srgb:
        raise Refusal("not supported: a JPEG XL with another colour profile than that of sRGB")
    return LaterImage("JXL", (header.width, header.height), {}, lambda: _pixels(encoded, header))


def _pixels(encoded: bytes, header: _Header) -> Image.Image:
    """Decodes to L or RGB, over white where transparent; libjxl turns upright."""
    import imagecodecs

    values = imagecodecs.jpegxl_decode(encoded, index=0, numthreads=1)
    values = values[..., None] if values.ndim == 2 else values
    channels = values.shape[2]
    colours = to_eight_bits(values[:, :, : 3 if channels >= 3 else 1], header.bits, float_white=1.0)
    if header.alpha_bits and channels in (2, 4):
        # libjxl gives the transparency as many bits as the colours.
        alpha = to_eight_bits(values[:, :, -1], header.bits, float_white=1.0)
        colours = over_white(colours, alpha, (255,) * colours.shape[2], associated=header.is_associated)
    return Image.fromarray(colours if colours.shape[2] == 3 else colours[:, :, 0])


def _codestream(encoded: bytes) -> bytes:
    """Gives the begin of the codestream."""
    if encoded.startswith(CODESTREAM):
        return encoded[:_HEADER]
    parts = b""
    for box in boxes(encoded):
        if box.kind in (b"jxlc", b"jxlp"):
            parts += encoded[box.body + (4 if box.kind == b"jxlp" else 0) : min(box.end, box.body + _HEADER)]
        if len(parts) >= 16 or box.kind == b"jxlc":
            break
    if not parts.startswith(CODESTREAM):
        raise Refusal("damaged JPEG XL file: it holds no picture")
    return parts[:_HEADER]


class _Bits:
    """Reads numbers of any bits, the least significant first."""

    def __init__(self, content: bytes) -> None:
        self._rest = int.from_bytes(content, "little")

    def take(self, bits: int) -> int:
        value = self._rest & ((1 << bits) - 1)
        self._rest >>= bits
        return value

    def choose(self, *ways: tuple[int, int]) -> int:
        """Reads a number in one of four ways, each so many bits on top of a least value."""
        bits, least = ways[self.take(2)]
        return least + self.take(bits)


def _header(codestream: bytes) -> _Header:
    """Reads SizeHeader and ImageMetadata (ISO/IEC 18181-1)."""
    bits = _Bits(codestream[2:])
    width, height = _size(bits)
    if bits.take(1):  # All is as usual.
        return _Header(width, height, 8, 0, False, True)
    if bits.take(1):
        if bits.take(3) >= 4:  # The orientation as in EXIF, less 1.
            width, height = height, width
        if bits.take(1):
            _size(bits)
        if bits.take(1):
            _preview(bits)
        if bits.take(1):
            bits.choose((0, 100), (0, 1000), (10, 1), (30, 1))
            bits.choose((0, 1), (0, 1001), (8, 1), (10, 1))
            bits.choose((0, 0), (3, 0), (16, 0), (32, 0))
            bits.take(1)
    depth = _depth(bits)
    bits.take(1)
    alpha_bits, is_associated = 0, False
    for _ in range(bits.choose((0, 0), (0, 1), (4, 2), (12, 1))):
        if bits.take(1):  # Transparency as usual.
            alpha_bits = alpha_bits or 8
            continue
        kind = bits.choose((0, 0), (0, 1), (4, 2), (6, 18))
        channel_depth = _depth(bits)
        bits.choose((0, 0), (0, 3), (0, 4), (3, 1))
        bits.take(8 * bits.choose((0, 0), (4, 0), (5, 16), (10, 48)))
        if kind == 0:
            alpha_bits, is_associated = alpha_bits or channel_depth, bool(bits.take(1))
        elif kind == 2:
            bits.take(4 * 16)
        elif kind == 5:
            bits.choose((0, 1), (2, 0), (4, 3), (8, 19))
    bits.take(1)
    return _Header(width, height, depth, alpha_bits, is_associated, _is_srgb(bits))


def _size(bits: _Bits) -> tuple[int, int]:
    """Reads width and height as stored."""
    is_small = bits.take(1)

    def side() -> int:
        return (bits.take(5) + 1) * 8 if is_small else bits.choose((9, 1), (13, 1), (18, 1), (30, 1))

    height = side()
    return _width(bits.take(3), height) or side(), height


def _preview(bits: _Bits) -> None:
    is_in_eights = bits.take(1)
    ways = ((0, 16), (0, 32), (5, 1), (9, 33)) if is_in_eights else ((6, 1), (8, 65), (10, 321), (12, 1345))
    bits.choose(*ways)
    if not bits.take(3):
        bits.choose(*ways)


def _width(ratio: int, height: int) -> int:
    """Gives the width where it follows from the height, else 0."""
    return height * _RATIOS[ratio - 1][0] // _RATIOS[ratio - 1][1] if ratio else 0


def _depth(bits: _Bits) -> int:
    if bits.take(1):
        depth = bits.choose((0, 32), (0, 16), (0, 24), (6, 1))
        bits.take(4)
        return depth
    return bits.choose((0, 8), (0, 10), (0, 12), (6, 1))


def _is_srgb(bits: _Bits) -> bool:
    """Tells whether white, primaries and curve are those of sRGB (or the curve that of BT.709, which is close)."""

    def number() -> int:
        return bits.choose((0, 0), (0, 1), (4, 2), (6, 18))

    if bits.take(1):
        return True
    if bits.take(1):  # An ICC profile follows.
        return False
    space = number()
    if number() != 1:
        return False
    if space != 1 and number() != 1:
        return False
    return not bits.take(1) and number() in (1, 13)
