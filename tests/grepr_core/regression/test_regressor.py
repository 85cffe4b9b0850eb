import numpy as np
import pytest

from grepr_core.regression.intervals import fit_interval
from grepr_core.regression.regressor import RELATIVE_ALPHAS, VARIANCE_OF_START, Regressor, fit_ridge


def linear_data(n: int, d: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=d)
    x = rng.normal(size=(n, d)) * rng.uniform(0.1, 10, d) + rng.normal(size=d)
    return x, (x - x.mean(0)) / x.std(0) @ weights + 3 + noise * rng.normal(size=n), weights


def primal_ridge(x: np.ndarray, y: np.ndarray, alpha: float) -> np.ndarray:
    z = (x - x.mean(0)) / x.std(0)
    return np.linalg.solve(z.T @ z + alpha * np.eye(z.shape[1]), z.T @ (y - y.mean()))


def test_dual_solution_equals_the_primal_one():
    x, y, _ = linear_data(60, 20, noise=1.0)
    regressor = fit_ridge(x, y)
    np.testing.assert_allclose(regressor.coefficients, primal_ridge(x, y, regressor.alpha), rtol=1e-8)


def test_penalty_is_the_one_of_least_leave_one_out_error():
    x, y, _ = linear_data(40, 30, noise=3.0)
    z = (x - x.mean(0)) / x.std(0)
    mean_eigenvalue = np.linalg.eigvalsh(z @ z.T).mean()
    errors = []
    for alpha in RELATIVE_ALPHAS * mean_eigenvalue:
        left_out = []
        for i in range(len(y)):
            kept = np.arange(len(y)) != i
            # Leave-one-out with the intercept refitted and the standardisation kept.
            a = np.column_stack([np.ones(kept.sum()), z[kept]])
            penalty = alpha * np.diag([0.0] + [1.0] * z.shape[1])
            w = np.linalg.solve(a.T @ a + penalty, a.T @ y[kept])
            left_out.append(y[i] - w[0] - z[i] @ w[1:])
        errors.append(np.mean(np.square(left_out)))
    assert fit_ridge(x, y).alpha == pytest.approx(RELATIVE_ALPHAS[int(np.argmin(errors))] * mean_eigenvalue)


@pytest.mark.parametrize(("n", "d"), [(40, 60), (40, 15)])  # by way of either Gram matrix
def test_weighted_penalty_is_the_one_of_least_explicit_leave_one_out_error(n: int, d: int):
    x, y, _ = linear_data(n, d, noise=3.0)
    w = np.random.default_rng(1).uniform(0.1, 5, n)
    mean = w @ x / w.sum()
    z = (x - mean) / np.sqrt(w @ (x - mean) ** 2 / w.sum())
    root = np.sqrt(w * n / w.sum())
    mean_eigenvalue = np.linalg.eigvalsh((root[:, None] * z) @ (root[:, None] * z).T).mean()
    errors = []
    for alpha in RELATIVE_ALPHAS * mean_eigenvalue:
        left_out = [y[i] - weighted_ridge(z, y, root**2, alpha, np.arange(n) != i)(z[i]) for i in range(n)]
        errors.append(w @ np.square(left_out))
    best = RELATIVE_ALPHAS[int(np.argmin(errors))] * mean_eigenvalue
    regressor = fit_ridge(x, y, w)
    assert regressor.alpha == pytest.approx(best)
    predict = weighted_ridge(z, y, root**2, best, np.ones(n, bool))
    np.testing.assert_allclose(regressor.predict(x), [predict(row) for row in z], rtol=1e-8)


def weighted_ridge(z: np.ndarray, y: np.ndarray, w: np.ndarray, alpha: float, kept: np.ndarray):
    """Weighted least squares with an intercept, refitted, that is not penalised."""
    a = np.column_stack([np.ones(kept.sum()), z[kept]])
    penalty = alpha * np.diag([0.0] + [1.0] * z.shape[1])
    solution = np.linalg.solve(a.T @ (w[kept, None] * a) + penalty, a.T @ (w[kept] * y[kept]))
    return lambda row: solution[0] + row @ solution[1:]


def test_intervals_are_calibrated_on_weighted_left_out_residuals():
    x, y, _ = linear_data(40, 10, noise=3.0)
    w = np.random.default_rng(1).uniform(0.1, 5, 40)
    regressor = fit_ridge(x, y, w)
    z, w = (x - regressor.mean) / regressor.scale, w * 40 / w.sum()
    predicted = np.array([weighted_ridge(z, y, w, regressor.alpha, np.arange(40) != i)(z[i]) for i in range(40)])
    expected = fit_interval(predicted, y - predicted)
    np.testing.assert_allclose(regressor.interval.to_array(), expected.to_array(), rtol=1e-6)


def test_equal_weights_are_no_weights_and_only_ratios_matter():
    x, y, _ = linear_data(50, 20, noise=1.0)
    plain, equal = fit_ridge(x, y), fit_ridge(x, y, np.full(50, 7.0))
    np.testing.assert_allclose(equal.predict(x), plain.predict(x), rtol=1e-9)
    w = np.random.default_rng(0).uniform(1, 9, 50)
    np.testing.assert_allclose(fit_ridge(x, y, 1e-6 * w).predict(x), fit_ridge(x, y, w).predict(x), rtol=1e-9)


def test_a_weight_of_two_is_as_good_as_the_same_rating_twice():
    x, y, _ = linear_data(30, 8, noise=1.0)
    w = np.where(np.arange(30) < 10, 2.0, 1.0)
    twice = np.concatenate([np.arange(30), np.arange(10)])
    weighted = fit_ridge(x, y, w)
    z = (x[twice] - weighted.mean) / weighted.scale
    np.testing.assert_allclose(weighted.mean, x[twice].mean(0))
    np.testing.assert_allclose(weighted.scale, x[twice].std(0))
    assert weighted.intercept == pytest.approx(y[twice].mean())
    # Weights are scaled to mean 1, so the penalty that goes with whole ratings is 40/30 of it.
    solved = np.linalg.solve(z.T @ z + 40 / 30 * weighted.alpha * np.eye(8), z.T @ (y[twice] - y[twice].mean()))
    np.testing.assert_allclose(weighted.coefficients, solved, rtol=1e-8)


def test_learns_with_more_features_than_ratings():
    x, y, _ = linear_data(400, 300, noise=0.5)
    regressor = fit_ridge(x[:200], y[:200])
    assert np.corrcoef(regressor.predict(x[200:]), y[200:])[0, 1] > 0.6


def test_constant_features_do_no_harm():
    x, y, _ = linear_data(50, 10, noise=0.5)
    with_constants = np.column_stack([x, np.full(50, 7.0), np.full(50, 1e-30)])
    np.testing.assert_allclose(
        fit_ridge(with_constants, y).predict(with_constants), fit_ridge(x, y).predict(x), rtol=1e-6
    )


def test_blocks_weigh_alike_whatever_their_length():
    x, y, _ = linear_data(60, 5, noise=0.5)
    # A feature that stands in its block a hundred times counts as if it stood there once.
    repeated = np.hstack([x[:, :2], np.repeat(x[:, 2:], 100, axis=1)])
    np.testing.assert_allclose(
        fit_ridge(repeated, y, blocks=(2, 300)).predict(repeated), fit_ridge(x, y, blocks=(2, 3)).predict(x), rtol=1e-6
    )
    assert not np.allclose(fit_ridge(repeated, y).predict(repeated), fit_ridge(x, y).predict(x), rtol=1e-3)


def test_a_block_counts_by_its_variance():
    x, y, _ = linear_data(40, 5, noise=0.3)
    penalty = [1.0]
    thrice = fit_ridge(np.hstack([x, x[:, 4:], x[:, 4:]]), y, blocks=(4, 1, 1, 1), relative_alphas=penalty)
    once = fit_ridge(x, y, blocks=(4, 1), variances=(1, 3), relative_alphas=penalty)
    np.testing.assert_allclose(once.predict(x), thrice.predict(np.hstack([x, x[:, 4:], x[:, 4:]])), rtol=1e-9)
    assert not np.allclose(
        once.predict(x), fit_ridge(x, y, blocks=(4, 1), relative_alphas=penalty).predict(x), rtol=1e-3
    )


@pytest.mark.parametrize(("n", "d"), [(40, 60), (40, 8)])  # by way of either Gram matrix
@pytest.mark.parametrize("weighted", [False, True])
def test_a_started_fit_is_the_mean_of_three(n: int, d: int, weighted: bool):
    x, y, _ = linear_data(n, d, noise=2.0)
    start = fit_ridge(*linear_data(90, d, noise=0.3, seed=1)[:2])
    w = np.random.default_rng(2).uniform(0.1, 5, n) if weighted else np.ones(n)
    blocks = (3, d - 3)
    alone = fit_ridge(x, y, w, blocks=blocks)
    known = start.predict(x)
    mean = np.average(known, weights=w)
    spread = np.sqrt(np.average((known - mean) ** 2, weights=w) / VARIANCE_OF_START)
    z = np.column_stack([(x - alone.mean) / alone.scale, (known - mean) / spread])
    w = w * n / w.sum()

    def left_out(columns: np.ndarray, alpha: float) -> np.ndarray:
        rows = range(n)
        return np.array([weighted_ridge(columns, y, w, alpha, np.arange(n) != i)(columns[i]) for i in rows])

    def fitted(columns: np.ndarray, alpha: float) -> np.ndarray:
        return np.array([weighted_ridge(columns, y, w, alpha, np.ones(n, bool))(row) for row in columns])

    found = {}
    for alpha in RELATIVE_ALPHAS * np.mean(np.sum(z**2 * w[:, None], axis=1)):
        predicted = left_out(z, alpha)
        found[float(np.mean(w * (y - predicted) ** 2))] = alpha
    parts = [(z[:, :-1], alone.alpha), (z, found[min(found)]), (z[:, -1:], 0.0)]
    left = np.stack([left_out(*part) for part in parts])
    weights = np.mean(w * (y - left) ** 2, axis=1) ** -2.0
    regressor = fit_ridge(x, y, w, blocks=blocks, start=start)
    assert regressor.alpha == pytest.approx(alone.alpha)
    expected = np.average([fitted(*part) for part in parts], axis=0, weights=weights)
    np.testing.assert_allclose(regressor.predict(x), expected, rtol=1e-6)
    predicted = np.average(left, axis=0, weights=weights)
    interval = fit_interval(predicted, y - predicted).to_array()
    np.testing.assert_allclose(regressor.interval.to_array(), interval, rtol=1e-5)
    assert weights.min() / weights.sum() > 0.01  # all three are tried


@pytest.mark.parametrize("scale", [1.0, -20.0])  # of ratings the other way round, as of a distance, too
def test_a_start_helps_where_ratings_are_few(scale: float):
    rng = np.random.default_rng(0)
    x, taste = rng.normal(size=(1300, 200)), rng.normal(size=200)
    theirs = x @ taste + rng.normal(size=1300)
    mine = scale * (x @ (taste + 0.3 * rng.normal(size=200)) + 7)
    start = fit_ridge(x[:500], theirs[:500])
    test = slice(800, 1300)

    def agreement(regressor: Regressor) -> float:
        return float(np.corrcoef(regressor.predict(x[test]), mine[test])[0, 1])

    assert agreement(fit_ridge(x[500:530], mine[500:530], blocks=(200,))) < 0.6
    assert agreement(fit_ridge(x[500:530], mine[500:530], blocks=(200,), start=start)) > 0.85


def test_a_start_to_which_all_are_alike_changes_nothing():
    x, y, _ = linear_data(30, 8, noise=0.3)
    x[:, 3] = np.float32(0.1)  # whose mean is not exactly that
    for same in (np.zeros(8), np.eye(8)[3]):
        start = Regressor(np.zeros(8), np.ones(8), same, 3.0, 1.0)
        np.testing.assert_array_equal(fit_ridge(x, y, start=start).coefficients, fit_ridge(x, y).coefficients)
    with pytest.raises(ValueError, match="a regressor of 8 features does not fit 7 features"):
        fit_ridge(x[:, :7], y, start=start)


@pytest.mark.parametrize("n", [20, 50])  # without and with enough ratings for intervals
def test_numbers_round_trip(n: int):
    x, y, _ = linear_data(n, 10, noise=0.5)
    regressor = fit_ridge(x, y)
    again = Regressor.from_arrays(regressor.to_arrays())
    np.testing.assert_array_equal(again.predict(x), regressor.predict(x))
    assert (again.interval is None) == (regressor.interval is None) == (n < 30)


def test_intervals_hold_what_they_promise():
    x, y, _ = linear_data(3000, 30, noise=2.0)
    regressor = fit_ridge(x[:300], y[:300])
    lower, upper = regressor.interval.bounds(regressor.predict(x[300:]))
    assert np.mean((lower <= y[300:]) & (y[300:] <= upper)) == pytest.approx(0.9, abs=0.04)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.ones((2, 3)), np.arange(2.0), "too few"),
        (np.ones((5, 3)), np.arange(4.0), "do not fit"),
        (np.full((5, 3), np.nan), np.arange(5.0), "finite"),
        (np.ones((5, 3)), np.array([1, 2, np.inf, 3, 4]), "finite"),
        (np.ones((5, 3)), np.ones(5), "equal"),
    ],
)
def test_refuses_what_cannot_be_fitted(x: np.ndarray, y: np.ndarray, message: str):
    with pytest.raises(ValueError, match=message):
        fit_ridge(x, y)


def test_blocks_must_fit_the_features():
    with pytest.raises(ValueError, match="blocks of 4"):
        fit_ridge(np.ones((5, 3)), np.arange(5.0), blocks=(2, 2))


@pytest.mark.parametrize("weights", [np.zeros(5), np.array([1, 1, -1, 1, 1.0]), np.full(5, np.nan), np.ones(4)])
def test_weights_must_be_positive_numbers(weights: np.ndarray):
    with pytest.raises(ValueError, match=r"positive|finite|do not fit"):
        fit_ridge(np.eye(5), np.arange(5.0), weights)
