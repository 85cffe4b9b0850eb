import numpy as np
import pytest
import skimage.data
import torch

from grepr_core.pretraining.distortions import DISTORTIONS, LEVELS, distort
from grepr_core.pretraining.similarity import fsim_matrix

#: Kinds whose pattern is drawn at random.
RANDOM = {
    *("motion_blur", "gaussian_noise", "impulse_noise", "speckle_noise", "colour_noise", "low_light", "colour_cast"),
}


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    return [
        skimage.data.astronaut()[100:356, 100:356],
        skimage.data.chelsea()[20:276, 80:336],
        skimage.data.coffee()[100:356, 150:406],
        skimage.data.rocket()[80:336, 200:456],
        skimage.data.stereo_motorcycle()[0][100:356, 200:456],
    ]


def test_there_are_kinds_enough():
    assert len(DISTORTIONS) >= 16
    assert LEVELS == (1, 2, 3, 4, 5)
    assert all(len(kind.strengths) == len(LEVELS) for kind in DISTORTIONS.values())


@pytest.mark.parametrize("name", DISTORTIONS)
def test_levels_lie_further_and_further_from_the_original(name: str, photographs: list[np.ndarray]):
    similarity = np.zeros(len(LEVELS) + 1)
    for seed, photograph in enumerate(photographs):
        versions = np.stack([photograph, *(distort(photograph, name, level, seed=seed) for level in LEVELS)])
        tensors = torch.from_numpy(versions).permute(0, 3, 1, 2).float() / 255
        similarity += fsim_matrix(tensors)[0].numpy() / len(photographs)
    assert (np.diff(similarity) < -0.002).all(), similarity
    assert similarity[-1] < 0.98


@pytest.mark.parametrize("name", DISTORTIONS)
def test_same_seed_same_pixels(name: str, photographs: list[np.ndarray]):
    one, again, other = (distort(photographs[0], name, 3, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any() == (name in RANDOM)


@pytest.mark.parametrize("name", ["gaussian_noise", "speckle_noise", "colour_noise"])
def test_all_levels_share_one_pattern(name: str, photographs: list[np.ndarray]):
    original = photographs[1].astype(float)
    mild, gross = (distort(photographs[1], name, level, seed=0) - original for level in (2, 4))
    assert np.corrcoef(mild.ravel(), gross.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("name", DISTORTIONS)
@pytest.mark.parametrize("size", [(33, 47), (20, 9)])
def test_any_size_and_grey_pictures(name: str, size: tuple[int, int]):
    ramp = np.linspace(0, 255, size[0] * size[1]).reshape(size).astype(np.uint8)
    original = np.repeat(ramp[..., None], 3, axis=2)
    for level in LEVELS:
        distorted = distort(original, name, level, seed=0)
        assert distorted.shape == original.shape
        assert distorted.dtype == np.uint8
    assert (original == np.repeat(ramp[..., None], 3, axis=2)).all()  # the original is left alone


def test_what_is_unknown_is_named():
    image = np.zeros((32, 32, 3), np.uint8)
    with pytest.raises(ValueError, match=r"unknown distortion 'rain'.*gaussian_blur"):
        distort(image, "rain", 1, seed=0)
    with pytest.raises(ValueError, match="unknown level 6"):
        distort(image, "jpeg", 6, seed=0)


def test_contrast_is_lost_about_the_mean_of_large_images_too():
    grey = np.full((3000, 2000, 3), 102, np.uint8)
    np.testing.assert_array_equal(distort(grey, "low_contrast", 5, seed=0), grey)
