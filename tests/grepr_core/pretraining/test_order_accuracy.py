import numpy as np
import pytest
import torch
from torch import Tensor

from grepr_core.pretraining.distortions import distort
from grepr_core.pretraining.order_accuracy import count_ordered, order_accuracy
from grepr_core.pretraining.scenes import Scene
from tests.lake import photo

LEVELS = (1, 3, 5)


def scene(seed: int, *, reverse: bool = False) -> Scene:
    """A photograph ever more blurred; reversed, its levels are a lie."""
    original = np.asarray(photo(seed, (192, 160)))
    versions = [original, *(distort(original, "gaussian_blur", level, seed=seed) for level in LEVELS)]
    versions = versions[::-1] if reverse else versions
    return Scene(np.stack(versions), np.ones((4, 4), np.float32), ("", *["gaussian_blur"] * 3), (0, *LEVELS))


def contrast(patches: Tensor) -> Tensor:
    """Mean steps from pixel to pixel, (N, 2)."""
    return torch.stack([patches.diff(dim=axis).abs().mean(dim=(1, 2, 3)) for axis in (2, 3)], dim=1) * 100


def test_pairs_are_neighbouring_levels_of_a_kind_and_the_undistorted_one_is_level_zero():
    kinds = ("", "blur", "blur", "noise", "noise", "noise")
    levels = (0, 4, 1, 2, 3, 5)
    #   blur: 0.9 > 0.5 (level 1), 0.5 < 0.7 (level 4); noise: 0.9 = 0.9, 0.9 > 0.3, 0.3 > 0.1
    scores = (0.9, 0.7, 0.5, 0.9, 0.3, 0.1)
    assert count_ordered(scores, kinds, levels) == (3, 5)
    assert count_ordered((1.0,), ("",), (0,)) == (0, 0)


def test_an_encoder_that_sees_blur_orders_blur():
    assert order_accuracy(contrast, [scene(i) for i in range(6)]) > 0.9
    with_one_reversed = order_accuracy(contrast, [*(scene(i) for i in range(6)), scene(6, reverse=True)])
    assert 0.7 < with_one_reversed < 0.95


def test_an_encoder_that_sees_nothing_orders_nothing():
    assert order_accuracy(lambda patches: torch.zeros(len(patches), 2), [scene(i) for i in range(3)]) == 0


@pytest.mark.parametrize("scenes", [[], [scene(0)]])
def test_there_is_no_accuracy_without_other_scenes(scenes: list[Scene]):
    assert order_accuracy(contrast, scenes) is None
