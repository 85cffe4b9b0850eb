"""Encoded bytes to upright sRGB pixels, or a reason why not, as a value.

Nothing about an image's content leaves this module as an exception: one bad image costs one row.
"""

import contextlib
import ctypes
import enum
import functools
import io
import logging
import re
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageChops, ImageCms, UnidentifiedImageError, _imaging

from grepr_core.decoding.bmp import open_bmp
from grepr_core.decoding.depth import to_eight_bits
from grepr_core.decoding.gif import open_gif
from grepr_core.decoding.heif import open_avif, open_heic
from grepr_core.decoding.jpeg import MAX_PROFILE_BYTES, Jpeg, JpegError, decode_jpeg, read_jpeg, scale_for
from grepr_core.decoding.jpeg2000 import open_jpeg2000
from grepr_core.decoding.jpegxl import open_jpegxl
from grepr_core.decoding.kinds import WORDS, cut_short, is_cut, signature, what_else
from grepr_core.decoding.later_image import LaterImage
from grepr_core.decoding.png import open_png
from grepr_core.decoding.refusal import CutShort, Refusal, TooMuchMemory
from grepr_core.decoding.resize import Resize, resize
from grepr_core.decoding.tiff import open_tiff
from grepr_core.decoding.view import FULL_SIZE, View

# Process-wide settings of Pillow, made once here because changing them for each call is not safe among threads.
# Its limit on pixels is lower than ours and a mere warning up to twice its value; decode() checks every header itself.
Image.MAX_IMAGE_PIXELS = None
# What Pillow thinks odd about a file is of no use to anyone scoring millions of them.
warnings.filterwarnings("ignore", module=r"(PIL|pillow_heif)(\.|$)")
logging.getLogger("PIL").setLevel(logging.CRITICAL)
with contextlib.suppress(AttributeError, OSError):  # libtiff writes to the standard error of the process.
    ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)
Image.init()
with contextlib.suppress(ImportError):  # Not built for every platform; HEIC is then one more unsupported format.
    import pillow_heif

    pillow_heif.register_heif_opener()

#: Formats that are decoded, as Pillow names them. The content decides, never the file's name. JPEG includes MPO.
FORMATS = tuple(
    name
    for name in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "HEIF", "JPEG2000", "JXL")
    if name == "JXL" or name in Image.OPEN
)
#: A JPEG that will be scaled down is decoded at no less than this many times the final width and height. Against a full
#: decode scores then differ by .001 on average; a margin of 1.7 would lower them by .006 to .01.
DRAFT_MARGIN = 2
#: Blocks of pixels are averaged to no less than this many times the final width and height.
REDUCING_GAP = 3
#: Scans times pixels of a JPEG: each scan goes over the whole picture, though it may hold but a few bytes. This is 100
#: megapixels in 10 scans, which common progressive files have, and takes up to 4 seconds.
MAX_SCANNED = 1_000_000_000
#: Claims beyond do not fit the 32-bit columns of a table.
MAX_SIDE = 2**31 - 1

#: Axes (0 rows, 1 columns) that an EXIF orientation mirrors once rows and columns are in their places.
MIRRORED = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}
_JPEG_MODES = {1: "L", 3: "RGB", 4: "CMYK"}
#: Samples of more than 8 bits may take this many bytes for each pixel that is allowed.
MAX_BYTES_A_PIXEL = 8


class Status(enum.StrEnum):
    """What became of an image."""

    SCORED = "scored"
    UNREADABLE = "unreadable"
    MISSING = "missing"
    DENIED = "denied"
    TOO_LARGE = "too_large"
    TOO_SMALL = "too_small"
    TIMEOUT = "timeout"
    CRASHED = "crashed"


@dataclass(frozen=True, slots=True)
class Limits:
    """What is refused, told from the header before any pixel is decoded.

    Attributes:
        max_bytes: Largest encoded size.
        max_pixels: Most pixels, width times height. A few kilobytes can claim billions of them.
        min_side: Least width and height, in pixels.
    """

    max_bytes: int = 512 * 2**20
    max_pixels: int = 250_000_000
    min_side: int = 32


@dataclass(frozen=True, slots=True)
class Photo:
    """A decoded image.

    Attributes:
        rgb: (H, W, 3) uint8, C-contiguous, upright, sRGB; scaled down where that was asked for.
        width: Width of the upright image in full size, in pixels.
        height: Height of it.
    """

    rgb: NDArray[np.uint8]
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no image.

    Attributes:
        status: The kind of reason.
        error: The reason in words, one line.
        width: Width of the upright image in pixels, where the header could be read and claims less than 2 billion.
        height: Height of it.
    """

    status: Status
    error: str
    width: int | None = None
    height: int | None = None


def decode(
    encoded: bytes, *, limits: Limits = Limits(), view: View = FULL_SIZE, scale: Resize = resize
) -> Photo | Failure:
    """Decodes an image: the first frame, turned upright, over white where transparent, converted to sRGB.

    Safe to call from several threads. The same bytes always give the same pixels.

    At its peak it takes 7 to 10 bytes a pixel, ``encoded`` included, of JPEG 3, of WebP 15. With a smaller ``view`` a
    JPEG is decoded at reduced size, in 20 MB up to 100 megapixels; PNG takes 5 to 6 bytes a pixel then, TIFF 7 to 8,
    WebP 15 still. A progressive JPEG takes 3 bytes a pixel besides in either case, 6 where its colours are not
    subsampled. Measured by ``benchmarks/memory.py``. What Pillow does not read takes more: TIFFs in planes of 16 bits
    15 to 22, of floating point colours 27; PNGs of 16 bits with a transparent value 17.

    Args:
        encoded: Content of the file.
        limits: What to refuse.
        view: What is seen of the image, and how large; by default all of it, as large as it is.
        scale: What scales it.

    Returns:
        The image; or why it cannot be decoded. Files that end too early count as unreadable.
    """
    if len(encoded) > limits.max_bytes:
        return Failure(Status.TOO_LARGE, f"{len(encoded):,} bytes, the limit is {limits.max_bytes:,}")
    if signature(encoded) == "JPEG":
        return _decode_jpeg(encoded, limits, view, scale)
    size: tuple[int, int] | tuple[None, None] = (None, None)
    try:
        image = _open(encoded, limits)
        width, height = _upright_size(image)
        size = (width, height) if max(width, height) <= MAX_SIDE else (None, None)
        return _refusal(width, height, limits) or _decode(image, view, scale)
    except UnidentifiedImageError:
        return Failure(Status.UNREADABLE, what_else(encoded))
    except TooMuchMemory as refusal:
        return Failure(Status.TOO_LARGE, str(refusal), *size)
    except CutShort:
        return Failure(Status.UNREADABLE, cut_short(signature(encoded)), *size)
    except Refusal as refusal:
        return Failure(Status.UNREADABLE, str(refusal), *size)
    except MemoryError:
        return Failure(Status.TOO_LARGE, "decoding it takes more memory than there is", *size)
    except Exception as error:  # Pillow raises nearly every kind of exception on some damaged file.
        return Failure(Status.UNREADABLE, _damage(encoded, error), *size)


def photo_from_image(
    image: Image.Image, *, limits: Limits = Limits(), view: View = FULL_SIZE, scale: Resize = resize
) -> Photo | Failure:
    """Does what :func:`decode` does for an image that a program holds as Pillow has it: the frame that it is at.

    Where Pillow has not decoded it yet, as after ``Image.open``, Pillow does so now, and a JPEG in full size; so the
    score of one that is scaled down differs by .001 on average from that of its file. Of all else that Pillow reads as
    :func:`decode` does, the pixels are the same as of the file.

    Args:
        image: In any mode; its EXIF orientation, ICC profile and transparency count. It stays as it is.
        limits: What to refuse.
        view: As there.
        scale: As there.

    Returns:
        As there.
    """
    if refusal := _refusal(*image.size, limits):
        return refusal
    size = image.size
    closed = getattr(image, "fp", image) is None and bool(getattr(image, "tile", None))  # with pixels yet to be read
    try:
        image.load()  # which may only now find EXIF
        held = LaterImage(image.format or "", image.size, image.info, lambda: image)
        _forget_xmp(held)
        size = _upright_size(held)
        return _decode(held, view, scale)
    except MemoryError:
        return Failure(Status.TOO_LARGE, "decoding it takes more memory than there is", *size)
    except Exception as error:
        words = "its file was closed before its pixels were read" if closed else error_words(error)
        return Failure(Status.UNREADABLE, f"Pillow cannot decode it: {words}", *size)


def is_plain_jpeg(encoded: bytes, *, limits: Limits = Limits()) -> bool:
    """Tells whether an image is a JPEG that every decoder gives the same colours of.

    Args:
        encoded: Content of the file.
        limits: As for :func:`decode`.

    Returns:
        False for what only :func:`decode` decodes or refuses: other formats and colour spaces, profiles that change
        colours, images beyond the limits, files that lack their end or scans. Whether the picture is damaged before
        its end only decoding tells.
    """
    if len(encoded) > limits.max_bytes or not encoded.rstrip(b"\0").endswith(b"\xff\xd9"):
        return False
    try:
        jpeg = read_jpeg(encoded) if signature(encoded) == "JPEG" else None
    except JpegError:  # decode() tells what is wrong.
        return False
    if jpeg is None or jpeg.components == 4 or jpeg.is_cut:
        return False
    if _refusal(jpeg.width, jpeg.height, limits, scans=jpeg.scans):
        return False
    return not jpeg.profile or _transform_to_srgb(jpeg.profile, _JPEG_MODES[jpeg.components]) is None


def _refusal(width: int, height: int, limits: Limits, *, scans: int = 1) -> Failure | None:
    """Tells why an image of some size is refused."""
    size = (width, height) if max(width, height) <= MAX_SIDE else (None, None)
    if width * height > limits.max_pixels:
        return Failure(Status.TOO_LARGE, f"{width:,} x {height:,} pixels, the limit is {limits.max_pixels:,}", *size)
    if min(width, height) < limits.min_side:
        return Failure(Status.TOO_SMALL, f"{width:,} x {height:,} pixels, the least is {limits.min_side} a side", *size)
    if scans > 1 and scans * width * height > MAX_SCANNED:
        words = f"{scans:,} scans of {width:,} x {height:,} pixels, the limit is {MAX_SCANNED:,} in all"
        return Failure(Status.TOO_LARGE, words, *size)
    return None


def _open(encoded: bytes, limits: Limits) -> Image.Image:
    """Reads the header of an image that is no JPEG."""
    name = signature(encoded)
    if name not in FORMATS:
        raise UnidentifiedImageError
    openers = {
        "PNG": open_png,
        "BMP": open_bmp,
        "GIF": open_gif,
        "AVIF": open_avif,
        "HEIF": open_heic,
        "JPEG2000": open_jpeg2000,
        "JXL": open_jpegxl,
    }
    if name == "TIFF":
        image = open_tiff(encoded, MAX_BYTES_A_PIXEL * limits.max_pixels)
    elif name in openers:
        image = openers[name](encoded)
    else:
        image = Image.open(io.BytesIO(encoded), formats=(name,))
    _forget_xmp(image)
    return image


def _decode_jpeg(encoded: bytes, limits: Limits, view: View, scale: Resize) -> Photo | Failure:
    size: tuple[int, int] | tuple[None, None] = (None, None)
    try:
        jpeg = read_jpeg(encoded)
        orientation = _orientation_of_jpeg(jpeg)
        width, height = (jpeg.height, jpeg.width) if orientation >= 5 else (jpeg.width, jpeg.height)
        size = (width, height)
        if refusal := _refusal(width, height, limits, scans=jpeg.scans):
            return refusal
        seen = view.size(jpeg.width, jpeg.height)
        eighths = scale_for(jpeg, (DRAFT_MARGIN * seen[0], DRAFT_MARGIN * seen[1]))
        pixels = decode_jpeg(jpeg, eighths=eighths)
        scaled = scale(pixels, *seen)
        return Photo(_finished(scaled, _JPEG_MODES[jpeg.components], jpeg.profile, orientation), width, height)
    except JpegError as error:
        return Failure(Status.UNREADABLE, str(error), *size)
    except MemoryError:
        return Failure(Status.TOO_LARGE, "decoding it takes more memory than there is", *size)
    except Exception as error:
        return Failure(Status.UNREADABLE, _damage(encoded, error), *size)


def _decode(image: Image.Image, view: View, scale: Resize) -> Photo:
    image.load()
    width, height = image.size  # Pillow has by now turned a TIFF upright.
    profile = image.info.get("icc_profile")
    orientation = _orientation(image)
    seen = view.size(width, height)
    image = _opaque(image)
    # Scaling takes a copy of the pixels, so what is far larger is averaged first.
    block = int(min(image.width / seen[0], image.height / seen[1]) / REDUCING_GAP)
    pixels = _to_array(image.reduce(block) if block > 1 else image)
    rgb = _finished(scale(pixels, *seen), image.mode, profile, orientation)
    return Photo(rgb, height, width) if orientation >= 5 else Photo(rgb, width, height)


def _finished(pixels: NDArray[np.uint8], mode: str, profile: bytes | None, orientation: int) -> NDArray[np.uint8]:
    """Converts (H, W, C) pixels of an L, RGB or CMYK image to sRGB and turns them upright."""
    if mode != "RGB" or profile:
        image = Image.frombuffer(mode, pixels.shape[1::-1], pixels, "raw", mode, 0, 1)
        pixels = _to_array(_to_srgb(image, profile))
    return _upright(pixels, orientation)


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undoes an EXIF orientation, of (H, W, C) pixels."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    # What is left to be mirrored, top to bottom and left to right, once rows and columns are in their places.
    axes = MIRRORED.get(orientation)
    return np.ascontiguousarray(np.flip(pixels, axes) if axes else pixels)


def _orientation(image: Image.Image) -> int:
    """Gives the EXIF orientation, 1 to 8; 1 when metadata cannot be read."""
    with contextlib.suppress(Exception):  # Malformed metadata makes Pillow raise nearly every kind of exception.
        return _orientation_in(image.getexif())
    return 1


def _orientation_of_jpeg(jpeg: Jpeg) -> int:
    """Gives the EXIF orientation, likewise."""
    with contextlib.suppress(Exception):
        exif = Image.Exif()
        exif.load(jpeg.exif or b"")
        return _orientation_in(exif)
    return 1


def _orientation_in(exif: Image.Exif) -> int:
    orientation = exif.get(ExifTags.Base.Orientation)
    if isinstance(orientation, bytes):  # A single byte is not what the standard asks for, but others read it.
        orientation = orientation[0]
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _forget_xmp(image: Image.Image) -> None:
    """Leaves Pillow no XMP, whose orientation it would take where EXIF has none; no other program does."""
    for key in ("XML:com.adobe.xmp", "xmp"):
        image.info.pop(key, None)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Gives width and height as an upright viewer would, before the pixels are decoded."""
    width, height = image.size
    # Pillow decodes a PNG in search of EXIF, and has swapped the sides of a TIFF already; neither has "exif" here.
    turned = "exif" in image.info and _orientation(image) >= 5
    return (height, width) if turned else (width, height)


def _opaque(image: Image.Image) -> Image.Image:
    """Converts to 8-bit L, RGB or CMYK; what is transparent is composited over white."""
    if image.mode.startswith(("I", "F")):
        return _to_eight_bits(image)
    grey = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        mode = "L" if grey else "RGB"
        image = image.convert(mode + "A")
        canvas = Image.new(mode, image.size, "white")
        canvas.paste(image.convert(mode), mask=image.getchannel("A"))
        return canvas
    if image.mode in ("L", "RGB", "CMYK"):
        return image
    return image.convert("L" if grey else "RGB")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scales deep grey to 8 bits, where Pillow would clip; a transparent value is white."""
    values = np.asarray(image)
    scaled = to_eight_bits(values)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        scaled = np.where(values == transparent, np.uint8(255), scaled)
    return Image.fromarray(scaled)


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Converts an L, RGB or CMYK image to sRGB, by its ICC profile where it has one that works."""
    if profile and len(profile) <= MAX_PROFILE_BYTES:
        transform = _transform_to_srgb(profile, image.mode)
        if transform is not None:
            return transform.apply(image)
    return image if image.mode == "RGB" else image.convert("RGB")


@functools.lru_cache(maxsize=16)
def _transform_to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Builds the transform of a profile; None when it is broken, of another colour space, or changes nothing."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
        # Profiles of sRGB itself go by many names, and are recognised by what they do to a grid of all colours.
        levels = np.arange(0, 256, 17, dtype=np.uint8)
        grid = Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(64, 64, 3))
        colours = grid.convert(mode)
        change = ImageChops.difference(transform.apply(colours), colours.convert("RGB"))
    except Exception:  # The same photo without its profile is better than none.
        return None
    return transform if np.asarray(change).max() > 1 else None


def _to_array(image: Image.Image) -> NDArray[np.uint8]:
    """Copies the pixels of an L, RGB or CMYK image, in strips that stay in the cache: 3 times as fast as NumPy."""
    width, height = image.size
    channels = len(image.getbands())
    pixels = np.empty((height, width, channels), np.uint8)
    rows = max(1, 2**18 // width)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        pixels[top : top + rows] = np.frombuffer(strip.tobytes(), np.uint8).reshape(-1, width, channels)
    return pixels


def _damage(encoded: bytes, error: Exception) -> str:
    """Says what is wrong with an image that could not be decoded, in no decoder's jargon."""
    name = signature(encoded)
    if "truncated" in str(error).lower() or is_cut(encoded, name):
        return cut_short(name)
    return f"damaged {WORDS.get(name, name)} file: its picture cannot be decoded"


def error_words(error: BaseException) -> str:
    """Gives an exception's message as one line without representations of Python objects, perhaps empty."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = re.sub(r"<[^<>]*>|b'[^']*'|\(?\b0x[0-9a-f]+\)?", "", text)
    return " ".join(text.split())[:200]
