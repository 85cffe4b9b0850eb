"""TIFF: who decodes which kind, and the kinds that Pillow does not read, or not rightly."""

import contextlib
import io
import logging
import math
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from grepr_core.decoding.depth import over_white, to_eight_bits
from grepr_core.decoding.jpeg import read_jpeg
from grepr_core.decoding.jpegxl import open_jpegxl
from grepr_core.decoding.later_image import LaterImage
from grepr_core.decoding.refusal import CutShort, Refusal, TooMuchMemory

if TYPE_CHECKING:
    import tifffile

# Tags.
_SUBFILE, _BITS, _FILL_ORDER, _ORIENTATION, _PLANES, _COLOUR_MAP, _PROFILE = 254, 258, 266, 274, 284, 320, 34675
_INK_SET, _EXTRA, _FORMATS, _DNG_VERSION = 332, 338, 339, 50706
# Photometric interpretations, and the number of channels of those that are read.
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _MASK, _CMYK, _YCBCR, _LAB, _ICC_LAB = 0, 1, 2, 3, 4, 5, 6, 8, 9
_LOG_L, _LOG_LUV = 32844, 32845
_CHANNELS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _MASK: 1, _CMYK: 4, _LAB: 3, _ICC_LAB: 3}
#: Makers of cameras whose raw files are TIFFs that begin with a preview.
_MAKE = 271
_RAW_FILES = (("NIKON", "Nikon NEF"), ("SONY", "Sony ARW"), ("PENTAX", "Pentax PEF"), ("SAMSUNG", "Samsung SRW"))
_SENSOR = (32803, 34892)
#: What Pillow decompresses: none, fax, LZW, JPEG, Deflate, PackBits, LZMA, Zstandard.
_COMPRESSIONS = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34925, 50000})
_JPEG = (6, 7)
_PNG, _LERC, _WEBP, _JPEG_XL = 34933, 34887, 50001, (50002, 52546)
#: Strips and tiles that are files of another format, with a size of their own: JPEG, JPEG 2000, and those above.
_OF_THEIR_OWN_SIZE = frozenset({7, 33003, 33004, 33005, 34712, _PNG, _LERC, _WEBP, *_JPEG_XL})
#: LogLuv, which takes no more room than the tags claim.
_BOUNDED = frozenset({34676, 34677})
#: Orientations are shorts; some write longs, which Pillow reads too.
_SHORT, _LONG = 3, 4
_ASSOCIATED, _UNASSOCIATED = 1, 2
#: How a picture is turned upright that is stored under each EXIF orientation.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
#: More than any program writes into a picture.
_MAX_SAMPLES = 64
#: A tile may be larger than the picture, but not by more than this, in bytes.
_TILE_ROOM = 2**26


def open_tiff(encoded: bytes, max_bytes: int) -> Image.Image:
    """Reads the header of a TIFF.

    Pillow decodes what it is known to decode rightly, told from the tags: 1 to 8 bits and 16 bits of unsigned samples,
    side by side. libtiff, through imagecodecs, decodes YCbCr without JPEG and LogLuv; tifffile all other kinds.

    Args:
        encoded: Content of the file.
        max_bytes: Most bytes that the samples may take.

    Returns:
        The image, not yet decoded.

    Raises:
        Refusal: The file is not for us; the message says why.
        Exception: Whatever the libraries raise on a damaged header.
    """
    page = _first_page(encoded)
    if page is None:
        return Image.open(io.BytesIO(encoded), formats=("TIFF",))
    if _value(page, _DNG_VERSION) or page.photometric in _SENSOR:
        raise Refusal("not supported: a camera's raw file (Adobe DNG)")
    if int(_value(page, _SUBFILE) or 0) & 1:
        make = str(_value(page, _MAKE) or "").upper()
        name = next(
            (name for maker, name in _RAW_FILES if make.startswith(maker)), "of which only a preview can be read"
        )
        raise Refusal(f"not supported: a camera's raw file ({name})")
    if _is_plain(page):
        return Image.open(io.BytesIO(encoded), formats=("TIFF",))
    _check(page, encoded, max_bytes)
    width, height = page.imagewidth, page.imagelength
    orientation = _orientation(page)
    size = (height, width) if orientation >= 5 else (width, height)
    info = {} if page.iccprofile is None else {"icc_profile": page.iccprofile}
    return LaterImage("TIFF", size, info, lambda: _upright(_pixels(encoded), orientation))


def _first_page(encoded: bytes) -> "tifffile.TiffPage | None":
    """Reads the tags; None where they cannot be read."""
    import tifffile

    # It logs what is odd about a file.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    with contextlib.suppress(Exception), tifffile.TiffFile(io.BytesIO(encoded)) as file:
        page = file.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        return page
    return None


def _value(page: "tifffile.TiffPage", tag: int) -> Any:  # noqa: ANN401 - what the tag holds
    found = page.tags.get(tag)
    return None if found is None else found.value


def _numbers(page: "tifffile.TiffPage", tag: int, default: tuple[int, ...]) -> tuple[int, ...]:
    value = _value(page, tag)
    if value is None:
        return default
    return tuple(value) if isinstance(value, bytes) else tuple(int(number) for number in np.ravel(value))


def _orientation(page: "tifffile.TiffPage") -> int:
    """Gives the orientation, whatever type of number it is stored as."""
    (orientation, *_) = (*_numbers(page, _ORIENTATION, (1,)), 1)
    return orientation if orientation in UPRIGHT else 1


def _is_plain(page: "tifffile.TiffPage") -> bool:
    """Tells what Pillow reads rightly."""
    orientation = page.tags.get(_ORIENTATION)
    bits = set(_numbers(page, _BITS, (1,)))
    extra = _numbers(page, _EXTRA, ())
    samples = page.samplesperpixel
    if (
        len(bits) != 1
        or set(_numbers(page, _FORMATS, (1,))) != {1}
        or page.compression not in _COMPRESSIONS
        or (page.planarconfig != 1 and samples > 1)
        or (page.parent.is_bigtiff and page.parent.byteorder == ">")
        or (orientation is not None and orientation.dtype not in (_SHORT, _LONG))
        or (_numbers(page, _FILL_ORDER, (1,)) != (1,) and bits != {1})
    ):
        return False
    (depth,) = bits
    match page.photometric:
        case 0 | 1 if samples == 1:
            return depth in (1, 2, 4, 8) or (depth == 16 and page.photometric == _BLACK_IS_ZERO)
        case 1:
            return samples == 2 and depth == 8 and len(extra) == 1
        case 2:
            return depth in (8, 16) and (samples == 3 or (samples == 4 and len(extra) <= 1))
        case 3:
            # Some programs fill in the map's entries, which have 16 bits, with values of 8.
            return samples == 1 and depth in (1, 2, 4, 8) and max(_numbers(page, _COLOUR_MAP, (0,))) > 255
        case 5:
            return samples == 4 and depth in (8, 16)
        case 6:
            return page.compression in _JPEG and depth == 8 and samples in (1, 3)
        case 8:
            return samples == 3 and depth == 8
    return False


def _check(page: "tifffile.TiffPage", encoded: bytes, max_bytes: int) -> None:
    """Refuses, before pixels are decoded, what cannot be shown and what would take too much memory."""
    samples, depth = page.samplesperpixel, max(_numbers(page, _BITS, (1,)))
    if samples > _MAX_SAMPLES:
        raise Refusal(f"damaged TIFF file: it claims {samples:,} channels")
    if page.photometric not in (*_CHANNELS, _YCBCR, _LOG_L, _LOG_LUV):
        raise Refusal("not supported: a TIFF of an unusual colour space")
    if page.photometric == _CMYK and _numbers(page, _INK_SET, (1,)) != (1,):
        raise Refusal("not supported: a TIFF of other inks than CMYK")
    channels = _CHANNELS.get(page.photometric, 1)
    if samples < channels or page.imagedepth != 1:
        raise Refusal("damaged TIFF file: its channels are not those of a picture")
    if samples > channels and page.photometric == _BLACK_IS_ZERO and samples > 2 and not page.extrasamples:
        raise Refusal(f"not supported: a TIFF of {samples} channels that does not say which colours they are")
    bytes_a_sample = 8 if depth > 32 else 4 if depth > 16 else 2 if depth > 8 else 1
    wanted = page.imagewidth * page.imagelength * samples * bytes_a_sample
    tile = math.prod((page.tilewidth, page.tilelength, samples, bytes_a_sample)) if page.is_tiled else 0
    if wanted > max_bytes or tile > wanted + _TILE_ROOM:
        raise TooMuchMemory(f"its samples take {max(wanted, tile):,} bytes, the limit is {max_bytes:,}")
    area = page.tilewidth * page.tilelength if page.is_tiled else page.imagewidth * page.rowsperstrip
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
        if offset + count > len(encoded):
            raise CutShort
        if page.compression in _OF_THEIR_OWN_SIZE and count:
            width, height = _own_size(encoded[offset : offset + count], page.compression)
            if width * height > area:
                raise Refusal("damaged TIFF file: a part of it claims to be larger than its place")
    if page.compression not in _COMPRESSIONS | _OF_THEIR_OWN_SIZE | _BOUNDED:
        raise Refusal("not supported: a TIFF of an unusual compression")


def _own_size(part: bytes, compression: int) -> tuple[int, int]:
    """Gives the size that a strip or tile claims which is a picture of its own, whatever the tags say."""
    if compression == _LERC:
        # Magic, version, from version 3 on a checksum, rows, columns.
        if part[:6] != b"Lerc2 " or len(part) < 22:
            raise Refusal("not supported: a TIFF of an unusual compression")
        height, width = struct.unpack_from("<ii", part, 14 if struct.unpack_from("<i", part, 6)[0] >= 3 else 10)
        return abs(width), abs(height)
    try:
        if compression in _JPEG:
            jpeg = read_jpeg(part)
            return jpeg.width, jpeg.height
        if compression in _JPEG_XL:
            return open_jpegxl(part).size
        formats = ("WEBP",) if compression == _WEBP else ("PNG",) if compression == _PNG else ("JPEG2000",)
        return Image.open(io.BytesIO(part), formats=formats).size
    except Exception as error:
        raise Refusal("damaged TIFF file: its picture cannot be decoded") from error


def _pixels(encoded: bytes) -> Image.Image:
    """Decodes to 8-bit L, RGB, CMYK or LAB, over white where transparent."""
    page = _first_page(encoded)
    assert page is not None
    if page.photometric in (_YCBCR, _LOG_L, _LOG_LUV):
        import imagecodecs

        return Image.fromarray(np.ascontiguousarray(imagecodecs.tiff_decode(encoded, index=0, asrgb=True)[:, :, :3]))
    samples = page.samplesperpixel
    values = page.asarray(maxworkers=1).reshape(
        (samples, page.imagelength, page.imagewidth)
        if page.planarconfig != 1 and samples > 1
        else (page.imagelength, page.imagewidth, samples)
    )
    if page.planarconfig != 1 and samples > 1:
        values = np.moveaxis(values, 0, -1)
    depth = max(_numbers(page, _BITS, (1,)))
    photometric = page.photometric
    channels = _CHANNELS[photometric]
    if photometric == _PALETTE:
        colours = _through_map(values[:, :, 0], page)
    elif photometric in (_LAB, _ICC_LAB):
        colours = _lab(values[:, :, :3], signed=photometric == _LAB)
    else:
        colours = to_eight_bits(values[:, :, :channels], depth)
        if photometric == _WHITE_IS_ZERO:
            colours = 255 - colours
    if samples > channels:
        extra = (*page.extrasamples, *((_UNASSOCIATED,) if samples == 4 and photometric == _RGB else ()), 0)[0]
        if extra in (_ASSOCIATED, _UNASSOCIATED):
            alpha = to_eight_bits(values[:, :, channels], depth, float_white=1.0)
            white = {_CMYK: (0,) * 4, _LAB: (255, 128, 128), _ICC_LAB: (255, 128, 128)}.get(photometric, (255,) * 3)
            colours = over_white(colours, alpha, white[: colours.shape[2]], associated=extra == _ASSOCIATED)
    del values  # Up to 8 bytes a sample.
    if colours.shape[2] == 1:
        return Image.fromarray(colours[:, :, 0])
    mode = {_CMYK: "CMYK", _LAB: "LAB", _ICC_LAB: "LAB"}.get(photometric, "RGB")
    if mode == "RGB":
        return Image.fromarray(colours)
    height, width, _ = colours.shape
    return Image.frombytes(mode, (width, height), (_signed(colours) if mode == "LAB" else colours).tobytes())


def _signed(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Gives a* and b* as Pillow takes them in."""
    stored = colours.copy()
    stored[:, :, 1:] ^= 128
    return stored


def _through_map(indices: NDArray[Any], page: "tifffile.TiffPage") -> NDArray[np.uint8]:
    """Looks colours up, in a map of 16 or, as some programs write, of 8 bits."""
    colour_map = np.asarray(_value(page, _COLOUR_MAP), np.uint16).reshape(3, -1).T
    colours = to_eight_bits(colour_map) if colour_map.max(initial=0) > 255 else colour_map.astype(np.uint8)
    looked_up: NDArray[np.uint8] = colours[np.minimum(indices, len(colours) - 1).astype(np.intp)]
    return looked_up


def _lab(values: NDArray[Any], *, signed: bool) -> NDArray[np.uint8]:
    """Gives L*, a* + 128 and b* + 128 in 8 bits."""
    if values.dtype.kind == "f":
        # L* in [0, 100], a* and b* as they are.
        scaled = values * np.array([2.55, 1, 1], np.float32) + np.array([0, 128, 128], np.float32)
        return np.asarray(np.rint(np.nan_to_num(scaled).clip(0, 255)), np.uint8)
    shift = 8 * values.dtype.itemsize - 8
    lab = to_eight_bits(values[:, :, :1].astype(values.dtype.str.replace("i", "u")))
    colour = (values[:, :, 1:] >> shift).astype(np.uint8)
    return np.concatenate([lab, colour ^ 128 if signed else colour], axis=2)


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image
