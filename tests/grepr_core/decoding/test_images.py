import io
import math
import random
import struct
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageFile, PngImagePlugin

from grepr_core.decoding.images import Failure, Limits, Photo, Status, decode
from grepr_core.decoding.resize import resize, resize_with_pillow
from grepr_core.decoding.view import AtMost, Lattice
from tests import odd_files as odd
from tests.odd_files import OddFile, encode, odd_files, picture

# pytest lifts the filter against Pillow's warnings; test_nothing_is_printed sees to it.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

ORIGINAL = np.asarray(picture())
GREY = np.asarray(picture().convert("L"))


def photo(content: bytes, **options: object) -> Photo:
    result = decode(content, **options)
    assert isinstance(result, Photo), result
    return result


def failure(content: bytes, **options: object) -> Failure:
    result = decode(content, **options)
    assert isinstance(result, Failure)
    return result


def pixels(content: bytes, **options: object) -> np.ndarray:
    """As signed integers, to subtract without overflow."""
    return photo(content, **options).rgb.astype(int)


def content(name: str) -> bytes:
    return next(file.content for file in odd_files() if file.name == name)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.square(a.astype(float) - b.astype(float)).mean()
    return 10 * math.log10(255**2 / error) if error else math.inf


def grey_to_rgb(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[:, :, None], 3, axis=2)


def mutations(seed: int, count: int) -> Iterator[bytes]:
    """Valid files of every format with flipped, inserted, deleted and overwritten bytes, or cut short."""
    rng = random.Random(seed)
    sources = (odd.jpeg(), odd.png(), odd.webp(), odd.tiff(), odd.gif(), odd.avif(), odd.heic(), odd.jpeg2000())
    for index in range(count):
        mutated = bytearray(sources[index % len(sources)])
        for _ in range(rng.randint(1, 5)):
            # Half of the damage goes to the header, where it has the most varied effects.
            at = rng.randrange(min(len(mutated), rng.choice((500, 10**9))))
            match rng.randrange(4):
                case 0:
                    mutated[at] ^= 1 << rng.randrange(8)
                case 1:
                    mutated[at : at + 4] = rng.choice((b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"))
                case 2:
                    mutated[at:at] = rng.randbytes(rng.randint(1, 16))
                case 3:
                    del mutated[at : at + rng.randint(1, 16)]
        if rng.random() < 0.1:
            del mutated[rng.randrange(len(mutated)) :]
        yield bytes(mutated)


def check_is_a_value(result: Photo | Failure) -> None:
    if isinstance(result, Photo):
        assert result.rgb.dtype == np.uint8
        assert result.rgb.shape == (result.height, result.width, 3)
        assert result.rgb.flags.c_contiguous
        assert result.rgb.flags.writeable
    else:
        assert result.error
        assert "\n" not in result.error
        assert "0x" not in result.error
        assert "object at" not in result.error
        assert (result.width is None) == (result.height is None)


@pytest.mark.parametrize("file", odd_files(), ids=lambda file: ascii(file.name)[1:40])
def test_odd_file_becomes_what_it_should(file: OddFile):
    result = decode(file.content)
    check_is_a_value(result)
    assert (Status.SCORED if isinstance(result, Photo) else result.status) == file.status, file.why


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty.jpg", "the file is empty"),
        ("page.png", "not an image: a web page"),
        ("text.jpg", "not an image: text"),
        ("noise.jpg", "not an image of a supported format"),
        ("archive.jpg", "not an image: a ZIP archive"),
        ("twelve_bits.jpg", "it begins like JPEG, but"),
        ("cut_at_50_percent.jpg", "cut short: the JPEG file ends before its picture does"),
        ("cut_at_50_percent.png", "cut short: the PNG file ends before its picture does"),
        ("flipped_bit_in_pixels.png", "damaged PNG file: its picture cannot be decoded"),
        ("raw.dng", "not supported: a camera's raw file"),
        ("huge.png", "100,000 x 100,000 pixels, the limit is 250,000,000"),
        ("small.png", "31 x 31 pixels, the least is 32 a side"),
    ],
)
def test_reason_is_understandable(name: str, reason: str):
    assert failure(content(name)).error.startswith(reason)


def test_lossless_files_keep_every_pixel():
    for name in ("photo.png", "photo.tif", "lzw.tif", "photo.bmp", "top_down.bmp", "lossless.webp", "deep_rgb.png"):
        np.testing.assert_array_equal(photo(content(name)).rgb, ORIGINAL, err_msg=name)


def test_lossy_files_come_close():
    for name in ("photo.jpg", "photo.webp", "photo.avif", "photo.heic", "photo.jp2", "stereo.mpo", "lab.tif"):
        assert psnr(pixels(content(name)), ORIGINAL) > 28, name


def test_large_image_is_copied_without_seams():
    noise = np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)
    np.testing.assert_array_equal(photo(encode(Image.fromarray(noise), "PNG", compress_level=1)).rgb, noise)


# --- Limits ---------------------------------------------------------------------------------------------------------


def test_limits_are_inclusive():
    width, height = picture().size
    exact = Limits(max_bytes=len(odd.jpeg()), max_pixels=width * height, min_side=height)
    photo(odd.jpeg(), limits=exact)
    assert failure(odd.jpeg(), limits=Limits(max_bytes=len(odd.jpeg()) - 1)).status == Status.TOO_LARGE
    assert failure(odd.jpeg(), limits=Limits(max_pixels=width * height - 1)).status == Status.TOO_LARGE
    assert failure(odd.jpeg(), limits=Limits(min_side=height + 1)).status == Status.TOO_SMALL


def test_header_alone_decides_on_the_size(monkeypatch: pytest.MonkeyPatch):
    def load(_: object) -> None:
        pytest.fail("pixels were decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    for file in odd_files():
        if file.status in (Status.TOO_LARGE, Status.TOO_SMALL):
            assert failure(file.content).status == file.status


BOMBS = """
import io, resource, struct, psutil
from PIL import Image
from grepr_core.decoding.images import decode
from tests import odd_files as odd

buffer = io.BytesIO()
Image.new("P", (8, 8)).save(buffer, "GIF")
gif = bytearray(buffer.getvalue())
struct.pack_into("<HH", gif, 6, 25_000, 20_000)
bombs = [
    odd.png_of(25_000, 20_000, 8, 2, b""),
    odd.jpeg_of_size(25_000, 20_000),
    odd.tiff_with({256: 25_000, 257: 20_000}),
    bytes(gif),
]
decode(odd.png()), decode(odd.jpeg())
room = psutil.Process().memory_info().vms + 128 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (room, room))
# 225 million pixels are within the limit, and show that memory is short here indeed.
print(decode(odd.png_of(15_000, 15_000, 8, 2, b"")).error)
for bomb in bombs:
    assert len(bomb) < 100_000
    print(decode(bomb).error)
"""


def test_bombs_are_refused_where_there_is_no_memory_for_them():
    result = subprocess.run([sys.executable, "-c", BOMBS], capture_output=True, text=True, check=True)
    shown, *refused = result.stdout.splitlines()
    assert shown == "decoding it takes more memory than there is"
    assert refused == ["25,000 x 20,000 pixels, the limit is 250,000,000"] * 4


def test_limit_on_pixels_is_ours_and_not_the_library_s(monkeypatch: pytest.MonkeyPatch):
    def load(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    # 225 million pixels: more than Pillow allows, fewer than the limit.
    result = failure(odd.png_of(15_000, 15_000, 8, 2, b""))
    assert result == Failure(Status.TOO_LARGE, "decoding it takes more memory than there is", 15_000, 15_000)


def test_sides_beyond_32_bits_are_not_reported():
    assert failure(content("most.png")).width == 2**31 - 1
    assert failure(content("beyond.png")).width is None


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "WEBP", "HEIF"])
def test_refused_image_reports_its_upright_size(kind: str):
    result = failure(odd.oriented(6, kind), limits=Limits(max_pixels=100))
    assert (result.width, result.height) == picture().size


# --- Orientation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", odd.STORED)
def test_orientation_is_undone(orientation: int):
    np.testing.assert_array_equal(pixels(odd.oriented(orientation, "PNG")), ORIGINAL)
    np.testing.assert_array_equal(pixels(odd.oriented(orientation, "TIFF")), ORIGINAL)
    for kind in ("JPEG", "WEBP", "AVIF", "HEIF"):
        # Turned blocks are quantised a little differently.
        assert psnr(pixels(odd.oriented(orientation, kind)), pixels(odd.oriented(1, kind))) > 30, kind


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_in_xmp_does_not_count(kind: str):
    xmp = b'<rdf:Description tiff:Orientation="6"/>'
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", xmp.decode())
    options = {
        "JPEG": {"xmp": xmp, "quality": 100, "subsampling": 0},
        "PNG": {"pnginfo": text},
        "WEBP": {"xmp": xmp, "lossless": True},
        "TIFF": {"tiffinfo": {700: xmp}},
    }[kind]
    turned = photo(encode(picture(), kind, **options))
    assert np.abs(turned.rgb.astype(int) - ORIGINAL).max() <= (12 if kind == "JPEG" else 0)
    assert (turned.width, turned.height) == picture().size


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientation_stored_as_a_byte_counts(kind: str):
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\1" + struct.pack(">HHIBxxxI", 0x0112, 1, 1, 6, 0)
    stored = encode(picture().transpose(odd.STORED[6]), kind, exif=exif, quality=100)
    assert psnr(pixels(stored), ORIGINAL) > 35


def test_malformed_exif_leaves_the_picture_as_it_is():
    plain = photo(odd.jpeg()).rgb
    for kind in ("noise", "cut", "empty", "count", "orientation_99", "resolution"):
        np.testing.assert_array_equal(photo(content(f"exif_{kind}.jpg")).rgb, plain, err_msg=kind)


# --- Transparency ---------------------------------------------------------------------------------------------------


def over_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[:, :, None] / 255
    return colours * share + 255 * (1 - share)


def test_alpha_is_composited_over_white():
    alpha = np.asarray(odd.alpha_gradient()).astype(float)
    for name in ("rgba.png", "rgba.tif"):
        assert np.abs(pixels(content(name)) - over_white(ORIGINAL, alpha)).max() <= 1, name
    grey = over_white(grey_to_rgb(GREY), alpha)
    assert np.abs(pixels(content("grey_alpha.png")) - grey).max() <= 1


def test_transparent_palette_is_composited_over_white():
    palette = picture().quantize(64)
    indices, colours = np.asarray(palette), np.asarray(palette.convert("RGB"))
    one = np.where(indices == 3, 0, 255)
    assert np.abs(pixels(content("palette_transparent.png")) - over_white(colours, one)).max() <= 1
    assert np.abs(pixels(content("palette_translucent.png")) - over_white(colours, indices * 4.0)).max() <= 1


def test_transparent_colour_becomes_white():
    key = ORIGINAL[60, 80]
    keyed = odd.png_with(odd.png_chunk(b"tRNS", bytes(byte for value in key for byte in (0, value))))
    is_key = (key == ORIGINAL).all(axis=2, keepdims=True)
    np.testing.assert_array_equal(pixels(keyed), np.where(is_key, 255, ORIGINAL))


# --- Depth ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["deep_grey.png", "deep_grey.tif", "deep.jp2", "integers.tif", "floats.tif"])
def test_deep_grey_spans_the_whole_range(name: str):
    tolerance = 1 if name.endswith("jp2") else 0
    assert np.abs(pixels(content(name)) - grey_to_rgb(GREY)).max() <= tolerance


def test_sixteen_bits_are_rounded():
    values = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    expected = grey_to_rgb(np.rint(values / 257))
    np.testing.assert_array_equal(pixels(odd.deep_png(values)), expected)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, byteorder=">", photometric="minisblack")
    np.testing.assert_array_equal(pixels(buffer.getvalue()), expected)


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0, 1e6])
def test_floating_point_is_scaled_by_the_range_that_holds_it(white: float):
    values = np.linspace(0, white, 64 * 64, dtype=np.float32).reshape(64, 64)
    expected = grey_to_rgb(np.linspace(0, 255, 64 * 64).reshape(64, 64))
    assert np.abs(pixels(encode(Image.fromarray(values), "TIFF")) - expected).max() <= 0.51


def test_negative_and_missing_values_are_black():
    values = np.full((64, 64), 0.5, np.float32)
    values[0, :3] = np.nan, -np.inf, -7
    rgb = pixels(encode(Image.fromarray(values), "TIFF"))
    assert rgb[0, :3].max() == 0
    assert (rgb[1:] == 128).all()


def test_all_zero_floats_are_black():
    assert photo(encode(Image.fromarray(np.zeros((64, 64), np.float32)), "TIFF")).rgb.max() == 0


# --- Colour ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cmyk.jpg", "cmyk_unmarked.jpg", "ycck.jpg", "cmyk.tif"])
def test_cmyk_comes_close_to_its_source(name: str):
    assert psnr(pixels(content(name)), ORIGINAL) > 33


@pytest.mark.parametrize("name", ["adobe_rgb.png", "adobe_rgb.jpg"])
def test_wide_gamut_is_converted_to_srgb(name: str):
    unconverted = np.asarray(Image.open(io.BytesIO(content(name))).convert("RGB"))
    assert psnr(pixels(content(name)), ORIGINAL) > psnr(unconverted, ORIGINAL) + 6
    if name.endswith("png"):
        assert np.abs(pixels(content(name)) - ORIGINAL).max() <= 3


def test_profile_survives_transparency_and_palettes():
    profile = odd.adobe_rgb_profile()
    rgba = odd.adobe_rgb_picture().convert("RGBA")
    assert np.abs(pixels(encode(rgba, "PNG", icc_profile=profile)) - ORIGINAL).max() <= 3
    palette = odd.adobe_rgb_picture().quantize(256)
    colours = palette.convert("RGB")
    np.testing.assert_array_equal(
        pixels(encode(palette, "PNG", icc_profile=profile)), pixels(encode(colours, "PNG", icc_profile=profile))
    )


def test_grey_profile_is_applied():
    light = (GREY / 255) ** odd.GREY_GAMMA
    srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(pixels(content("grey_profile.png")) - grey_to_rgb(255 * srgb)).max() <= 2


def test_cmyk_profile_is_applied():
    rgb = pixels(content("cmyk_profile.jpg"))
    assert np.ptp(rgb, axis=2).max() <= 2, "grey inks print no colours"
    assert np.corrcoef(rgb[:, :, 0].ravel(), GREY.ravel())[0, 1] > 0.9


def test_profiles_that_change_nothing_cost_no_pixel():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (srgb, b"broken", odd.grey_profile(), odd.grey_inks_profile()):
        np.testing.assert_array_equal(pixels(encode(picture(), "PNG", icc_profile=profile)), ORIGINAL)


# --- Frames ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["animated.gif", "animated.webp", "animated.png", "animated.avif", "pages.tif"])
def test_first_frame_counts(name: str):
    rgb = pixels(content(name))
    assert psnr(rgb, ORIGINAL) > 25
    assert psnr(rgb, 255 - ORIGINAL) < 10


# --- Scaling --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large() -> Image.Image:
    """1000 x 700 pixels with detail down to single pixels."""
    rng = np.random.default_rng(0)
    smooth = np.asarray(picture(1000, 700)).astype(float)
    return Image.fromarray((smooth + rng.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "palette", "16 bits", "CMYK", "alpha", "WEBP"])
@pytest.mark.parametrize("fraction", [0.5, 0.1, 0.015, 0.004])
def test_scaling_is_close_to_that_of_the_full_image(large: Image.Image, kind: str, fraction: float):
    encoded = {
        "palette": lambda: encode(large.quantize(64), "PNG"),
        "16 bits": lambda: odd.deep_png(np.asarray(large.convert("L")).astype(np.uint16) * 257),
        "CMYK": lambda: encode(large.convert("CMYK"), "JPEG"),
        "alpha": lambda: encode(large.convert("RGBA"), "WEBP", quality=90),
    }.get(kind, lambda: encode(large, kind))()
    full = photo(encoded)
    scaled = photo(encoded, view=AtMost(int(fraction * 700_000)))
    assert (scaled.width, scaled.height) == (1000, 700)
    height, width, _ = scaled.rgb.shape
    assert fraction * 700_000 * 0.95 < width * height <= fraction * 700_000
    assert abs(width / 1000 - height / 700) <= 1 / 700
    bicubic = Image.fromarray(full.rgb).resize((width, height), Image.Resampling.BICUBIC)
    assert psnr(scaled.rgb, np.asarray(bicubic)) > 46


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("size", [(96, 96), (160, 120), (1000, 700), (3000, 2000)])
def test_a_lattice_scales_up_and_down(large: Image.Image, size: tuple[int, int], orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    source = large.resize(size, Image.Resampling.LANCZOS)
    stored = source.transpose(odd.STORED[orientation]) if orientation > 1 else source
    seen = photo(encode(stored, "JPEG", exif=exif, quality=95), view=Lattice.of_area(256 * 256))
    assert (seen.width, seen.height) == size
    shape = Lattice.of_area(256 * 256).size(*size)
    assert seen.rgb.shape == (shape[1], shape[0], 3)
    assert seen.rgb.flags.c_contiguous
    assert psnr(seen.rgb, np.asarray(source.resize(shape, Image.Resampling.BICUBIC))) > 32


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pillow_scales_alike(large: Image.Image, channels: int):
    pixels = np.dstack([np.asarray(large), np.asarray(large.convert("L"))])[..., :channels]
    ours, theirs = (scale(pixels, 300, 210).astype(int) for scale in (resize, resize_with_pillow))
    assert ours.shape == theirs.shape == (210, 300, channels)
    assert abs(ours - theirs).max() <= 1


def test_scaling_in_the_decoder_does_not_stretch():
    # At an eighth of the size 265 columns fill 33.125 blocks; what is decoded has 34.
    encoded = encode(picture(265, 201), "JPEG")
    scaled = photo(encoded, view=AtMost(200)).rgb
    bicubic = Image.fromarray(photo(encoded).rgb).resize(scaled.shape[1::-1], Image.Resampling.BICUBIC)
    assert psnr(scaled, np.asarray(bicubic)) > 36


def test_scaling_keeps_the_orientation(large: Image.Image):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = large.transpose(odd.STORED[6])
    turned = photo(encode(stored, "JPEG", exif=exif, quality=95), view=AtMost(7_000))
    upright = photo(encode(large, "JPEG", quality=95), view=AtMost(7_000))
    assert (turned.width, turned.height) == (1000, 700)
    assert turned.rgb.shape == upright.rgb.shape == (70, 100, 3)
    assert psnr(turned.rgb, upright.rgb) > 38


def test_scaling_applies_the_profile(large: Image.Image):
    plain = photo(encode(large, "PNG"), view=AtMost(7_000)).rgb
    converted = photo(encode(large, "PNG", icc_profile=odd.adobe_rgb_profile()), view=AtMost(7_000)).rgb
    assert psnr(plain, converted) < 40
    # Adobe RGB's red is redder than that of sRGB.
    red = plain[:, :, 0].astype(int) > plain[:, :, 2].astype(int) + 60
    assert converted[red][:, 0].mean() > plain[red][:, 0].mean()


def test_small_images_are_not_scaled():
    np.testing.assert_array_equal(photo(odd.jpeg(), view=AtMost(160 * 120)).rgb, photo(odd.jpeg()).rgb)


def test_budget_is_held_at_any_aspect():
    rng = random.Random(0)
    for _ in range(60):
        width, height = (round(2 ** rng.uniform(0, 11)) for _ in range(2))
        budget = rng.randint(1, 4 * width * height)
        encoded = encode(Image.new("L", (width, height)), rng.choice(("PNG", "JPEG")))
        rows, columns, _ = photo(encoded, limits=Limits(min_side=1), view=AtMost(budget)).rgb.shape
        assert 1 <= rows * columns <= min(budget, width * height)
        if budget >= width * height:
            assert (columns, rows) == (width, height)


# --- Robustness -----------------------------------------------------------------------------------------------------


def test_threads_give_the_same_results():
    def outcome(encoded: bytes) -> tuple[object, ...]:
        result = decode(encoded, view=AtMost(5_000))
        return (result.rgb.tobytes(),) if isinstance(result, Photo) else (result,)

    contents = [file.content for file in odd_files() if file.content != odd.jpeg()]
    one_by_one = [outcome(encoded) for encoded in contents]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(outcome, contents * 2)) == one_by_one * 2


def test_damage_never_raises():
    statuses = []
    for mutated in mutations(seed=0, count=400):
        result = decode(mutated)
        check_is_a_value(result)
        statuses.append(type(result))
    assert min(statuses.count(Photo), statuses.count(Failure)) > 50, "the damage should be neither slight nor total"


def test_nothing_is_printed():
    script = """
from grepr_core.decoding.images import decode
from tests.grepr_core.decoding.test_images import mutations
from tests.odd_files import odd_files
for content in [*(file.content for file in odd_files()), *mutations(seed=1, count=160)]:
    decode(content)
"""
    root = Path(__file__).parents[3]
    run = subprocess.run(
        [sys.executable, "-W", "default", "-c", script], cwd=root, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
