"""The regressors that the authors name, beside their own formulas."""

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs scikit-learn, grepr[paper]")

from grepr_core.regression.published import PENALTIES, fit_published_ridge, fit_svr


def rated(n: int, noise: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    features = rng.normal(size=(n, 30)) * np.geomspace(0.01, 10, 30)
    return features.astype(np.float32), 3 + features @ rng.normal(size=30) / 30 + noise * rng.normal(size=n)


def ridge(x: np.ndarray, y: np.ndarray, alpha: float, others: np.ndarray) -> np.ndarray:
    """On features as they are: nothing is divided by its deviation."""
    x, others, mean = x.astype(np.float64), others.astype(np.float64), x.mean(axis=0, dtype=np.float64)
    weights = np.linalg.solve((x - mean).T @ (x - mean) + alpha * np.eye(x.shape[1]), (x - mean).T @ (y - y.mean()))
    return (others - mean) @ weights + y.mean()


def test_ridge_takes_the_penalty_that_is_best_at_ratings_left_out():
    x, y = rated(40)
    others, _ = rated(7)
    kept = [np.arange(40) != i for i in range(40)]
    errors = [np.mean([(ridge(x[k], y[k], a, x[~k]) - y[~k]) ** 2 for k in kept]) for a in PENALTIES]
    best = PENALTIES[int(np.argmin(errors))]
    assert best > PENALTIES[0]
    np.testing.assert_allclose(fit_published_ridge(x, y)(others), ridge(x, y, best, others), rtol=1e-6)


def test_svr_ranks_what_it_has_not_seen_whatever_the_scale_of_the_ratings():
    x, y = rated(120, noise=0.1)
    predicted = fit_svr(x[:80], y[:80])(x[80:])
    assert np.corrcoef(predicted, y[80:])[0, 1] > 0.6
    np.testing.assert_allclose(fit_svr(x[:80], 100 * y[:80] - 7)(x[80:]), 100 * predicted - 7, rtol=1e-6)


def test_fewer_ratings_than_folds_are_refused():
    with pytest.raises(ValueError, match="n_splits=5"):
        fit_svr(*rated(4))
