import io

import numpy as np
import pytest
from PIL import Image

from grepr_core.decoding.images import Failure, Limits, Photo, Status, decode, photo_from_image
from grepr_core.decoding.pixels import image_from_array
from grepr_core.decoding.view import AtMost
from tests.made_photos import jpeg
from tests.odd_files import OddFile, encode, odd_files, oriented, picture

# pytest lifts the filter against Pillow's warnings.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")
RGB = np.asarray(picture())
#: What Pillow refuses and decode() does not: a JPEG without its end, and what it does not know for an image.
NOT_BY_PILLOW = {"cut_before_end_marker.jpg", "float_rgb.tif", "exif_resolution.jpg", "jfif_empty.jpg"}
NOT_BY_PILLOW |= {"profile_bomb.png", "text_bomb.png"}


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


@pytest.mark.parametrize("file", odd_files(), ids=lambda file: file.name)
def test_an_image_that_pillow_opened_is_what_its_file_is(file: OddFile):
    expected = decode(file.content)
    if file.name in NOT_BY_PILLOW or isinstance(expected, Failure):
        return
    found = photo_from_image(opened(file.content))
    assert isinstance(found, Photo), found
    assert (found.width, found.height) == (expected.width, expected.height)
    assert np.abs(found.rgb.astype(int) - expected.rgb).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_large_images_are_scaled_down_as_their_files_are(kind: str):
    content = encode(picture(2400, 1800), kind, **({"lossless": True} if kind == "WEBP" else {}))
    expected = decode(content, view=AtMost(320 * 240))
    assert isinstance(expected, Photo)
    for image in (opened(content), picture(2400, 1800), image_from_array(np.asarray(picture(2400, 1800)))):
        found = photo_from_image(image, view=AtMost(320 * 240))
        assert isinstance(found, Photo)
        np.testing.assert_array_equal(found.rgb, expected.rgb)
        assert (found.width, found.height) == (2400, 1800)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_turns_an_image_and_xmp_does_not(kind: str):
    content = oriented(6, kind)
    image = opened(content)
    found, expected = photo_from_image(image), decode(content)
    assert isinstance(found, Photo)
    assert isinstance(expected, Photo)
    assert image.size == (120, 160)
    assert found.rgb.shape == RGB.shape
    np.testing.assert_array_equal(found.rgb, expected.rgb)
    image = picture()
    image.info["xmp"] = b'<x tiff:Orientation="6"/>'
    again = photo_from_image(image)
    assert isinstance(again, Photo)
    np.testing.assert_array_equal(again.rgb, RGB)
    assert "xmp" in image.info


def test_an_image_stays_as_it_is():
    image = picture().convert("P")
    image.info["transparency"] = 0
    before = (image.mode, image.size, dict(image.info), image.tobytes())
    assert isinstance(photo_from_image(image, view=AtMost(60 * 45)), Photo)
    assert (image.mode, image.size, dict(image.info), image.tobytes()) == before


def test_images_are_refused_as_their_files_are():
    small = photo_from_image(picture(20, 40))
    assert small == decode(encode(picture(20, 40), "PNG"))
    large = photo_from_image(picture(), limits=Limits(max_pixels=1000))
    assert large == decode(encode(picture(), "PNG"), limits=Limits(max_pixels=1000))
    cut = photo_from_image(opened(jpeg(picture())[:-300]))
    assert isinstance(cut, Failure)
    assert (cut.status, cut.width, cut.height) == (Status.UNREADABLE, 160, 120)
    assert "truncated" in cut.error


def rgb(array: np.ndarray) -> np.ndarray:
    found = photo_from_image(image_from_array(array))
    assert isinstance(found, Photo)
    return found.rgb


def test_arrays_are_what_a_file_of_them_is():
    np.testing.assert_array_equal(rgb(RGB), RGB)
    np.testing.assert_array_equal(rgb(RGB.astype(np.uint16) * 257), RGB)
    for kind in (np.float16, np.float32, np.float64):
        np.testing.assert_array_equal(rgb((RGB / 255).astype(kind)), RGB)
    grey = np.asarray(picture().convert("L"))
    expected = np.repeat(grey[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(rgb(grey), expected)
    np.testing.assert_array_equal(rgb(grey[:, :, None]), expected)
    np.testing.assert_array_equal(rgb(grey > 128), np.where(expected > 128, 255, 0))
    alpha = np.tile(np.linspace(0, 255, 160).astype(np.uint8), (120, 1))
    rgba = np.dstack([RGB, alpha])
    by_file = decode(encode(Image.fromarray(rgba), "PNG"))
    assert isinstance(by_file, Photo)
    np.testing.assert_array_equal(rgb(rgba), by_file.rgb)
    np.testing.assert_array_equal(rgb(RGB[::-1, ::2]), RGB[::-1, ::2])  # which lies in memory in no order


@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)])
def test_an_image_shares_no_memory_with_its_array(channels: tuple[int, ...]):
    array = np.zeros((40, 50, *channels), np.uint8)
    image = image_from_array(array)
    array += 100
    assert not np.asarray(image).any()


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((3, 40, 50), np.uint8), "3 x 40 x 50 .* H x W x 3.*transpose\\(1, 2, 0\\)"),
        (np.zeros((40, 50, 2), np.uint8), "40 x 50 x 2 is no image"),
        (np.zeros(5, np.uint8), "array of 5 is no image"),
        (np.zeros((0, 50, 3), np.uint8), "it is empty"),
        (np.zeros((40, 50, 3), np.int64), "int64 are not taken: give uint8"),
        (np.full((40, 50, 3), 200.0), "from 200 to 200; divide"),
        (np.full((40, 50, 3), -0.5), "from -0.5 to -0.5"),
        (np.full((40, 50, 3), np.nan), "from nan to nan"),
    ],
)
def test_arrays_that_are_no_images_are_refused_in_words(array: np.ndarray, words: str):
    with pytest.raises(ValueError, match=words):
        image_from_array(array)
