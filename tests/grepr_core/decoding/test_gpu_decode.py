"""All of it runs on the CPU too, with another decoder behind it."""

import io

import numpy as np
import pytest
import torch

from grepr_core.bundles.bundle import load_bundle
from grepr_core.decoding.gpu_decode import DeviceDecoder
from grepr_core.decoding.images import Limits, Photo, decode
from grepr_core.decoding.view import FULL_SIZE, AtMost, Lattice, View
from grepr_core.scoring.scorer import Scorer
from tests import odd_files
from tests.lake import jpeg, photo

CPU = torch.device("cpu")


def both(content: bytes, view: View = FULL_SIZE) -> tuple[np.ndarray, np.ndarray]:
    ours = DeviceDecoder(CPU, limits=Limits(), view=view).decode(content)
    pillow = decode(content, view=view)
    assert ours is not None
    assert isinstance(pillow, Photo)
    assert (ours.width, ours.height) == (pillow.width, pillow.height)
    assert ours.rgb.shape == pillow.rgb.shape
    return ours.rgb.numpy().astype(int), pillow.rgb.astype(int)


def grey_jpeg() -> bytes:
    buffer = io.BytesIO()
    photo(1).convert("L").save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_pillow_s_and_upright(orientation: int):
    ours, pillow = both(odd_files.oriented(orientation))
    assert np.abs(ours - pillow).max() <= 2


def test_grey_becomes_rgb():
    ours, pillow = both(grey_jpeg())
    assert np.abs(ours - pillow).max() <= 2


def test_scaled_pixels_come_close():
    ours, pillow = both(jpeg(photo(0, (440, 290)).resize((1760, 1160))), AtMost(100_000))
    assert np.abs(ours - pillow).mean() < 1.5
    ours, pillow = both(jpeg(photo(0, (160, 100))), Lattice.of_area(128 * 128))
    assert np.abs(ours - pillow).mean() < 1.5


@pytest.mark.parametrize(
    "content",
    [
        odd_files.png(),
        odd_files.cmyk_jpeg(),
        odd_files.jpeg()[:-200],
        b"",
        odd_files.jpeg_of_size(30_000, 30_000),
        jpeg(photo(0, (160, 31))),
    ],
    ids=["png", "cmyk", "truncated", "empty", "bomb", "small"],
)
def test_all_else_is_left_to_pillow(content: bytes):
    assert DeviceDecoder(CPU, limits=Limits(), view=FULL_SIZE).decode(content) is None


def test_profiles_that_change_colours_are_left_to_pillow():
    buffer = io.BytesIO()
    photo(0).save(buffer, "JPEG", icc_profile=odd_files.adobe_rgb_profile())
    assert DeviceDecoder(CPU, limits=Limits(), view=FULL_SIZE).decode(buffer.getvalue()) is None


def test_the_cpu_is_refused_as_the_decoding_gpu():
    with pytest.raises(ValueError, match="gpu-decode"):
        Scorer(load_bundle("grepr-lite"), device="cpu", gpu_decode=True)
