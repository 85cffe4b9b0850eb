"""Variance of mean opinion scores, and whether weighing by it predicts better."""

import numpy as np
import pytest
from scipy import stats

from grepr_core.regression.rating_noise import model_variance, variance_of_mean
from grepr_core.regression.regressor import fit_ridge


def test_without_numbers_of_ratings_the_deviation_is_that_of_the_mean():
    std = np.array([0.0, 0.5, 2.0])
    np.testing.assert_allclose(variance_of_mean(std), [0, 0.25, 4])
    np.testing.assert_allclose(variance_of_mean(std, np.ones(3)), [0, 0.25, 4])


def test_few_ratings_are_drawn_towards_the_variance_of_all():
    # Pooled: (1 * 4 + 9 * 1) / 10 = 1.3.
    variance = variance_of_mean(np.array([2.0, 1.0, 0.0]), np.array([2, 10, 1]))
    np.testing.assert_allclose(variance, [(4 + 4 * 1.3) / 5 / 2, (9 + 4 * 1.3) / 13 / 10, 1.3])


def test_drawing_together_comes_nearer_to_the_true_variance():
    rng = np.random.default_rng(0)
    count = rng.integers(2, 8, 500)
    true = rng.uniform(0.5, 1.5, 500)
    std = np.array([rng.normal(0, s, n).std(ddof=1) for s, n in zip(true, count, strict=True)])
    truth = true**2 / count
    drawn, plain = variance_of_mean(std, count), std**2 / count
    assert np.mean((drawn - truth) ** 2) < 0.5 * np.mean((plain - truth) ** 2)
    assert drawn.mean() == pytest.approx(truth.mean(), rel=0.1)


def noisy_ratings(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features, true quality, ratings, and their variances: half of them are exact, half mostly noise."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(600, 30))
    quality = features @ rng.normal(size=30) + rng.normal(size=600)  # the model's own error has variance 1
    deviation = np.where(rng.random(600) < 0.5, 0.3, 12.0)
    return features, quality, quality + deviation * rng.normal(size=600), deviation**2


def predict(features: np.ndarray, mos: np.ndarray, weights: np.ndarray | None = None):
    return fit_ridge(features, mos, weights).predict


def test_weighing_by_known_noise_predicts_better():
    gains = []
    for seed in range(10):
        features, quality, mos, variance = noisy_ratings(seed)
        train, test = slice(0, 150), slice(150, None)
        weights = 1 / (model_variance(features[train], mos[train], variance[train], fit=predict) + variance[train])
        weighed = predict(features[train], mos[train], weights)(features[test])
        plain = predict(features[train], mos[train])(features[test])
        gains.append(stats.spearmanr(weighed, quality[test])[0] - stats.spearmanr(plain, quality[test])[0])
    assert np.mean(gains) > 0.05
    assert min(gains) > 0


def test_model_variance_is_what_ratings_without_noise_would_leave():
    features, _, mos, variance = noisy_ratings(0)
    quiet = variance < 1
    # 300 ratings of 30 features: the true variance of 1, and a tenth more for what the fit gets wrong.
    found = model_variance(features[quiet], mos[quiet], variance[quiet], fit=predict)
    assert found == pytest.approx(1.1, abs=0.2)


def test_model_variance_stays_positive_where_the_noise_is_overstated():
    features, _, mos, variance = noisy_ratings(0)
    error = model_variance(features, mos, np.zeros(600), fit=predict)
    assert model_variance(features, mos, 100 * variance, fit=predict) == pytest.approx(0.1 * error)
