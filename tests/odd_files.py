"""Bad, odd and merely unusual image files, made in code, with what should become of each.

Tests of decoding go through the table file by file; tests of whole commands write it to a folder and score it.
"""

import functools
import io
import itertools
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pillow_heif
import tifffile
from PIL import ExifTags, Image, ImageOps, PngImagePlugin
from skimage import data

from grepr_core.decoding.images import Status

pillow_heif.register_heif_opener()

#: How an upright picture is stored under each EXIF orientation.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@dataclass(frozen=True)
class OddFile:
    name: str
    content: bytes
    status: Status
    why: str


@functools.cache
def odd_files() -> tuple[OddFile, ...]:
    files = tuple(
        OddFile(*row)
        for rows in (_no_image(), _damaged(), _formats(), _pixels(), _sizes(), _frames(), _metadata(), _names())
        for row in rows
    )
    assert len({file.name for file in files}) == len(files)
    return files


Row = tuple[str, bytes, Status, str]
SCORED, UNREADABLE, TOO_LARGE, TOO_SMALL = (
    Status.SCORED,
    Status.UNREADABLE,
    Status.TOO_LARGE,
    Status.TOO_SMALL,
)


@functools.cache
def picture(width: int = 160, height: int = 120) -> Image.Image:
    """A face: smooth skin, fine hair, saturated orange."""
    crop = Image.fromarray(data.astronaut()).crop((96, 0, 416, 240))
    return crop.resize((width, height), Image.Resampling.LANCZOS)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@functools.cache
def jpeg() -> bytes:
    return encode(picture(), "JPEG", quality=90)


@functools.cache
def png() -> bytes:
    return encode(picture(), "PNG")


@functools.cache
def webp() -> bytes:
    return encode(picture(), "WEBP", quality=90)


@functools.cache
def tiff() -> bytes:
    return encode(picture(), "TIFF", compression="tiff_deflate")


@functools.cache
def gif() -> bytes:
    return encode(picture(), "GIF")


@functools.cache
def avif() -> bytes:
    return encode(picture(), "AVIF", quality=90)


@functools.cache
def heic() -> bytes:
    return encode(picture(), "HEIF", quality=90)


@functools.cache
def jpeg2000() -> bytes:
    return encode(picture(), "JPEG2000", quality_layers=[20])


def oriented(orientation: int, kind: str = "JPEG", **options: object) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    turn = STORED[orientation]
    return encode(picture() if turn is None else picture().transpose(turn), kind, exif=exif.tobytes(), **options)


def flip_bits(content: bytes, *positions: int) -> bytes:
    flipped = bytearray(content)
    for position in positions:
        flipped[position] ^= 0x10
    return bytes(flipped)


def replace_once(content: bytes, old: bytes, new: bytes) -> bytes:
    assert old in content
    return content.replace(old, new, 1)


def png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_of(width: int, height: int, depth: int, colour_type: int, rows: bytes, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + extra
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )


def png_with(chunk: bytes) -> bytes:
    """The picture with one more chunk behind the header."""
    return png()[:33] + chunk + png()[33:]


def deep_png(values: np.ndarray) -> bytes:
    """(H, W) or (H, W, 3) uint16 as a PNG of 16 bits."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png_of(values.shape[1], values.shape[0], 16, 0 if values.ndim == 2 else 2, rows)


def jpeg_segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def jpeg_with(segment: bytes) -> bytes:
    """The picture with one more segment behind the start."""
    return jpeg()[:2] + segment + jpeg()[2:]


def jpeg_of_size(width: int, height: int) -> bytes:
    """The picture's JPEG with another size in its header."""
    frame = jpeg().index(b"\xff\xc0")
    return jpeg()[: frame + 5] + struct.pack(">HH", height, width) + jpeg()[frame + 9 :]


def tiff_with(values: dict[int, int]) -> bytes:
    """The picture's TIFF with other values of some tags."""
    patched = bytearray(tiff())
    (directory,) = struct.unpack_from("<I", patched, 4)
    (count,) = struct.unpack_from("<H", patched, directory)
    for entry in range(directory + 2, directory + 2 + 12 * count, 12):
        (tag,) = struct.unpack_from("<H", patched, entry)
        if tag in values:
            struct.pack_into("<HII", patched, entry + 2, 4, 1, values[tag])
    return bytes(patched)


def cmyk_picture() -> Image.Image:
    return picture().convert("CMYK")


@functools.cache
def cmyk_jpeg() -> bytes:
    return encode(cmyk_picture(), "JPEG", quality=95)


@functools.cache
def ycck_jpeg() -> bytes:
    """CMY stored as YCbCr. Pillow writes four channels inverted, so what it is given is inverted beforehand."""
    cyan, magenta, yellow, black = cmyk_picture().split()
    stored = Image.merge("RGB", (cyan, magenta, yellow)).convert("YCbCr").split()
    four = Image.merge("CMYK", [*map(ImageOps.invert, stored), black])
    adobe = b"Adobe\0\x64\0\0\0\0"
    return replace_once(encode(four, "JPEG", quality=95), adobe + b"\0", adobe + b"\2")


def alpha_gradient() -> Image.Image:
    """From transparent at the top to opaque at the bottom."""
    return Image.linear_gradient("L").resize(picture().size)


def icc_profile(space: bytes, tags: dict[bytes, bytes], pcs: bytes = b"XYZ ") -> bytes:
    """An ICC profile, version 2.4, with tags of the given content."""
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 2) + b"x\0" + bytes(78),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": icc_xyz(0.9642, 1.0, 0.8249),
    } | tags
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += name + struct.pack(">II", 128 + 4 + 12 * len(tags) + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    header = struct.pack(">I4sI", 128 + len(table) + len(body), bytes(4), 0x02400000) + kind + space + pcs
    header += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + icc_xyz(0.9642, 1.0, 0.8249)[8:]
    return header.ljust(128, b"\0") + table + body


def icc_xyz(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))


def icc_gamma(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


#: Columns are the primaries of Adobe RGB (1998) and of sRGB in XYZ, adapted to D50.
ADOBE_RGB = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
ADOBE_GAMMA = 2.19921875


def adobe_rgb_profile() -> bytes:
    primaries = {name: icc_xyz(*column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), ADOBE_RGB.T, strict=True)}
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), icc_gamma(ADOBE_GAMMA))
    return icc_profile(b"RGB ", primaries | curves)


GREY_GAMMA = 1.75


def grey_profile() -> bytes:
    return icc_profile(b"GRAY", {b"kTRC": icc_gamma(GREY_GAMMA)})


def grey_inks_profile() -> bytes:
    """CMYK of a press whose four inks are all grey: L* = 100 (1 - C) (1 - M) (1 - Y) (1 - K)."""
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    ramp = bytes(range(256))
    corners = b"".join(bytes([0 if any(inks) else 255, 128, 128]) for inks in itertools.product((0, 1), repeat=4))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + 4 * ramp + corners + 3 * ramp
    return icc_profile(b"CMYK", {b"A2B0": lut}, pcs=b"Lab ")


def linear(srgb: np.ndarray) -> np.ndarray:
    """sRGB in 0 to 255 as linear light in 0 to 1."""
    value = srgb / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def adobe_rgb_picture() -> Image.Image:
    """The picture's colours as Adobe RGB encodes them, worked out here and not by a colour library."""
    light = linear(np.asarray(picture()).astype(float)) @ (np.linalg.inv(ADOBE_RGB) @ SRGB).T
    return Image.fromarray(np.rint(255 * light.clip(0, 1) ** (1 / ADOBE_GAMMA)).astype(np.uint8))


def _no_image() -> Iterator[Row]:
    noise = random.Random(0).randbytes(4096)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(zipfile.ZipInfo("photo.jpg"), jpeg())
    yield "empty.jpg", b"", UNREADABLE, "upload that never happened"
    yield "one_byte.jpg", b"\xff", UNREADABLE, "one byte"
    yield "signature_only.png", b"\x89PNG\r\n\x1a\n", UNREADABLE, "eight bytes of signature"
    yield "zeros.jpg", bytes(10_000), UNREADABLE, "preallocated, never written"
    yield "noise.jpg", noise, UNREADABLE, "random bytes"
    yield "jpeg_then_noise.jpg", jpeg()[:3] + noise, UNREADABLE, "random bytes behind a JPEG signature"
    yield "png_then_noise.png", png()[:8] + noise, UNREADABLE, "random bytes behind a PNG signature"
    yield "text.jpg", b"a photo of a cat\n" * 20, UNREADABLE, "text"
    yield "lfs.jpg", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", UNREADABLE, "LFS pointer"
    yield "page.png", b"\n<!DOCTYPE html><html><h1>404</h1></html>", UNREADABLE, "error page saved as an image"
    yield "error.jpg", b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>', UNREADABLE, "S3 error"
    yield "drawing.svg", b'<svg xmlns="http://www.w3.org/2000/svg"/>', UNREADABLE, "vector drawing"
    yield "scan.pdf", encode(picture(), "PDF"), UNREADABLE, "document"
    yield "icon.ico", encode(picture(), "ICO"), UNREADABLE, "format outside the list, though Pillow could read it"
    yield "plain.ppm", encode(picture(), "PPM"), UNREADABLE, "format outside the list, though Pillow could read it"
    yield "archive.jpg", archive.getvalue(), UNREADABLE, "ZIP renamed"
    yield "video.heic", b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(64), UNREADABLE, "MP4 renamed"
    yield "resource_fork.jpg", b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(64), UNREADABLE, "macOS resource fork"
    raw = encode(picture(), "TIFF", tiffinfo={254: 1})
    yield "raw.dng", raw, UNREADABLE, "TIFF whose first picture is a thumbnail, as in raw files of cameras"


def _damaged() -> Iterator[Row]:
    for name, content in (
        ("jpg", jpeg()),
        ("png", png()),
        ("webp", webp()),
        ("tif", tiff()),
        ("gif", gif()),
        ("avif", avif()),
        ("heic", heic()),
        ("jp2", jpeg2000()),
    ):
        for percent in (10, 50, 90):
            cut = content[: len(content) * percent // 100]
            yield f"cut_at_{percent}_percent.{name}", cut, UNREADABLE, "upload broken off"
    progressive = encode(picture(), "JPEG", quality=90, progressive=True)
    yield "cut_progressive.jpg", progressive[: len(progressive) // 2], UNREADABLE, "some scans are missing"
    yield "cut_in_header.jpg", jpeg()[:100], UNREADABLE, "ends in the tables"
    yield "cut_before_end_marker.jpg", jpeg()[:-2], SCORED, "all pixels, only the end marker is missing"
    half = len(jpeg()) // 2
    yield "cut_and_ended.jpg", jpeg()[:half] + b"\xff\xd9", UNREADABLE, "half of the picture, and an end marker"
    yield "zeros_inside.jpg", jpeg()[:half] + bytes(500) + jpeg()[half + 500 :], UNREADABLE, "a lost block"
    yield "cut_before_end_chunk.png", png()[:-12], SCORED, "all pixels with a valid checksum, only IEND is missing"
    yield "trailing_bytes.jpg", jpeg() + bytes(1000), SCORED, "padding behind the end, common in phones' files"
    yield "trailing_bytes.png", png() + b"more", SCORED, "padding behind the end"
    yield "flipped_bit_in_header.png", flip_bits(png(), 18), UNREADABLE, "checksum of the header is wrong"
    yield "flipped_bit_in_pixels.png", flip_bits(png(), len(png()) // 2), UNREADABLE, "checksum of the pixels is wrong"
    yield "many_samples.tif", tiff_with({277: 10**6}), UNREADABLE, "claims a million channels"
    yield (
        "flipped_bit_in_pixels.jpg",
        flip_bits(jpeg(), len(jpeg()) // 2),
        SCORED,
        "no checksum: decodes askew, and fits",
    )
    yield "flipped_bit_in_tables.jpg", flip_bits(jpeg(), jpeg().index(b"\xff\xc4") + 5), UNREADABLE, "Huffman table"
    yield "no_pixels.png", png_of(160, 120, 8, 2, b""), UNREADABLE, "header of a PNG without content"
    yield "unknown_depth.png", png_of(160, 120, 7, 2, bytes(99999)), UNREADABLE, "7 bits a channel do not exist"


def _formats() -> Iterator[Row]:
    yield "photo.jpg", jpeg(), SCORED, "plain JPEG"
    yield "UPPER.JPG", jpeg(), SCORED, "upper case"
    yield "jpeg_named.png", jpeg(), SCORED, "the content decides"
    yield "png_named.jpg", png(), SCORED, "the content decides"
    yield "no_extension", jpeg(), SCORED, "the content decides"
    yield "unknown.extension", webp(), SCORED, "the content decides"
    yield "photo.png", png(), SCORED, "plain PNG"
    yield "photo.webp", webp(), SCORED, "plain WebP"
    yield "lossless.webp", encode(picture(), "WEBP", lossless=True), SCORED, "another codec within WebP"
    yield "photo.tif", tiff(), SCORED, "TIFF, deflate"
    yield "lzw.tif", encode(picture(), "TIFF", compression="tiff_lzw"), SCORED, "TIFF, LZW"
    yield "jpeg_inside.tif", encode(picture(), "TIFF", compression="jpeg"), SCORED, "TIFF, JPEG"
    yield "photo.bmp", encode(picture(), "BMP"), SCORED, "BMP, bottom-up"
    yield "photo.gif", gif(), SCORED, "GIF"
    yield "photo.avif", avif(), SCORED, "AVIF"
    yield "photo.heic", heic(), SCORED, "HEIC"
    yield "photo.jp2", jpeg2000(), SCORED, "JPEG 2000"
    yield "stereo.mpo", encode(picture(), "MPO", save_all=True, append_images=[picture()]), SCORED, "two JPEGs in one"
    yield "progressive.jpg", encode(picture(), "JPEG", progressive=True), SCORED, "progressive JPEG"
    yield "subsampled.jpg", encode(picture(), "JPEG", subsampling=2), SCORED, "4:2:0"
    yield "restarts.jpg", encode(picture(), "JPEG", restart_marker_rows=1), SCORED, "restart markers"
    frame = b"\xff\xc0\0\x11"
    yield "twelve_bits.jpg", replace_once(jpeg(), frame + b"\x08", frame + b"\x0c"), UNREADABLE, "12-bit JPEG"
    yield "lossless.jpg", replace_once(jpeg(), frame, b"\xff\xc3\0\x11"), UNREADABLE, "says it is lossless JPEG"


def _pixels() -> Iterator[Row]:
    grey = picture().convert("L")
    deep_grey = np.asarray(grey).astype(np.uint16) * 257
    deep_rgb = np.asarray(picture()).astype(np.uint16) * 257
    rgba = picture().copy()
    rgba.putalpha(alpha_gradient())
    palette = picture().quantize(64)
    unit = np.asarray(grey).astype(np.float32) / 255
    yield "grey.jpg", encode(grey, "JPEG"), SCORED, "grey JPEG"
    yield "grey.png", encode(grey, "PNG"), SCORED, "grey PNG"
    yield "bilevel.png", encode(grey.convert("1"), "PNG"), SCORED, "1 bit a pixel"
    yield "bilevel.tif", encode(grey.convert("1"), "TIFF", compression="group4"), SCORED, "fax"
    yield "grey_alpha.png", encode(rgba.convert("LA"), "PNG"), SCORED, "grey with alpha"
    yield "rgba.png", encode(rgba, "PNG"), SCORED, "alpha"
    yield "rgba.webp", encode(rgba, "WEBP"), SCORED, "alpha"
    yield "rgba.tif", encode(rgba, "TIFF"), SCORED, "alpha"
    yield "palette.png", encode(palette, "PNG"), SCORED, "palette"
    yield "palette_transparent.png", encode(palette, "PNG", transparency=3), SCORED, "one transparent colour"
    alphas = bytes(range(0, 256, 4))
    yield "palette_translucent.png", encode(palette, "PNG", transparency=alphas), SCORED, "an alpha a colour"
    yield "colour_key.png", png_with(png_chunk(b"tRNS", bytes([0, 9, 0, 9, 0, 9]))), SCORED, "one transparent RGB"
    yield "deep_grey.png", deep_png(deep_grey), SCORED, "16-bit grey"
    yield "deep_rgb.png", deep_png(deep_rgb), SCORED, "16-bit RGB"
    yield "deep_grey.tif", encode(Image.fromarray(deep_grey), "TIFF"), SCORED, "16-bit grey"
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, deep_rgb, photometric="rgb")
    yield "deep_rgb.tif", buffer.getvalue(), SCORED, "16-bit RGB"
    yield "integers.tif", encode(Image.fromarray(deep_grey.astype(np.int32)), "TIFF"), SCORED, "32-bit integers"
    yield "floats.tif", encode(Image.fromarray(unit), "TIFF"), SCORED, "floating point, 0 to 1"
    not_finite = np.where(unit > 0.9, np.nan, unit)
    yield "nan.tif", encode(Image.fromarray(not_finite), "TIFF"), SCORED, "floating point with holes"
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, deep_rgb.astype(np.float32) / 65535, photometric="rgb")
    yield "float_rgb.tif", buffer.getvalue(), SCORED, "floating point RGB, which Pillow cannot read"
    yield "cmyk.jpg", cmyk_jpeg(), SCORED, "CMYK as Adobe writes it, inverted"
    adobe = cmyk_jpeg().index(b"\xff\xee")
    yield "cmyk_unmarked.jpg", cmyk_jpeg()[:adobe] + cmyk_jpeg()[adobe + 16 :], SCORED, "CMYK, no Adobe marker"
    yield "ycck.jpg", ycck_jpeg(), SCORED, "CMYK stored as YCCK"
    yield "cmyk.tif", encode(cmyk_picture(), "TIFF"), SCORED, "CMYK, not inverted"
    yield "lab.tif", encode(picture().convert("LAB"), "TIFF"), SCORED, "CIELAB"
    yield "deep.jp2", encode(Image.fromarray(deep_grey), "JPEG2000"), SCORED, "16-bit grey"


def _sizes() -> Iterator[Row]:
    header = struct.pack("<IiiHHIIiiII", 40, -5, 0, 1, 24, 0, 0, 0, 0, 0, 0)
    bmp = encode(picture(), "BMP")
    flipped = encode(ImageOps.flip(picture()), "BMP")
    top_down = flipped[:22] + struct.pack("<i", -picture().height) + flipped[26:]
    yield "dot.png", encode(picture(1, 1), "PNG"), TOO_SMALL, "tracking pixel"
    yield "line.png", encode(picture(20_000, 1), "PNG"), TOO_SMALL, "one row"
    yield "small.png", encode(picture(31, 31), "PNG"), TOO_SMALL, "just below the limit"
    yield "small_side.jpg", encode(picture(200, 31), "JPEG"), TOO_SMALL, "one side below the limit"
    yield "least.png", encode(picture(32, 32), "PNG"), SCORED, "just at the limit"
    yield "odd.jpg", encode(picture(157, 93), "JPEG"), SCORED, "sides that are no multiple of a block"
    yield "banner.jpg", encode(picture(8000, 40), "JPEG"), SCORED, "aspect of 200"
    yield "huge.png", png_of(100_000, 100_000, 8, 2, bytes(1000)), TOO_LARGE, "claims 30 GB"
    yield "most.png", png_of(2**31 - 1, 2**31 - 1, 16, 6, b""), TOO_LARGE, "claims what no memory holds"
    yield "beyond.png", png_of(2**32 - 1, 2**32 - 1, 8, 2, b""), TOO_LARGE, "claims what 32 signed bits do not hold"
    yield "huge.jpg", jpeg_of_size(65_500, 65_500), TOO_LARGE, "claims 13 GB"
    yield "huge.gif", replace_once(gif(), gif()[6:10], b"\xff" * 4), TOO_LARGE, "claims 4 gigapixels"
    yield "huge.bmp", bmp[:18] + struct.pack("<ii", 10**6, 10**6) + bmp[26:], TOO_LARGE, "claims 3 TB"
    yield "huge.tif", tiff_with({256: 90_000, 257: 90_000}), TOO_LARGE, "claims 24 GB"
    animated = encode(picture(), "WEBP", save_all=True, append_images=[picture().rotate(90)])
    yield "huge.webp", animated[:24] + b"\xff\x3f\0\xff\x3f\0" + animated[30:], TOO_LARGE, "claims 16384 a side"
    yield "no_width.png", png_of(0, 100, 8, 2, b""), UNREADABLE, "no pixels at all"
    yield "no_height.jpg", jpeg_of_size(160, 0), UNREADABLE, "height to be defined later, which nobody does"
    yield "top_down.bmp", top_down, SCORED, "negative height means top-down"
    yield "negative.bmp", b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header, UNREADABLE, "negative width, no height"


def _frames() -> Iterator[Row]:
    frames = {"save_all": True, "append_images": [ImageOps.invert(picture())], "duration": 100}
    yield "animated.gif", encode(picture(), "GIF", **frames), SCORED, "first frame counts"
    yield "animated.webp", encode(picture(), "WEBP", **frames), SCORED, "first frame counts"
    yield "animated.png", encode(picture(), "PNG", **frames), SCORED, "first frame counts"
    yield "animated.avif", encode(picture(), "AVIF", **frames), SCORED, "first frame counts"
    yield "pages.tif", encode(picture(), "TIFF", **frames), SCORED, "first page counts"
    descriptor = gif().index(b",\0\0\0\0" + struct.pack("<HH", 160, 120))
    no_frame = gif()[: descriptor + 5] + bytes(4) + gif()[descriptor + 9 :]
    yield "no_frame.gif", no_frame, UNREADABLE, "frame of no size"
    yield "no_frames.gif", gif()[:13] + b";", UNREADABLE, "header and end, nothing between"


def _metadata() -> Iterator[Row]:
    for orientation in STORED:
        yield f"orientation_{orientation}.jpg", oriented(orientation), SCORED, "turned upright"
    for kind, name in (("PNG", "png"), ("WEBP", "webp"), ("TIFF", "tif"), ("AVIF", "avif"), ("HEIF", "heic")):
        yield f"orientation_6.{name}", oriented(6, kind), SCORED, "turned upright"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    good = exif.tobytes()
    for name, content, why in (
        ("noise", b"Exif\0\0" + random.Random(1).randbytes(200), "noise in place of EXIF"),
        ("cut", good[:-5], "EXIF cut short"),
        ("empty", b"Exif\0\0", "EXIF without content"),
        ("loop", good[:10] + struct.pack("<I", 8)[::-1] + good[14:-4] + good[10:14], "EXIF that points to itself"),
        ("count", replace_once(good, b"\0\3\0\0\0\1", b"\0\3\xff\xff\xff\xff"), "EXIF that claims 4 billion values"),
        ("orientation_99", replace_once(good, b"\0\6", b"\0\x63"), "no such orientation"),
    ):
        yield f"exif_{name}.jpg", jpeg_with(jpeg_segment(0xE1, content)), SCORED, why
    # One byte where a fraction belongs, behind which Pillow looks for the denominator.
    entries = struct.pack("<HHIIHHII", 282, 7, 1, 72, 296, 3, 1, 2)
    resolution = b"Exif\0\0II*\0\x08\0\0\0\2\0" + entries + bytes(4)
    yield "exif_resolution.jpg", jpeg_with(jpeg_segment(0xE1, resolution)), SCORED, "resolution is no fraction"
    yield "jfif_empty.jpg", jpeg()[:2] + jpeg_segment(0xE0, b"JFIF\0") + jpeg()[20:], SCORED, "an empty side segment"
    broken = b"\0" * 36 + b"acsp" + bytes(100)
    too_much = zlib.compress(bytes(8 * 2**20))
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "x" * 500_000)
    wide_jpeg = encode(adobe_rgb_picture(), "JPEG", quality=95, subsampling=0, icc_profile=adobe_rgb_profile())
    wide_png = encode(adobe_rgb_picture(), "PNG", icc_profile=adobe_rgb_profile())
    yield "adobe_rgb.jpg", wide_jpeg, SCORED, "wide gamut"
    yield "adobe_rgb.png", wide_png, SCORED, "wide gamut"
    grey = picture().convert("L")
    yield "grey_profile.png", encode(grey, "PNG", icc_profile=grey_profile()), SCORED, "grey of another gamma"
    yield "cmyk_profile.jpg", encode(cmyk_picture(), "JPEG", icc_profile=grey_inks_profile()), SCORED, "four grey inks"
    yield "profile_broken.jpg", encode(picture(), "JPEG", icc_profile=broken), SCORED, "broken profile ignored"
    wrong = encode(picture(), "JPEG", icc_profile=grey_inks_profile())
    yield "profile_of_cmyk.jpg", wrong, SCORED, "CMYK profile on RGB"
    yield "profile_broken.png", png_with(png_chunk(b"iCCP", b"x\0\0no zlib")), SCORED, "broken profile ignored"
    yield "profile_bomb.png", png_with(png_chunk(b"iCCP", b"x\0\0" + too_much)), SCORED, "8 MB from 8 kB, ignored"
    yield "text_bomb.png", png_with(png_chunk(b"zTXt", b"x\0\0" + too_much)), SCORED, "8 MB from 8 kB, ignored"
    yield "long_text.png", encode(picture(), "PNG", pnginfo=text), SCORED, "half a megabyte of text"


def _names() -> Iterator[Row]:
    for name in (
        "two words.jpg",
        "new\nline.jpg",
        "tab\tin name.jpg",
        'it\'s "quoted".jpg',
        "-rf.jpg",
        "100%.jpg",
        "%2e%2e%2f.jpg",
        "a#b.jpg",
        "what?.jpg",
        "a&b=c;d.jpg",
        "[1]*{2}.jpg",
        "back\\slash.jpg",
        "$HOME `id`.jpg",
        "comma,semi;.jpg",
        "фото 写真 ✨🐈.jpg",
        "cafe\u0301 decomposed.jpg",
        "caf\u00e9 composed.jpg",
        "double..jpg",
        "photo.tar.jpg",
        "l" * 200 + ".jpg",
    ):
        yield name, jpeg(), SCORED, "an unusual name"
