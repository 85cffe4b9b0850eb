import itertools
import math

import pytest

from grepr_core.decoding.view import FULL_SIZE, AtMost, Lattice, view_from_json, view_to_json

SHAPES = Lattice.of_area(512 * 512)


def test_the_lattice_of_the_shipped_bundle():
    assert len(SHAPES.shapes) == 25
    for width, height in SHAPES.shapes:
        assert width % 32 == height % 32 == 0
        assert (height, width) in SHAPES.shapes
        assert abs(width * height / 512**2 - 1) <= 0.06
    aspects = sorted(width / height for width, height in SHAPES.shapes)
    assert aspects[-1] == pytest.approx(3, abs=0.2)
    assert all(wider / narrower < 1.2 for narrower, wider in itertools.pairwise(aspects))


@pytest.mark.parametrize("pixels", [32 * 32, 224 * 224, 512 * 512, 1024 * 1024, 2048 * 2048])
def test_lattices_of_any_area_have_few_shapes(pixels: int):
    lattice = Lattice.of_area(pixels)
    assert 3 <= len(lattice.shapes) <= 25
    assert min(abs(width * height / pixels - 1) for width, height in lattice.shapes) < 0.01


@pytest.mark.parametrize(
    ("size", "seen"),
    [
        ((512, 512), (512, 512)),
        ((32, 32), (512, 512)),
        ((4000, 3000), (576, 448)),
        ((3000, 4000), (448, 576)),
        ((6000, 4000), (640, 416)),
        ((1920, 1080), (672, 384)),
        ((20_000, 40), (896, 288)),
    ],
)
def test_photos_are_seen_at_the_shape_nearest_in_aspect(size: tuple[int, int], seen: tuple[int, int]):
    assert SHAPES.size(*size) == seen


def test_small_changes_of_the_size_change_the_aspect_little():
    for width in range(200, 600):
        seen = SHAPES.size(width, 200)
        assert abs(math.log(seen[0] / seen[1] / (width / 200))) < 0.1


def test_views_survive_json():
    for view in (FULL_SIZE, AtMost(5_000), SHAPES):
        assert view_from_json(view_to_json(view)) == view
    with pytest.raises(KeyError):
        view_from_json({})
    with pytest.raises(ValueError, match="multiples of 32"):
        view_from_json({"shapes": ["100x64"]})
