import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from grepr_core.zero_shot.gaussian import (
    Gaussian,
    GaussianAccumulator,
    corrected_distance,
    mvg_distance,
    patch_statistics,
)
from grepr_core.zero_shot.patches import colourfulness, patch_batches, select_pristine_patches, sharpness
from grepr_core.zero_shot.scores import combined_score, high_level_score, low_level_distance, low_level_score

Array = NDArray[np.float64]


def gaussian(features: Array, batch: int = 10_000) -> Gaussian:
    accumulator = GaussianAccumulator()
    for start in range(0, len(features), batch):
        accumulator.update(features[start : start + batch])
    return accumulator.gaussian()


def waves(height: int, width: int, phase: float = 0.3) -> Tensor:
    y = torch.arange(height, dtype=torch.float64)[:, None]
    x = torch.arange(width, dtype=torch.float64)
    return torch.stack([0.5 + 0.5 * torch.sin(0.11 * x * (c + 1) + 0.07 * y + phase) for c in range(3)])


def places(height: int, width: int) -> Tensor:
    """An image whose pixels say where they are: row, column, zero."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns, torch.zeros_like(rows)])


def corners(image: Tensor, **options: int) -> list[tuple[int, int]]:
    return [tuple(p[:2, 0, 0].tolist()) for batch in patch_batches(image, **options) for p in batch]


def colour_moments(patches: Tensor) -> Tensor:
    """A stand-in for the encoder: mean and spread of each channel, (N, 6)."""
    return torch.cat([patches.mean(dim=(2, 3)), patches.std(dim=(2, 3))], dim=1)


# Patches


@pytest.mark.parametrize(("height", "width", "rows", "columns"), [(384, 512, 7, 9), (143, 144, 1, 2), (96, 96, 1, 1)])
def test_scored_patches_overlap_by_half(height, width, rows, columns):
    image = places(height, width)
    expected = [(48 * i, 48 * j) for i in range(rows) for j in range(columns)]
    assert corners(image) == corners(image, batch_size=5) == expected
    for patch, (y, x) in zip(torch.cat(list(patch_batches(image))), expected, strict=True):
        assert torch.equal(patch, image[:, y : y + 96, x : x + 96])


def test_patches_without_overlap_and_in_batches():
    assert corners(places(200, 300), stride=96) == [(i, j) for i in (0, 96) for j in (0, 96, 192)]
    assert [len(batch) for batch in patch_batches(places(384, 512), batch_size=25)] == [21, 21, 21]
    assert [len(batch) for batch in patch_batches(places(512, 512))] == [41, 40]


def test_image_shorter_than_a_patch_is_taken_whole_along_that_side():
    image = places(60, 200)
    batches = list(patch_batches(image))
    assert [tuple(b.shape) for b in batches] == [(3, 3, 60, 96)]
    assert torch.equal(batches[0][1], image[:, :, 48:144])
    assert [tuple(b.shape) for b in patch_batches(places(40, 33))] == [(1, 3, 40, 33)]


def test_published_values_of_patch_measures():
    patch = waves(96, 96)[None]
    assert sharpness(patch).item() == pytest.approx(572.3632836630202, rel=1e-6)
    assert colourfulness(patch).item() == pytest.approx(0.9380595366299058, rel=1e-9)


def test_patch_measures_see_sharpness_and_colour():
    patch = torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool2d(patch, 5, stride=1, padding=2, count_include_pad=False)
    grey = patch[:1].expand(3, -1, -1)
    sharp, soft = sharpness(torch.stack([patch, blurred])).tolist()
    assert sharp > 2 * soft
    assert colourfulness(torch.stack([grey, patch]))[0] == 0
    flat = torch.full((1, 3, 96, 96), 0.5, dtype=torch.float64)
    assert sharpness(flat).item() == pytest.approx(163.6, abs=0.05), "the surroundings count as black"


def test_pristine_patches_are_sharp_and_of_those_colourful():
    grain = 0.5 * torch.rand(1, 96, 96, generator=torch.Generator().manual_seed(0))

    def tinted(strength: float) -> Tensor:
        return grain + strength * torch.tensor([0.4, 0.2, 0.0])[:, None, None]

    smooth = torch.tensor([1.0, 0.0, 0.0])[:, None, None].expand(3, 96, 96)
    image = torch.cat([smooth, tinted(0), tinted(1), tinted(0.75), tinted(0.85)], dim=2)
    assert torch.equal(select_pristine_patches(image), torch.stack([tinted(1), tinted(0.85)]))


def test_pristine_patches_of_small_and_colourless_images():
    image = waves(96, 130).float()
    assert torch.equal(select_pristine_patches(image), image[None, :, :, :96])
    assert select_pristine_patches(waves(95, 300)).shape == (0, 3, 96, 96)
    assert len(select_pristine_patches(image[:1].expand(3, -1, -1))) == 0
    assert len(select_pristine_patches(torch.zeros(3, 200, 200))) == 0


# Statistics


@pytest.mark.parametrize("batch", [1, 7, 64, 500])
def test_statistics_do_not_depend_on_the_batches(batch):
    # A mean of 1e6 beside a spread of 1 would leave nothing of plain sums of squares.
    features = np.random.default_rng(0).normal(size=(500, 12)) @ np.diag(np.arange(1, 13)) + 1e6
    fitted = gaussian(features, batch)
    assert fitted.count == 500
    np.testing.assert_allclose(fitted.mean, features.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(fitted.covariance, np.cov(features.T), rtol=1e-6, atol=1e-6)


def test_statistics_of_one_vector_and_of_none():
    one = gaussian(np.array([[1.0, 2.0]]))
    assert one.mean.tolist() == [1, 2]
    assert one.covariance.tolist() == [[0, 0], [0, 0]]
    accumulator = GaussianAccumulator()
    accumulator.update(np.empty((0, 2)))
    with pytest.raises(ValueError, match="no features"):
        accumulator.gaussian()


def test_patch_statistics_are_those_of_all_patches_together():
    image = waves(300, 400).float()
    features = colour_moments(torch.cat(list(patch_batches(image)))).double().numpy()
    for batch_size in (1, 7, 64):
        fitted = patch_statistics(colour_moments, patch_batches(image, batch_size=batch_size))
        assert fitted.count == 5 * 7
        np.testing.assert_allclose(fitted.mean, features.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(fitted.covariance, np.cov(features.T), rtol=1e-5, atol=1e-9)


def test_patch_statistics_pass_over_photographs_without_patches():
    images = [waves(50, 50), waves(200, 200), waves(10, 300), waves(100, 100, phase=1)]
    expected = torch.cat([colour_moments(select_pristine_patches(image)) for image in (images[1], images[3])])
    fitted = patch_statistics(colour_moments, map(select_pristine_patches, images))
    assert fitted.count == len(expected)
    np.testing.assert_allclose(fitted.mean, expected.mean(dim=0), rtol=1e-12)


# Distances


def published_pair() -> tuple[Gaussian, Gaussian]:
    t = np.arange(300 * 8, dtype=float).reshape(300, 8)
    pristine = np.sin(0.001 * t**2) + 0.1 * np.cos(t)
    t = t[:50]
    return gaussian(np.cos(0.0007 * t**2) + 0.2), gaussian(pristine)


def test_published_distance():
    assert mvg_distance(*published_pair()) == pytest.approx(0.6603690819184846, rel=1e-9)


def test_distance_is_symmetric_zero_to_itself_and_scaled_by_the_regulariser():
    test, pristine = published_pair()
    assert mvg_distance(pristine, test) == pytest.approx(mvg_distance(test, pristine))
    assert mvg_distance(test, test) == 0
    far = np.linalg.norm(test.mean - pristine.mean)
    assert mvg_distance(test, pristine, regulariser=1e8) == pytest.approx(far / 1e4, rel=1e-6)


@pytest.mark.parametrize("distance", [mvg_distance, corrected_distance])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_fewer_patches_than_features_still_have_a_distance(distance, count):
    rng = np.random.default_rng(0)
    pristine = gaussian(rng.normal(size=(60, 8)))
    assert math.isfinite(distance(gaussian(rng.normal(size=(count, 8))), pristine))
    duplicates = gaussian(np.ones((count, 8)))
    assert math.isfinite(distance(duplicates, pristine))


@pytest.mark.parametrize("distance", [mvg_distance, corrected_distance])
def test_a_feature_that_is_no_number_shows(distance):
    test, pristine = published_pair()
    broken = Gaussian(test.mean + np.nan, test.covariance, test.count)
    assert math.isnan(distance(broken, pristine))


def test_corrected_distance_needs_a_pristine_covariance():
    one = gaussian(np.ones((1, 8)))
    with pytest.raises(ValueError, match="1 pristine patch"):
        corrected_distance(published_pair()[0], one)


def test_corrected_distance_compares_different_patches_only():
    """What is subtracted leaves the mean product of pairs of different test patches, whatever their covariance."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(5, 8)) * 3 + 1
    pristine = gaussian(rng.normal(size=(10**5, 8)))
    centred = features - pristine.mean
    products = centred @ np.linalg.solve(pristine.covariance + 1e-3 * np.eye(8), centred.T)
    expected = (products.sum() - products.trace()) / (5 * 4)
    distance = corrected_distance(gaussian(features), pristine)
    assert math.copysign(distance**2, distance) == pytest.approx(expected, abs=1e-3)


COUNTS = (2, 4, 9, 16, 35, 81, 150, 300)


@pytest.fixture(scope="module")
def distances() -> dict[float, dict[int, Array]]:
    """Raw and corrected distances (draws, 2) of 128-d Gaussian features, by true distance and number of patches.

    The pristine patches are 1,000 and have the same, far from round, covariance as the test patches.
    """
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(128, 128)) / 8
    pristine = gaussian(rng.normal(size=(1000, 128)) @ mixing)
    measured: dict[float, dict[int, Array]] = {}
    for shift in (0.0, 3.0, 10.0):
        measured[shift] = {}
        for count in COUNTS:
            draws = []
            for _ in range(250 if count < 16 else 50):
                features = rng.normal(size=(count, 128))
                features[:, 0] += shift
                test = gaussian(features @ mixing)
                draws.append((mvg_distance(test, pristine), corrected_distance(test, pristine)))
            measured[shift][count] = np.array(draws)
    return measured


def test_raw_distance_depends_on_the_number_of_patches(distances):
    mean = [distances[0.0][count][:, 0].mean() for count in COUNTS]
    assert mean == sorted(mean, reverse=True)
    assert mean[0] > 11
    assert mean[-1] < 1.1


def test_corrected_distance_of_pristine_quality_is_around_zero_for_any_number_of_patches(distances):
    """Ten per cent of nothing is nothing, so flat means: against the range that the raw distance runs through."""
    raw = [distances[0.0][count][:, 0].mean() for count in COUNTS]
    corrected = [distances[0.0][count][:, 1].mean() for count in COUNTS]
    assert np.ptp(corrected) < 0.04 * np.ptp(raw)
    assert np.abs(corrected).max() < 0.04 * np.ptp(raw)
    negative = [(distances[0.0][count][:, 1] < 0).mean() for count in COUNTS]
    assert min(negative) > 0.3, "chance goes both ways, nothing is clipped"


@pytest.mark.parametrize("shift", [3.0, 10.0])
def test_corrected_distance_of_worse_quality_is_flat(distances, shift):
    """The squares have no bias; taking the root bends the noise of 4 patches at a small distance down by a little."""
    many = distances[shift][300][:, 1].mean()
    assert many == pytest.approx(shift, rel=0.12), "the inverse of a sample covariance is a little too large"
    for count in COUNTS[1:]:
        corrected = distances[shift][count][:, 1]
        assert corrected.mean() == pytest.approx(many, rel=0.1)
    for count in COUNTS:
        corrected = distances[shift][count][:, 1]
        squares = np.sign(corrected) * corrected**2
        error = squares.std() / math.sqrt(len(squares))
        assert squares.mean() == pytest.approx(many**2, rel=0, abs=4 * error)


def test_single_patch_of_pristine_quality_is_around_zero():
    rng = np.random.default_rng(0)
    pristine = gaussian(rng.normal(size=(400, 32)))
    singles = [corrected_distance(gaussian(rng.normal(size=(1, 32))), pristine) for _ in range(500)]
    raw = [mvg_distance(gaussian(rng.normal(size=(1, 32))), pristine) for _ in range(50)]
    assert abs(np.mean(singles)) < 0.05 * np.mean(raw)


def test_distance_of_an_image_is_that_of_its_patches():
    pristine = patch_statistics(colour_moments, patch_batches(waves(400, 400)))
    image = 0.5 * waves(144, 192).float() + 0.1
    test = gaussian(colour_moments(torch.cat(list(patch_batches(image)))).double().numpy())
    assert low_level_distance(colour_moments, image, pristine) == pytest.approx(
        corrected_distance(test, pristine), rel=1e-4
    )
    assert low_level_distance(colour_moments, image, pristine, distance=mvg_distance) == pytest.approx(
        mvg_distance(test, pristine), rel=1e-4
    )


@pytest.mark.parametrize(("height", "width"), [(96, 96), (40, 300), (33, 33)])
def test_small_images_have_a_distance(height, width):
    pristine = patch_statistics(colour_moments, patch_batches(waves(400, 400)))
    assert math.isfinite(low_level_distance(colour_moments, waves(height, width), pristine))


# Scores


@pytest.mark.parametrize(
    ("distance", "score"),
    [
        (0.0, 0.5),
        (5.0, 0.48750260351578967),
        (12.5, 0.4687906266262437),
        (40.0, 0.401312339887548),
        (120.0, 0.23147521650098246),
    ],
)
def test_low_level_score(distance, score):
    assert low_level_score(distance) == pytest.approx(score, rel=1e-12)
    assert low_level_score(-distance) == pytest.approx(1 - score, rel=1e-12)


@pytest.mark.parametrize(
    ("good", "bad", "score"),
    [(0.22, 0.2, 0.5498339973124778), (0.18, 0.205, 0.43782349911420193), (0.2, 0.2, 0.5)],
)
def test_high_level_score(good, bad, score):
    assert high_level_score(good, bad) == pytest.approx(score, rel=1e-12)
    assert high_level_score(good, bad, slope=0.0) == 0.5


def test_scores_of_many_images_at_once():
    good, bad, distance = np.array([0.22, 0.18]), np.array([0.2, 0.205]), np.array([5.0, 1e6])
    np.testing.assert_allclose(high_level_score(good, bad), [0.5498339973124778, 0.43782349911420193])
    low = low_level_score(distance)
    np.testing.assert_allclose(low, [0.48750260351578967, 0])
    np.testing.assert_allclose(combined_score(low, high_level_score(good, bad)), [1.03733660082827, 0.4378234991142])
