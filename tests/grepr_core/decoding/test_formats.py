"""Formats other than JPEG: files that were scored with wrong pixels, or refused though other programs open them."""

import io
import struct
import subprocess
import sys
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps, PngImagePlugin

from grepr_core.decoding.images import Failure, Limits, Photo, Status, decode
from grepr_core.decoding.kinds import signature
from tests import odd_files as odd
from tests.odd_files import encode, picture, png_chunk

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

ORIGINAL = np.asarray(picture())
GREY = np.asarray(picture().convert("L"))
ALPHA = np.asarray(odd.alpha_gradient())


def pixels(content: bytes) -> np.ndarray:
    result = decode(content)
    assert isinstance(result, Photo), result
    assert (result.width, result.height) == result.rgb.shape[1::-1]
    return result.rgb.astype(int)


def error(content: bytes) -> str:
    result = decode(content)
    assert isinstance(result, Failure)
    assert result.status == Status.UNREADABLE
    return result.error


def check(content: bytes, expected: np.ndarray, tolerance: float = 1) -> None:
    """Compares with (H, W, 3) or (H, W) levels."""
    grey_or_rgb = expected if expected.ndim == 3 else np.repeat(expected[:, :, None], 3, axis=2)
    assert np.abs(pixels(content) - grey_or_rgb).max() <= tolerance


def over_white(colours: np.ndarray, alpha: np.ndarray = ALPHA) -> np.ndarray:
    share = (alpha if colours.ndim == 2 else alpha[:, :, None]) / 255
    return colours * share + 255 * (1 - share)


def tiff(values: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, metadata=None, **options)
    return buffer.getvalue()


def planes(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(values, -1, 0))


def deep(values: np.ndarray) -> np.ndarray:
    return values.astype(np.uint16) * 257


# --- TIFF -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits"])
@pytest.mark.parametrize("tile", [None, (32, 48)])
def test_sixteen_bits_in_planes(compression: str | None, tile: tuple[int, int] | None):
    options = {"planarconfig": "separate", "compression": compression, "tile": tile}
    check(tiff(planes(deep(ORIGINAL)), photometric="rgb", **options), ORIGINAL)
    rgba = np.dstack([ORIGINAL, ALPHA])
    check(tiff(planes(deep(rgba)), photometric="rgb", extrasamples=["unassalpha"], **options), over_white(ORIGINAL))


def test_cmyk_in_planes_and_with_alpha():
    cmyk = np.asarray(odd.cmyk_picture())
    plain = pixels(tiff(cmyk, photometric="separated"))
    for values in (cmyk, deep(cmyk)):
        check(tiff(planes(values), photometric="separated", planarconfig="separate"), plain)
        with_alpha = np.dstack([values, np.full_like(values[:, :, 0], np.iinfo(values.dtype).max)])
        check(tiff(with_alpha, photometric="separated", extrasamples=["unassalpha"]), plain)
    transparent = np.dstack([cmyk, np.zeros_like(GREY)])
    check(tiff(transparent, photometric="separated", extrasamples=["unassalpha"]), np.full_like(ORIGINAL, 255))


@pytest.mark.parametrize("planar", [True, False])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("associated", [True, False])
def test_grey_with_alpha(planar: bool, bits: int, associated: bool):
    grey = np.rint(GREY * (ALPHA / 255)) if associated else GREY
    values = np.dstack([grey.astype(np.uint8), ALPHA])
    values = deep(values) if bits == 16 else values
    content = tiff(
        planes(values) if planar else values,
        photometric="minisblack",
        planarconfig="separate" if planar else "contig",
        extrasamples=["assocalpha" if associated else "unassalpha"],
    )
    check(content, over_white(GREY), 2 if associated else 1)


@pytest.mark.parametrize("white", [255, 65535])
def test_colour_map_of_8_or_16_bits(white: int):
    palette = picture().quantize(256)
    colours = np.asarray(palette.getpalette(), np.uint16).reshape(-1, 3)
    colours = np.pad(colours, ((0, 256 - len(colours)), (0, 0))) * (white // 255)
    content = tiff(np.asarray(palette), photometric="palette", colormap=np.ascontiguousarray(colours.T))
    check(content, np.asarray(palette.convert("RGB")), 0)


def test_signed_samples_are_lifted():
    check(tiff((GREY.astype(int) - 128).astype(np.int8)), GREY, 0)
    check(tiff((deep(GREY).astype(int) - 32768).astype(np.int16)), GREY, 0)


def test_white_is_zero_in_16_bits():
    check(tiff(65535 - deep(GREY), photometric="miniswhite"), GREY, 0)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_odd_numbers_of_bits_span_what_they_hold(bits: int):
    row = np.rint(GREY / 255 * (2**bits - 1)).astype(np.uint16)
    packed = np.concatenate([np.packbits(_bits(values, bits)) for values in row])
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros_like(row), photometric="minisblack", metadata=None, rowsperstrip=row.shape[0])
    patched = bytearray(buffer.getvalue())
    _patch(patched, 258, bits)
    _patch(patched, 279, len(packed))
    with tifffile.TiffFile(io.BytesIO(patched)) as file:
        offset = file.pages[0].dataoffsets[0]
    patched[offset : offset + len(packed)] = packed.tobytes()
    check(bytes(patched), GREY)


def _bits(values: np.ndarray, bits: int) -> np.ndarray:
    return ((values[:, None] >> np.arange(bits - 1, -1, -1)) & 1).astype(np.uint8).ravel()


def _patch(content: bytearray, tag: int, value: int) -> None:
    """Writes another value into a little-endian TIFF's tag."""
    (directory,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, directory)
    for entry in range(directory + 2, directory + 2 + 12 * count, 12):
        number, kind = struct.unpack_from("<HH", content, entry)
        if number == tag:
            struct.pack_into("<H" if kind == 3 else "<I", content, entry + 8, value)


def test_highlights_beyond_white_are_white():
    values = ORIGINAL / np.float32(255)
    values[:8, :8] = 3.0
    expected = ORIGINAL.copy()
    expected[:8, :8] = 255
    check(tiff(values, photometric="rgb", compression="zlib"), expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("predictor", [False, True])
def test_floating_point_colours(dtype: type, predictor: bool):
    values = (ORIGINAL / 255).astype(dtype)
    check(tiff(values, photometric="rgb", compression="zlib", predictor=predictor), ORIGINAL)


def test_integers_of_32_bits():
    check(tiff(deep(ORIGINAL).astype(np.uint32), photometric="rgb"), ORIGINAL)
    check(tiff(ORIGINAL.astype(np.int32), photometric="rgb"), ORIGINAL, 0)


@pytest.mark.parametrize("photometric", ["cielab", "icclab"])
def test_lab_of_16_bits(photometric: str):
    # Pillow shows a* and b* as the bytes of signed numbers.
    lab = (np.asarray(picture().convert("LAB")) ^ np.uint8([0, 128, 128])).astype(int)
    signed = photometric == "cielab"
    deep_lab = np.dstack([lab[:, :, 0] * 257, (lab[:, :, 1:] - (128 if signed else 0)) * 256]).astype(np.uint16)
    content = tiff(deep_lab, photometric=photometric)
    check(content, np.asarray(picture().convert("LAB").convert("RGB")), 2)


def test_big_endian_bigtiff():
    check(tiff(ORIGINAL, photometric="rgb", bigtiff=True, byteorder=">"), ORIGINAL, 0)


@pytest.mark.parametrize("compression", ["webp", "lerc", "png", "jpegxl", "jpeg2000"])
def test_other_formats_within_tiff(compression: str):
    quality = {} if compression == "lerc" else {"level": 100}
    content = tiff(ORIGINAL, photometric="rgb", compression=compression, compressionargs=quality)
    assert np.abs(pixels(content) - ORIGINAL).mean() < 3


@pytest.mark.parametrize("compression", ["webp", "jpeg2000", "png", "jpegxl", "lerc", "jpeg"])
def test_part_of_a_tiff_that_claims_more_than_its_place_is_refused(compression: str):
    large = np.repeat(np.repeat(ORIGINAL, 4, axis=0), 4, axis=1)
    options = {"planarconfig": "separate"} if compression == "jpeg" else {}
    values = planes(large) if options else large
    content = bytearray(tiff(values, photometric="rgb", compression=compression, rowsperstrip=len(large), **options))
    for tag, value in ((256, 64), (257, 64), (278, 64)):  # width, height, rows of a strip
        _patch(content, tag, value)
    assert "larger than its place" in error(bytes(content))


def test_subsampled_colours_without_jpeg():
    # One Cb and Cr for two pixels: all of one colour.
    width, height = 64, 64
    luma, blue, red = Image.new("RGB", (1, 1), (200, 120, 40)).convert("YCbCr").getpixel((0, 0))
    data = np.tile(np.array([luma, luma, blue, red], np.uint8), width * height // 2)
    entries = [
        (256, 3, 1, width),
        (257, 3, 1, height),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 6),
        (273, 4, 1, 8),
        (277, 3, 1, 3),
        (278, 3, 1, height),
        (279, 4, 1, len(data)),
        (530, 3, 2, 2 | 1 << 16),
    ]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    content = struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data.tobytes() + directory
    check(content, np.broadcast_to([200, 120, 40], (height, width, 3)), 3)


@pytest.mark.parametrize("orientation", odd.STORED)
@pytest.mark.parametrize("dtype", ["B", "H", "I"])
@pytest.mark.parametrize("is_plain", [True, False])
def test_orientation_of_any_type_of_number(orientation: int, dtype: str, is_plain: bool):
    turn = odd.STORED[orientation]
    stored = np.asarray(picture() if turn is None else picture().transpose(turn))
    values = stored if is_plain else stored / np.float32(255)
    check(tiff(values, photometric="rgb", extratags=[(274, dtype, 1, orientation, True)]), ORIGINAL, 0)


def test_orientation_in_xmp_of_a_tiff_does_not_count():
    xmp = b'<rdf:Description tiff:Orientation="6"/>'
    check(encode(picture(), "TIFF", tiffinfo={700: xmp}), ORIGINAL, 0)


def test_profile_of_what_pillow_does_not_read_is_applied():
    profile = odd.adobe_rgb_profile()
    values = planes(deep(np.asarray(odd.adobe_rgb_picture())))
    content = tiff(values, photometric="rgb", planarconfig="separate", iccprofile=profile)
    assert np.abs(pixels(content) - ORIGINAL).max() <= 3


def test_header_of_a_deep_tiff_alone_decides(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tifffile.TiffPage, "asarray", lambda *_, **__: pytest.fail("pixels were decoded"))
    values = np.zeros((200, 100, 3), np.float32)
    content = bytearray(tiff(values, photometric="rgb", compression="zlib"))
    assert decode(bytes(content), limits=Limits(max_pixels=19_999)).status == Status.TOO_LARGE
    assert decode(bytes(content), limits=Limits(min_side=101)).status == Status.TOO_SMALL
    _patch(content, 257, 60_000)
    _patch(content, 256, 4_000)
    result = decode(bytes(content))
    assert (result.status, result.width) == (Status.TOO_LARGE, None)
    assert "bytes, the limit is" in result.error


def test_tile_larger_than_any_picture_is_refused():
    content = bytearray(tiff(ORIGINAL / np.float32(255), photometric="rgb", tile=(32, 48), compression="zlib"))
    _patch(content, 322, 65_520)
    _patch(content, 323, 65_520)
    assert decode(bytes(content)).status == Status.TOO_LARGE


def test_cut_tiff_is_cut_short():
    content = tiff(planes(deep(ORIGINAL)), photometric="rgb", planarconfig="separate")
    moved = content[: len(content) * 8 // 10]
    assert error(moved) == "cut short: the TIFF file ends before its picture does"


# --- PNG ------------------------------------------------------------------------------------------------------------


def test_transparent_value_of_deep_png():
    key = deep(GREY)[60, 80]
    content = odd.deep_png(deep(GREY))
    keyed = content[:33] + png_chunk(b"tRNS", struct.pack(">H", key)) + content[33:]
    check(keyed, np.where(deep(GREY) == key, 255, GREY), 0)


def test_transparent_colour_of_deep_png_is_compared_in_full():
    values = deep(ORIGINAL)
    values[0, 0] = (0x1234, 0x5678, 0x9ABC)
    values[0, 1] = (0x1235, 0x5678, 0x9ABC)
    content = odd.deep_png(values)
    keyed = content[:33] + png_chunk(b"tRNS", values[0, 0].astype(">u2").tobytes()) + content[33:]
    assert pixels(keyed)[0, 0].tolist() == [255] * 3
    assert np.abs(pixels(keyed)[0, 1] - [0x12, 0x56, 0x9A]).max() <= 1


def test_transparent_colour_that_ends_like_a_pixel_is_another():
    rows = (b"\0" + b"\x34" * 6 * 40) * 40
    content = odd.png_of(40, 40, 16, 2, rows, png_chunk(b"tRNS", b"\x12\x34" * 3))
    assert (pixels(content) == 0x34).all()


@pytest.mark.parametrize("length", [0, 1, 3, 6])
def test_transparency_of_another_length_is_none(length: int):
    content = odd.png_of(40, 40, 8, 0, (b"\0" + b"\x80" * 40) * 40, png_chunk(b"tRNS", bytes(length)))
    assert (pixels(content) == 0x80).all()


def test_transparency_behind_the_picture_is_none():
    content = encode(picture().convert("L"), "PNG")
    end = len(content) - 12
    check(content[:end] + png_chunk(b"tRNS", bytes((0, int(GREY[0, 0])))) + content[end:], GREY, 0)


def test_chunks_without_number_are_refused_or_passed_over():
    content = encode(picture(), "PNG")
    bomb = png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(10**6), 9))
    check(content[:33] + bomb * 300 + content[33:], ORIGINAL, 0)
    assert "chunks" in error(content[:33] + png_chunk(b"IDAT", b"") * 70_000 + content[33:])


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_transparent_value_of_few_bits(depth: int):
    top = 2**depth - 1
    values = np.tile(np.arange(64, dtype=np.uint8) % (top + 1), (64, 1))
    rows = b"".join(b"\0" + np.packbits(_bits(row.astype(int), depth)).tobytes() for row in values)
    content = odd.png_of(64, 64, depth, 0, rows, png_chunk(b"tRNS", struct.pack(">H", 1)))
    check(content, np.where(values == 1, 255, values * (255 // top)), 0)


def bad_checksum(chunk: bytes) -> bytes:
    return chunk[:-1] + bytes([chunk[-1] ^ 1])


TOO_LONG = zlib.compress(bytes(3 * 2**20))


@pytest.mark.parametrize(
    "chunk",
    [
        bad_checksum(png_chunk(b"tEXt", b"Comment\0hello")),
        bad_checksum(png_chunk(b"gAMA", struct.pack(">I", 45455))),
        bad_checksum(png_chunk(b"tRNS", bytes(6))),
        bad_checksum(png_chunk(b"iCCP", b"x\0\0" + zlib.compress(odd.adobe_rgb_profile()))),
        png_chunk(b"gAMA", b"\1"),
        png_chunk(b"pHYs", b"\1"),
        png_chunk(b"zTXt", b"Comment\0\7" + zlib.compress(b"hello")),
        png_chunk(b"iCCP", b"name without end"),
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + TOO_LONG),
        png_chunk(b"acTL", b""),
        png_chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'),
    ],
    ids=range(11),
)
@pytest.mark.parametrize("is_last", [False, True])
def test_damage_in_a_side_chunk_costs_nothing(chunk: bytes, is_last: bool):
    content = odd.png()[:-12] + chunk + odd.png()[-12:] if is_last else odd.png_with(chunk)
    check(content, ORIGINAL, 0)


@pytest.mark.parametrize("missing", range(1, 13))
def test_end_of_a_png_may_be_cut(missing: int):
    check(odd.png()[:-missing], ORIGINAL, 0)


def test_png_may_be_cut_within_what_follows_the_picture():
    content = odd.png()[:-12] + png_chunk(b"tEXt", b"Comment\0" + bytes(100))[:50]
    check(content, ORIGINAL, 0)
    check(odd.png()[:-12] + struct.pack(">I4s", 8192, b"IDAT"), ORIGINAL, 0)


def test_damage_of_pixels_is_no_side_matter():
    content = odd.png()
    assert error(content[:-100]) == "cut short: the PNG file ends before its picture does"
    stored = zlib.compress(b"".join(b"\0" + row.tobytes() for row in ORIGINAL), 0)
    damaged = odd.flip_bits(stored, len(stored) // 2)
    header = content[:33]
    assert error(header + png_chunk(b"IDAT", damaged) + png_chunk(b"IEND", b"")).startswith("damaged PNG file")


def test_animation_of_a_png_without_its_frames_is_its_picture():
    frames = {"save_all": True, "append_images": [ImageOps.invert(picture())], "duration": 100}
    content = encode(picture(), "PNG", **frames)
    check(content[: content.index(b"fdAT") + 20], ORIGINAL, 0)


def test_orientation_where_imagemagick_puts_it():
    exif = Image.Exif()
    exif[274] = 6
    raw = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")
    text = f"\nexif\n{len(raw):8}\n" + raw.hex()
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", text, zip=True)
    check(encode(picture().transpose(odd.STORED[6]), "PNG", pnginfo=info), ORIGINAL, 0)


# --- BMP and GIF ----------------------------------------------------------------------------------------------------


def bitfields(masks: tuple[int, ...], bits: int, *, top_down: bool = False) -> tuple[bytes, np.ndarray]:
    """A BMP with channels in any bits of a word, and what should be seen."""
    channels = [*np.moveaxis(ORIGINAL, -1, 0).astype(np.uint64), ALPHA.astype(np.uint64)][: len(masks)]
    words = np.zeros(GREY.shape, np.uint64)
    seen = []
    for values, mask in zip(channels, masks, strict=True):
        shift = (mask & -mask).bit_length() - 1
        levels = mask >> shift
        reduced = np.rint(values * (levels / 255)).astype(np.uint64)
        words |= reduced << np.uint64(shift)
        seen.append(np.rint(reduced * (255 / levels)))
    rows = words if top_down else words[::-1]
    data = rows.astype(f"<u{bits // 8}").tobytes()
    height, width = GREY.shape
    size = 124 if len(masks) == 4 else 40
    header = struct.pack("<IiiHHI", size, width, -height if top_down else height, 1, bits, 3).ljust(40, b"\0")
    header = (header + struct.pack(f"<{len(masks)}I", *masks)).ljust(max(size, 52), b"\0")
    offset = 14 + len(header)
    colours = np.dstack(seen[:3])
    expected = over_white(colours, seen[3]) if len(masks) == 4 else colours
    return struct.pack("<2sIHHI", b"BM", offset + len(data), 0, 0, offset) + header + data, expected


@pytest.mark.parametrize(
    ("masks", "bits"),
    [
        ((0xF00, 0xF0, 0xF), 16),
        ((0xF00, 0xF0, 0xF, 0xF000), 16),
        ((0x7C00, 0x3E0, 0x1F), 16),
        ((0xF800, 0x7E0, 0x1F), 16),
        ((0x7C00, 0x3E0, 0x1F, 0x8000), 16),
        ((0x3FF00000, 0xFFC00, 0x3FF), 32),
        ((0xFF, 0xFF00, 0xFF0000), 32),
        ((0xFF000000, 0xFF0000, 0xFF00, 0xFF), 32),
    ],
)
@pytest.mark.parametrize("top_down", [False, True])
def test_channels_of_a_bmp_may_be_any_bits(masks: tuple[int, ...], bits: int, top_down: bool):
    content, expected = bitfields(masks, bits, top_down=top_down)
    check(content, expected)
    assert error(content[:-1000]) == "cut short: the BMP file ends before its picture does"


def test_around_a_small_first_frame_a_gif_is_white():
    palette = picture(80, 60).quantize(32, dither=Image.Dither.NONE)
    content = bytearray(encode(palette, "GIF"))
    struct.pack_into("<HH", content, 6, 160, 120)
    frame = content.index(b",\0\0\0\0" + struct.pack("<HH", 80, 60))
    struct.pack_into("<HH", content, frame + 1, 40, 30)
    expected = np.full((120, 160, 3), 255)
    expected[30:90, 40:120] = np.asarray(palette.convert("RGB"))
    check(bytes(content), expected, 0)


# --- AVIF and HEIC --------------------------------------------------------------------------------------------------


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def with_properties(content: bytes, properties: list[bytes], *, split: bool = False) -> bytes:
    """Adds properties to the picture of an AVIF or HEIC; perhaps with boxes of their own that associate them."""
    meta = content.index(b"meta") - 4
    start = content.index(b"iprp") - 4
    (length,) = struct.unpack_from(">I", content, start)
    known = content.index(b"ipco") - 4
    (known_length,) = struct.unpack_from(">I", content, known)
    count, at = 0, known + 8
    while at < known + known_length:
        count, at = count + 1, at + struct.unpack_from(">I", content, at)[0]
    old = content.index(b"ipma") - 4
    (old_length,) = struct.unpack_from(">I", content, old)
    (item,) = struct.unpack_from(">H", content, content.index(b"pitm") + 8)
    entry = old + 16
    assert struct.unpack_from(">H", content, entry) == (item,), "the first item is the picture"
    indices = bytes(0x80 | (count + 1 + index) for index in range(len(properties)))
    entries = bytearray(content[old + 8 : old + old_length])
    if split:
        (items,) = struct.unpack_from(">I", content, old + 12)
        size = 3 + content[entry + 2]
        head = content[old + 8 : old + 12]
        first = head + struct.pack(">I", 1) + content[entry : entry + size]
        rest = head + struct.pack(">I", items - 1) + content[entry + size : old + old_length]
        new = box(b"ipma", first) + box(b"ipma", rest)
    else:
        entries[10] += len(indices)
        entries[11 + content[entry + 2] : 11 + content[entry + 2]] = indices
        new = box(b"ipma", bytes(entries))
    merged = box(b"iprp", box(b"ipco", content[known + 8 : known + known_length] + b"".join(properties)) + new)
    grown = len(merged) - length
    result = bytearray(content[:start] + merged + content[start + length :])
    struct.pack_into(">I", result, meta, struct.unpack_from(">I", content, meta)[0] + grown)
    move_data(result, grown)
    return bytes(result)


def move_data(content: bytearray, by: int) -> None:
    """Adds to all offsets in the file that its container holds."""
    at = content.index(b"iloc") + 4
    version = content[at]
    offset_size, length_size, base_size = content[at + 4] >> 4, content[at + 4] & 15, content[at + 5] >> 4
    (items,) = struct.unpack_from(">H", content, at + 6)
    at += 8
    for _ in range(items):
        is_in_file = version == 0 or content[at + 3] == 0
        at += 4 if version == 0 else 6
        places = [(at, base_size)]
        (extents,) = struct.unpack_from(">H", content, at + base_size)
        at += base_size + 2
        for _ in range(extents):
            places.append((at, offset_size))
            at += offset_size + length_size
        # What a base does not hold the extents do.
        values = [int.from_bytes(content[place : place + size], "big") for place, size in places]
        for (place, size), value in zip(places, values, strict=True):
            if is_in_file and size and (value if values[0] == 0 else place == places[0][0]):
                content[place : place + size] = (value + by).to_bytes(size, "big")


def clap(width: int, height: int, across: int, down: int) -> bytes:
    return box(b"clap", struct.pack(">IIIIiIiI", width, 1, height, 1, across, 2, down, 2))


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_crop_within_the_container_is_applied(kind: str):
    plain = odd.avif() if kind == "AVIF" else odd.heic()
    cropped = with_properties(plain, [clap(100, 60, 20, -10)])
    whole = pixels(plain)
    # The centre lies 10 to the right of and 5 above that of the picture.
    # libheif fills in colours between pixels after it has cropped.
    assert np.abs(pixels(cropped) - whole[25:85, 40:140]).mean() < 1
    assert decode(cropped, limits=Limits(max_pixels=100)).width == 100


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirror", [None, 0, 1])
def test_rotation_and_mirroring_within_the_container_are_applied(kind: str, turns: int, mirror: int | None):
    plain = odd.avif() if kind == "AVIF" else odd.heic()
    properties = [box(b"irot", bytes([turns]))] + ([] if mirror is None else [box(b"imir", bytes([mirror]))])
    expected = np.rot90(pixels(plain), turns)
    if mirror is not None:
        expected = np.flip(expected, axis=mirror)
    check(with_properties(plain, properties), expected, 0)


def test_avif_with_its_properties_in_two_boxes():
    rgba = picture().copy()
    rgba.putalpha(odd.alpha_gradient())
    content = encode(rgba, "AVIF", quality=90)
    check(with_properties(content, [], split=True), pixels(content), 0)


@pytest.mark.parametrize("brand", [b"mif2", b"mif1", b"miaf", b"msf1"])
def test_heic_of_brands_of_any_codec(brand: bytes):
    content = odd.heic()[:8] + brand + odd.heic()[12:]
    check(content, pixels(odd.heic()), 0)
    assert "HEIC" in error(content[: len(content) // 2])


def test_avif_and_heic_are_told_apart():
    for brand in (b"mif1", b"miaf", b"mif2"):
        assert signature(odd.avif()[:8] + brand + odd.avif()[12:]) == "AVIF"
        assert signature(odd.heic()[:8] + brand + odd.heic()[12:]) == "HEIF"


def test_sequence_of_hevc_is_called_so():
    sequence = box(b"ftyp", b"msf1" + bytes(4) + b"msf1hevcheic") + box(b"moov", bytes(100))
    assert error(sequence) == "not supported: a HEIC image sequence (HEVC) without a still image"


# --- JPEG 2000 and JPEG XL ------------------------------------------------------------------------------------------


def with_definitions(image: Image.Image, definitions: list[tuple[int, int, int]]) -> bytes:
    """A JPEG 2000 that says what its channels are."""
    content = encode(image, "JPEG2000")
    start = content.index(b"jp2h") - 4
    (length,) = struct.unpack_from(">I", content, start)
    kept = content[start + 8 : start + length]
    at = kept.find(b"cdef") - 4
    if at > 0:
        kept = kept[:at] + kept[at + struct.unpack_from(">I", kept, at)[0] :]
    packed = struct.pack(">H", len(definitions)) + b"".join(struct.pack(">HHH", *row) for row in definitions)
    return content[:start] + box(b"jp2h", kept + box(b"cdef", packed)) + content[start + length :]


def test_channels_of_a_jpeg2000_are_what_it_says():
    red, green, blue = picture().split()
    alpha = odd.alpha_gradient()
    swapped = Image.merge("RGB", (blue, green, red))
    check(with_definitions(swapped, [(0, 0, 3), (1, 0, 2), (2, 0, 1)]), ORIGINAL)
    first = Image.merge("RGBA", (alpha, red, green, blue))
    check(with_definitions(first, [(0, 1, 0), (1, 0, 1), (2, 0, 2), (3, 0, 3)]), over_white(ORIGINAL))
    last = Image.merge("RGBA", (red, green, blue, alpha))
    check(with_definitions(last, [(0, 0, 1), (1, 0, 2), (2, 0, 3), (3, 1, 0)]), over_white(ORIGINAL))
    check(with_definitions(last, [(0, 0, 1), (1, 0, 2), (2, 0, 3), (3, 65535, 65535)]), ORIGINAL)
    premultiplied = Image.merge(
        "RGBA", (*Image.composite(picture(), Image.new("RGB", alpha.size), alpha).split(), alpha)
    )
    check(with_definitions(premultiplied, [(0, 0, 1), (1, 0, 2), (2, 0, 3), (3, 2, 0)]), over_white(ORIGINAL), 2)
    grey = Image.merge("LA", (alpha, picture().convert("L")))
    check(with_definitions(grey, [(0, 1, 0), (1, 0, 1)]), over_white(GREY))


def jpegxl(values: np.ndarray, **options: object) -> bytes:
    return imagecodecs.jpegxl_encode(values, **{"lossless": True} | options)


def test_jpegxl():
    check(jpegxl(ORIGINAL), ORIGINAL, 0)
    check(jpegxl(ORIGINAL, usecontainer=True), ORIGINAL, 0)
    check(jpegxl(GREY), GREY, 0)
    check(jpegxl(np.dstack([ORIGINAL, ALPHA])), over_white(ORIGINAL))
    assert np.abs(pixels(jpegxl(ORIGINAL, lossless=False, distance=1.0)) - ORIGINAL).mean() < 4


@pytest.mark.parametrize(
    ("width", "height"),
    [(32, 32), (40, 32), (96, 72), (160, 120), (160, 128), (64, 32), (161, 120), (120, 1000), (9000, 32), (64, 257)],
)
def test_header_of_a_jpegxl_tells_its_size(width: int, height: int):
    content = jpegxl(np.zeros((height, width, 3), np.uint8), effort=1)
    result = decode(content, limits=Limits(max_pixels=1))
    assert (result.status, result.width, result.height) == (Status.TOO_LARGE, width, height)


def test_jpegxl_of_other_colours_is_refused():
    # imagecodecs marks samples of 16 bits as linear.
    assert error(jpegxl(deep(ORIGINAL))).startswith("not supported: a JPEG XL with another colour profile")


# --- Names and damage -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(100), "a camera's raw file (Canon CR2)"),
        (box(b"ftyp", b"crx \0\0\0\1crx isom") + bytes(100), "a camera's raw file (Canon CR3)"),
        (b"FUJIFILMCCD-RAW 0201" + bytes(100), "a camera's raw file (Fujifilm RAF)"),
        (b"IIU\0\x18\0\0\0" + bytes(100), "a camera's raw file (Panasonic RW2)"),
        (b"IIRO\x08\0\0\0" + bytes(100), "a camera's raw file (Olympus ORF)"),
        (
            tiff(ORIGINAL, photometric="rgb", subfiletype=1, extratags=[(271, "s", 0, "NIKON CORPORATION", True)]),
            "NEF)",
        ),
        (tiff(ORIGINAL, photometric="rgb", subfiletype=1, extratags=[(271, "s", 0, "SONY", True)]), "(Sony ARW)"),
        (tiff(ORIGINAL, photometric="rgb", extratags=[(50706, "B", 4, (1, 4, 0, 0), True)]), "(Adobe DNG)"),
        (b"v/1\x01\2\0\0\0" + bytes(100), "OpenEXR"),
        (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n", "Radiance HDR"),
    ],
    ids=range(10),
)
def test_what_is_not_supported_has_its_own_name(content: bytes, words: str):
    assert error(content).startswith("not supported: ")
    assert error(content).endswith(words)


@pytest.mark.parametrize("name", ["webp", "avif", "heic", "jpeg2000", "tiff", "gif"])
def test_what_is_cut_is_called_so(name: str):
    content = getattr(odd, name)()
    for share in (0.6, 0.8, 0.95):
        assert error(content[: int(len(content) * share)]).startswith("cut short: the ")


def test_no_message_is_a_decoder_s():
    for file in odd.odd_files():
        if file.status == Status.UNREADABLE:
            result = decode(file.content)
            for jargon in ("decoder", "error -", "_", "PngImagePlugin", "stream", "NoneType"):
                assert jargon not in result.error, file.name


def test_damage_of_the_kinds_that_others_decode_never_raises():
    rng = np.random.default_rng(0)
    sources = [
        tiff(planes(deep(ORIGINAL[:60])), photometric="rgb", planarconfig="separate", compression="lzw"),
        tiff(ORIGINAL[:60] / np.float32(255), photometric="rgb", tile=(16, 16), compression="zlib", predictor=True),
        bitfields((0xF00, 0xF0, 0xF), 16)[0],
        jpegxl(ORIGINAL),
        with_properties(odd.avif(), [clap(100, 60, 20, -10)]),
        with_definitions(picture(), [(0, 0, 3), (1, 0, 2), (2, 0, 1)]),
    ]
    for content in sources:
        for _ in range(25):
            damaged = bytearray(content)
            for at in rng.integers(0, min(len(content), rng.choice([300, 10**6])), rng.integers(1, 6)):
                damaged[at] = rng.integers(256)
            result = decode(bytes(damaged), limits=Limits(max_pixels=4_000_000))
            assert isinstance(result, Photo) or (result.error and "\n" not in result.error)


def test_libraries_for_rare_kinds_are_not_imported_for_others():
    script = """
import io, sys
from PIL import Image
from grepr_core.decoding.images import decode
for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP"):
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, kind)
    assert decode(buffer.getvalue()).rgb[0, 0, 0] > 200
print([name for name in ("tifffile", "imagecodecs") if name in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True).stdout == "[]\n"
