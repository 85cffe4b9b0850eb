import functools
import io
import re

import numpy as np
import pytest
from PIL import Image, ImageOps

from grepr_core.decoding.images import MAX_SCANNED, Failure, Photo, Status, decode
from grepr_core.decoding.jpeg import MAX_SEGMENTS, SCALES, JpegError, decode_jpeg, read_jpeg, scale_for
from tests.odd_files import cmyk_jpeg, encode, jpeg_segment, picture, replace_once, ycck_jpeg

# pytest lifts the filter against Pillow's warnings.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

KINDS: dict[str, dict[str, object]] = {
    "4:2:0": {"subsampling": 2},
    "4:4:4": {"subsampling": 0},
    "own tables": {"optimize": True},
    "progressive": {"progressive": True},
    "progressive 4:4:4": {"progressive": True, "subsampling": 0},
    "restarts": {"restart_marker_rows": 1},
    "RGB": {"keep_rgb": True},
    "grey": {},
    "progressive grey": {"progressive": True},
}
END = b"\xff\xd9"


@functools.cache
def large() -> Image.Image:
    """320 x 240 with fine detail all over."""
    smooth = np.asarray(picture(320, 240)).astype(float)
    noise = np.random.default_rng(0).normal(0, 6, smooth.shape)
    return Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8))


@functools.cache
def jpeg(kind: str = "4:2:0") -> bytes:
    image = large().convert("L") if "grey" in kind else large()
    encoded = encode(image, "JPEG", quality=90, **KINDS[kind])
    assert encoded.endswith(END)
    return encoded


def pixels(encoded: bytes, eighths: int = 8) -> np.ndarray:
    return decode_jpeg(read_jpeg(encoded), eighths=eighths)


def by_pillow(encoded: bytes) -> np.ndarray:
    return np.atleast_3d(np.asarray(Image.open(io.BytesIO(encoded))))


def refusal(encoded: bytes) -> str:
    with pytest.raises(JpegError) as refused:
        pixels(encoded)
    return str(refused.value)


def scan(encoded: bytes) -> tuple[int, int]:
    """Gives where all scans begin and end."""
    return encoded.index(b"\xff\xda") + 14, len(encoded) - 2


def with_zeros(encoded: bytes, percent: int) -> bytes:
    """Overwrites a part in the middle."""
    begin, end = scan(encoded)
    count = (end - begin) * percent // 100
    at = (begin + end - count) // 2
    return encoded[:at] + bytes(count) + encoded[at + count :]


# --- Whole pictures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_pillow_s(kind: str):
    np.testing.assert_array_equal(pixels(jpeg(kind)), by_pillow(jpeg(kind)))


@pytest.mark.parametrize("encoded", [cmyk_jpeg(), ycck_jpeg()], ids=["CMYK", "YCCK"])
def test_inks_are_pillow_s(encoded: bytes):
    np.testing.assert_array_equal(pixels(encoded), by_pillow(encoded))


def test_first_of_several_pictures_counts():
    several = encode(large(), "MPO", save_all=True, append_images=[ImageOps.invert(large())])
    first = by_pillow(several)
    np.testing.assert_array_equal(pixels(several), first)
    second = several.index(b"\xff\xd8\xff", 3)
    np.testing.assert_array_equal(pixels(several[:second].removesuffix(END) + several[second:]), first)


@pytest.mark.parametrize("kind", KINDS)
def test_end_marker_may_be_missing_or_followed_by_anything(kind: str):
    whole = jpeg(kind)
    for rest in (b"", b"more", bytes(5000), b"\xff" * 9, END, END + b"more", END + bytes(5000), END + whole, whole):
        np.testing.assert_array_equal(pixels(whole[:-2] + rest), pixels(whole), err_msg=repr(rest[:8]))


def test_padding_before_the_end_marker_does_no_harm():
    for padding in (b"a", b"ab", bytes(2000), b"\xff" * 77, b"\x55" * 77):
        np.testing.assert_array_equal(pixels(jpeg()[:-2] + padding + END), pixels(jpeg()))


def test_flat_pictures_may_be_stored_as_zeros():
    flat = encode(Image.new("L", (640, 640), 128), "JPEG", optimize=True)
    assert bytes(64) in flat
    assert (pixels(flat) == 128).all()


# --- Damage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_cut_scans_are_told_whatever_follows(kind: str):
    begin, end = scan(jpeg(kind))
    for percent in (30, 60, 90, 97):
        cut = jpeg(kind)[: begin + (end - begin) * percent // 100]
        for rest in (b"", END):
            assert refusal(cut + rest) == "cut short: the JPEG file ends before its picture does", (percent, rest)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("percent", [5, 20])
def test_lost_parts_are_told(kind: str, percent: int):
    assert re.match("damaged JPEG file: |cut short: ", refusal(with_zeros(jpeg(kind), percent)))


def test_zeros_for_the_rest_are_told():
    begin, end = scan(jpeg())
    kept = jpeg()[: begin + (end - begin) * 4 // 5]
    for rest in (b"", END):
        zeros = bytes(len(jpeg()) - len(kept))
        assert refusal(kept + zeros + rest) == "damaged JPEG file: zeros in place of a part of its data"


def test_shifted_rest_is_told():
    begin, end = scan(jpeg())
    middle = (begin + end) // 2
    assert refusal(jpeg()[:middle] + jpeg()[middle + (end - begin) // 20 :])


def test_missing_scans_are_told():
    encoded = jpeg("progressive")
    last = encoded.rindex(b"\xff\xc4", 0, encoded.rindex(b"\xff\xda"))
    for rest in (b"", END):
        assert refusal(encoded[:last] + rest).startswith("cut short")


def test_headers_that_are_none_are_told():
    frame = jpeg().index(b"\xff\xc0")
    for encoded in (
        jpeg()[:frame],
        jpeg()[:frame] + END,
        jpeg()[: frame + 5],
        jpeg()[: frame + 5] + bytes(2) + jpeg()[frame + 7 :],
        jpeg()[: frame + 9] + b"\2" + jpeg()[frame + 10 :],
        jpeg()[:2],
    ):
        assert refusal(encoded).startswith("it begins like JPEG, but its header is damaged")


# --- Beside the picture ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "segment",
    [
        jpeg_segment(0xE0, b"JFIF\0"),
        jpeg_segment(0xE0, b"JFIF\0\7" + bytes(8)),
        jpeg_segment(0xE0, b""),
        b"\xff\xe1\0\0",
        b"\xff\xe1\0\1",
        jpeg_segment(0xE1, b"Exif\0\0"),
        jpeg_segment(0xE1, b"Exif\0\0MM\0*\xff\xff\xff\xff"),
        jpeg_segment(0xE1, b"Exif\0\0" + jpeg()),
        jpeg_segment(0xE2, b"ICC_PROFILE\0"),
        jpeg_segment(0xE2, b"ICC_PROFILE\0\2\1no profile"),
        jpeg_segment(0xEE, b"Adobe\0\x64\0\0\0\0\7"),
        jpeg_segment(0xEE, b"Adobe"),
        jpeg_segment(0xFE, b"\xff\xd9"),
        jpeg_segment(0xFE, b"\xff\xda"),
        b"\xff\xfe\0\2between segments",
        b"\xff\xff\xff",
    ],
    ids=lambda segment: ascii(segment[:16])[2:-1],
)
def test_damage_beside_the_picture_does_no_harm(segment: bytes):
    whole = jpeg()
    for encoded in (whole[:2] + segment + whole[20:], whole[:2] + segment + whole[2:]):
        photo = decode(encoded)
        assert isinstance(photo, Photo), photo
        np.testing.assert_array_equal(photo.rgb, pixels(whole))


def test_odd_numbers_in_a_sequential_scan_do_not_hide_damage():
    at = scan(jpeg())[0]
    odd = jpeg()[: at - 3] + bytes(3) + jpeg()[at:]
    np.testing.assert_array_equal(pixels(odd), pixels(jpeg()))
    assert refusal(odd[:-2000] + END).startswith("cut short")


def test_colours_stored_as_rgb_stay_so_without_a_name():
    # Components are then called R, G and B.
    encoded = jpeg("RGB")
    adobe = encoded.index(b"\xff\xee") if b"\xff\xee" in encoded else None
    unnamed = encoded if adobe is None else encoded[:adobe] + encoded[adobe + 16 :]
    np.testing.assert_array_equal(pixels(unnamed), by_pillow(unnamed))


def test_profiles_are_joined_in_order():
    profile = np.random.default_rng(0).bytes(200_000)
    encoded = encode(large(), "JPEG", icc_profile=profile)
    assert read_jpeg(encoded).profile == profile
    assert read_jpeg(replace_once(encoded, b"ICC_PROFILE\0\2", b"ICC_PROFILE\0\7")).profile is None
    assert read_jpeg(replace_once(encoded, b"ICC_PROFILE\0\1", b"ICC_PROFILE\0\7")).profile is None
    many = jpeg_segment(0xE2, b"ICC_PROFILE\0\1\1part") * 300
    assert read_jpeg(jpeg()[:2] + many + jpeg()[2:]).profile is None


def test_first_exif_counts():
    segments = [jpeg_segment(0xE1, b"Exif\0\0" + bytes([number]) * 60_000) for number in (1, 2, 3)]
    assert read_jpeg(jpeg()[:2] + b"".join(segments) + jpeg()[2:]).exif == b"\1" * 60_000


# --- Limits ---------------------------------------------------------------------------------------------------------


def test_scans_beyond_reason_are_refused():
    encoded = jpeg("progressive")
    last = encoded[encoded.rindex(b"\xff\xda") : -2]
    count = 1000
    frame = encoded.index(b"\xff\xc2")
    huge = encoded[: frame + 5] + b"\x1f\x40\x1f\x40" + encoded[frame + 9 :]
    scans = read_jpeg(huge).scans + count
    refused = decode(huge[:-2] + last[:10] * count + END)
    assert MAX_SCANNED == 1_000_000_000
    words = f"{scans:,} scans of 8,000 x 8,000 pixels, the limit is 1,000,000,000 in all"
    assert refused == Failure(Status.TOO_LARGE, words, 8000, 8000)


def test_segments_beyond_reason_are_refused():
    encoded = jpeg()[:2] + b"\xff\xfe\0\2" * MAX_SEGMENTS + jpeg()[2:]
    assert refusal(encoded) == "damaged JPEG file: more than 20,000 segments"


# --- Scale ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at_least", "eighths"),
    [((1, 1), 1), ((40, 30), 1), ((41, 30), 2), ((40, 31), 2), ((120, 90), 3), ((161, 1), 8), ((999, 999), 8)],
)
def test_smallest_scale_that_is_enough_is_chosen(at_least: tuple[int, int], eighths: int):
    assert scale_for(read_jpeg(jpeg()), at_least) == eighths


@pytest.mark.parametrize("kind", KINDS)
def test_reduced_pixels_come_close(kind: str):
    whole = pixels(jpeg(kind)).astype(float)
    for eighths in SCALES:
        reduced = pixels(jpeg(kind), eighths)
        height, width = 30 * eighths, 40 * eighths
        assert reduced.shape == (height, width, whole.shape[2])
        means = whole.reshape(30, 8, 40, 8, -1).mean(axis=(1, 3))
        ours = reduced.astype(float).reshape(30, eighths, 40, eighths, -1).mean(axis=(1, 3))
        assert np.abs(means - ours).mean() < 2.5


@pytest.mark.parametrize("eighths", [1, 2, 4])
def test_reduced_pixels_are_pillow_s(eighths: int):
    image = Image.open(io.BytesIO(jpeg()))
    image.draft(None, (40 * eighths, 30 * eighths))
    np.testing.assert_array_equal(pixels(jpeg(), eighths), np.asarray(image))


def test_no_more_is_given_than_the_picture_holds():
    encoded = encode(picture(157, 97), "JPEG")
    assert pixels(encoded, 3).shape == (36, 59, 3)
    assert pixels(encoded, 1).shape == (12, 20, 3)
