import itertools

import numpy as np
import piq
import pytest
import torch

from grepr_core.pretraining.distortions import DISTORTIONS, LEVELS
from grepr_core.pretraining.scenes import SceneRecipe, make_scene
from tests.lake import photo


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.asarray(photo(1, (200, 150)))


def test_a_scene_is_a_photograph_and_its_versions(picture: np.ndarray):
    recipe = SceneRecipe(kinds=3, levels=2, side=128)
    scene = make_scene(picture, recipe, key=5)
    assert scene.versions.shape == (recipe.versions, 128, 128, 3)
    assert scene.versions.dtype == np.uint8
    windows = np.lib.stride_tricks.sliding_window_view(picture, (128, 128, 3)).reshape(-1, 128, 128, 3)
    assert (windows == scene.versions[0]).all(axis=(1, 2, 3)).any()
    assert (scene.kinds[0], scene.levels[0]) == ("", 0)
    for kind, versions in itertools.groupby(range(1, 7), key=lambda i: scene.kinds[i]):
        assert kind in DISTORTIONS
        first, second = versions
        assert scene.levels[first] < scene.levels[second]
        assert {scene.levels[first], scene.levels[second]} < set(LEVELS)
    assert len(set(scene.kinds)) == 4


def test_similarity_is_fsimc(picture: np.ndarray):
    scene = make_scene(picture, SceneRecipe(kinds=2, levels=1, side=128), key=0)
    pixels = torch.from_numpy(scene.versions).permute(0, 3, 1, 2).double() / 255
    for i, j in itertools.product(range(3), repeat=2):
        expected = piq.fsim(pixels[i : i + 1], pixels[j : j + 1], data_range=1.0).item()
        assert scene.similarity[i, j] == pytest.approx(expected, abs=1e-3)


def test_key_and_seed_decide_all(picture: np.ndarray):
    recipe = SceneRecipe(side=96)
    scene, again = make_scene(picture, recipe, key=1), make_scene(picture, recipe, key=1)
    np.testing.assert_array_equal(scene.versions, again.versions)
    np.testing.assert_array_equal(scene.similarity, again.similarity)
    for other in (make_scene(picture, recipe, key=2), make_scene(picture, SceneRecipe(side=96, seed=1), key=1)):
        assert not np.array_equal(scene.versions, other.versions)


def test_a_small_photograph_is_taken_whole(picture: np.ndarray):
    assert make_scene(picture, SceneRecipe(kinds=1, levels=1), key=0).versions.shape[1:3] == picture.shape[:2]


def test_a_side_of_0_leaves_large_photographs_whole():
    large = np.asarray(photo(2, (420, 400)))
    scene = make_scene(large, SceneRecipe(kinds=1, levels=1, side=0), key=0)
    np.testing.assert_array_equal(scene.versions[0], large)
