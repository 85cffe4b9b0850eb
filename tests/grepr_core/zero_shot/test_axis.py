"""The axis between good and bad photographs in the features of an encoder without prompts."""

import numpy as np
import pytest

from grepr_core.zero_shot.axis import QualityAxis, fit_axis

RNG = np.random.default_rng(0)
BLOCKS = (4, 2)


def features(count: int, shift: np.ndarray | float = 0.0) -> np.ndarray:
    return RNG.normal(size=(count, 6)) * [1, 2, 3, 4, 5, 60] + [0, 9, 0, 0, 5, 500] + shift


UNRATED = features(500)
GOOD, BAD = features(40, np.array([2.0, 0, 0, 0, 0, 0])), features(50, np.array([0, 0, 0, 0, 0, 30.0]))


def test_the_direction_is_that_of_the_groups_shrunk_by_the_covariance():
    axis = fit_axis(GOOD, BAD, UNRATED, blocks=BLOCKS, shrinkage=3.0)
    scale = UNRATED.std(axis=0) * np.sqrt([4, 4, 4, 4, 2, 2])
    covariance = np.cov((UNRATED / scale).T, bias=True)
    shrunk = covariance + 3.0 * np.trace(covariance) / 6 * np.eye(6)
    # Photographs as they come are a third of the bad ones.
    bad = (2 * BAD.mean(axis=0) + UNRATED.mean(axis=0)) / 3
    expected = np.linalg.inv(shrunk) @ ((GOOD.mean(axis=0) - bad) / scale) / scale
    np.testing.assert_allclose(axis.direction / axis.direction[0], expected / expected[0], rtol=1e-9)
    assert axis.position(UNRATED).std() == pytest.approx(1)
    assert axis.position(UNRATED).mean() == pytest.approx(0, abs=1e-9)
    assert axis.score(UNRATED.mean(axis=0)[None])[0] == pytest.approx(0.5)
    assert axis.score(GOOD).mean() > 0.5 > axis.score(BAD).mean()


def test_what_does_not_vary_among_photographs_has_no_part():
    def with_constant(rows: np.ndarray, value: float) -> np.ndarray:
        return np.hstack([rows, np.full((len(rows), 1), value)])

    axis = fit_axis(with_constant(GOOD, 9), with_constant(BAD, 1), with_constant(UNRATED, 5), blocks=(4, 3))
    assert axis.direction[-1] == 0
    assert np.isfinite(axis.direction).all()
    with pytest.raises(ValueError, match="do not differ"):
        fit_axis(GOOD, BAD, np.ones((5, 6)), blocks=BLOCKS)


def test_scores_vary_as_they_are_asked_to_and_keep_their_order():
    axis = fit_axis(GOOD, BAD, UNRATED, blocks=BLOCKS)
    narrow = axis.with_spread(0.01)
    assert narrow.score(UNRATED).std() == pytest.approx(0.01, rel=0.01)
    assert (narrow.score(UNRATED).argsort() == axis.score(UNRATED).argsort()).all()


def test_an_axis_comes_back_from_its_arrays():
    axis = fit_axis(GOOD, BAD, UNRATED, blocks=BLOCKS).with_spread(0.02)
    again = QualityAxis.from_arrays(axis.to_arrays())
    np.testing.assert_array_equal(again.score(UNRATED), axis.score(UNRATED))
