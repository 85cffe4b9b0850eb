"""Which photos to rate, against the variance of a Gaussian process written out."""

import numpy as np
import pytest

from grepr_core.regression.active_learning import NOISE, WEIGHT_OF_QUALITY, choose

RNG = np.random.default_rng(0)


def covariance(features: np.ndarray, blocks: list[int], quality: np.ndarray | None) -> np.ndarray:
    z = (features - features.mean(axis=0)) / features.std(axis=0)
    parts = np.split(z, np.cumsum(blocks)[:-1], axis=1)
    k = sum(part @ part.T / part.shape[1] for part in parts) / len(blocks)
    if quality is not None:
        q = (quality - quality.mean()) / quality.std()
        k = k + WEIGHT_OF_QUALITY * q[:, None] * q[None, :]
    return k


def variance_left(k: np.ndarray, rated: list[int]) -> float:
    """Sum over all photos of the variance that ratings of some of them leave."""
    inner = k[np.ix_(rated, rated)] + NOISE * np.eye(len(rated))
    return float(np.trace(k - k[:, rated] @ np.linalg.solve(inner, k[rated])))


@pytest.mark.parametrize("with_quality", [False, True])
def test_each_choice_lowers_the_variance_most(with_quality: bool):
    features = RNG.normal(size=(40, 30)) * RNG.uniform(0.1, 10, 30)
    quality = RNG.normal(size=40) if with_quality else None
    k = covariance(features, [20, 10], quality)
    before = [7, 30]
    chosen = choose(features, 6, blocks=[20, 10], quality=quality, rated=before).tolist()
    for i, row in enumerate(chosen):
        rated = before + chosen[:i]
        others = [j for j in range(40) if j not in rated]
        best = min(others, key=lambda j: variance_left(k, [*rated, j]))
        assert row == best


def test_smaller_choices_are_the_beginning_of_larger_ones():
    features = RNG.normal(size=(50, 8)).astype(np.float16)
    large = choose(features, 50).tolist()
    assert sorted(large) == list(range(50))
    assert choose(features, 12).tolist() == large[:12]
    # What is rated already counts as if it had been chosen.
    assert choose(features, 5, rated=large[:12]).tolist() == large[12:17]


def test_what_is_not_accepted_is_passed_over_as_if_it_could_not_be_rated():
    features = RNG.normal(size=(30, 8))
    asked: list[int] = []

    def accept(row: int) -> bool:
        asked.append(row)
        return row % 3 != 0

    chosen = choose(features, 30, accept=accept).tolist()
    assert sorted(chosen) == [row for row in range(30) if row % 3]
    assert sorted(asked) == list(range(30))
    assert choose(features, 7, accept=lambda row: row % 3 != 0).tolist() == chosen[:7]
    # Those that are accepted are the best of what is left, whatever was passed over.
    others = np.flatnonzero(np.arange(30) % 3)
    k = covariance(features, [8], None)
    assert chosen[1] == min(set(others) - {chosen[0]}, key=lambda j: variance_left(k, [chosen[0], j]))


def test_one_of_each_kind_of_photo_is_chosen():
    centres = RNG.normal(size=(6, 40)) * 10
    kinds = RNG.permutation(np.repeat(np.arange(6), 20))
    features = centres[kinds] + RNG.normal(size=(120, 40)) * 0.1
    assert sorted(kinds[choose(features, 6)]) == list(range(6))


def test_predictions_spread_the_choice_from_the_worst_to_the_best():
    features, quality = RNG.normal(size=(400, 100)), RNG.normal(size=400)
    with_quality = quality[choose(features, 20, quality=quality)]
    assert with_quality.std() > 1.2 * quality.std() > 1.2 * 0.8 * quality[choose(features, 20)].std()
    assert with_quality.min() < np.quantile(quality, 0.1)
    assert with_quality.max() > np.quantile(quality, 0.9)


def test_features_or_predictions_that_are_all_equal_do_no_harm():
    features = np.ones((10, 3))
    assert len(set(choose(features, 10, quality=np.ones(10)).tolist())) == 10


def test_what_cannot_be_chosen_is_refused():
    features = RNG.normal(size=(10, 3))
    with pytest.raises(ValueError, match="9 photos cannot be chosen of 8"):
        choose(features, 9, rated=[1, 2])
    with pytest.raises(ValueError, match="do not fit"):
        choose(features, 2, quality=np.ones(9))
    features[3, 1] = np.nan
    with pytest.raises(ValueError, match="finite"):
        choose(features, 2)
