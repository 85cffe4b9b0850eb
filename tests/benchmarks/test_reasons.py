"""What reasons are learned from and tried on: faulty versions, graphics, the controlled series."""

import numpy as np
import pytest

from benchmarks import graphics
from benchmarks.faults import KINDS, PROBES, targets, version
from benchmarks.series import CHANGES
from grepr_core.reasons.probes import SEVERITIES
from tests.made_photos import photo


@pytest.mark.parametrize("kind", ["underexposure", "upscaling"])
def test_kinds_that_pretraining_has_not_grow_with_their_level(kind: str):
    pixels = np.asarray(photo(0, (96, 72)))
    made = [version(pixels, ((kind, level),), seed=0).astype(float) for level in range(1, 6)]
    assert all(one.shape == pixels.shape for one in made)
    far = [np.abs(one - pixels).mean() for one in made]
    assert far[0] > 0.5
    assert (np.diff(far) > 0).all()


def test_two_faults_teach_both_and_nothing_that_either_leaves_unclear():
    severity, known = targets((("jpeg", 5), ("low_light", 2)), seed=0)
    told = dict(zip(PROBES, severity.tolist(), strict=True))
    assert (told["compression"], told["underexposure"]) == (1, pytest.approx(0.4))
    assert sum(told.values()) == pytest.approx(1.4)
    unclear = {name for name, is_known in zip(PROBES, known, strict=True) if not is_known}
    assert unclear == {"low_contrast", "noise"}
    # What one fault raises, another one does not make unclear.
    assert targets((("low_light", 2), ("gaussian_noise", 3)), seed=0)[1][PROBES.index("noise")]


@pytest.mark.parametrize("seed", range(4))
def test_a_colour_cast_teaches_the_ways_it_goes(seed: int):
    red, green, blue = version(np.full((8, 8, 3), 100, np.uint8), (("colour_cast", 5),), seed=seed)[0, 0].astype(int)
    first = PROBES.index("color_cast")
    warm, magenta, cold, greenish = targets((("colour_cast", 5),), seed=seed)[0][first : first + 4]
    assert (warm > cold) == (red > blue)
    assert (magenta > greenish) == (green < 100)
    assert np.hypot(warm + cold, magenta + greenish) == pytest.approx(1)


def test_every_severity_has_kinds_to_learn_it_from():
    assert {kind.reason for kind in KINDS.values()} == {*SEVERITIES, None}


@pytest.mark.parametrize("kind", ["desktop", "plot", "scan", "static"])
def test_graphics_are_drawn_by_their_seed(kind: str):
    assert not graphics.LEARNED.keys() & graphics.HELD_OUT.keys()
    one, again, other = (graphics.draw(kind, seed) for seed in (1, 1, 2))
    assert one.dtype == np.uint8
    assert one.shape[2] == 3
    np.testing.assert_array_equal(one, again)
    assert one.shape != other.shape or not np.array_equal(one, other)


@pytest.mark.parametrize("change", CHANGES)
def test_every_step_of_the_controlled_series_changes_more(change: str):
    pixels = np.asarray(photo(1, (96, 72)), np.float32) / 255
    apply, degrees = CHANGES[change]
    changed = [np.abs(apply(pixels, degree).clip(0, 1) - pixels).mean() for degree in degrees]
    assert changed[0] > 0
    assert (np.diff(changed) > 0).all()
