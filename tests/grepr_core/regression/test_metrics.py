import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from grepr_core.regression.metrics import (
    Spread,
    few_label_protocol,
    krocc,
    logistic_fit,
    plcc,
    plcc_logistic,
    rmse,
    srocc,
)

Array = NDArray[np.float64]


def rated(n: int, seed: int = 0) -> tuple[Array, Array]:
    """Features of which two matter, and ratings with some noise."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 5))
    return features, features[:, 0] - features[:, 1] + 0.5 * rng.normal(size=n)


class LeastSquares:
    """Fits a plane and remembers what on, and what was predicted."""

    def __init__(self) -> None:
        self.fitted: list[Array] = []
        self.tested: list[Array] = []

    def __call__(self, features: Array, mos: Array):
        self.fitted.append(features)
        weights = np.linalg.lstsq(features, mos, rcond=None)[0]

        def predict(others: Array) -> Array:
            self.tested.append(others)
            return others @ weights

        return predict


def rows(features: Array) -> set[tuple[float, ...]]:
    return set(map(tuple, features))


def test_correlations_of_a_small_table():
    predicted, mos = np.array([1.0, 2, 3, 4, 10]), np.array([1.0, 3, 2, 4, 5])
    assert srocc(predicted, mos) == pytest.approx(0.9)  # 1 - 6 * 2 / (5 * 24)
    assert krocc(predicted, mos) == pytest.approx(0.8)  # 9 pairs agree, 1 does not
    assert plcc(predicted, mos) == pytest.approx(np.corrcoef(predicted, mos)[0, 1])
    assert rmse(predicted, mos) == pytest.approx(np.sqrt(27 / 5))


def test_correlations_have_a_direction_and_ranks_share_ties():
    mos = np.array([1.0, 2, 3, 4])
    assert srocc(-mos, mos) == plcc(-mos, mos) == krocc(-mos, mos) == pytest.approx(-1)
    tied = np.array([1.0, 1, 2, 2])
    assert srocc(tied, mos) == pytest.approx(np.corrcoef([1.5, 1.5, 3.5, 3.5], mos)[0, 1])
    assert krocc(tied, mos) == pytest.approx(4 / np.sqrt(4 * 6))


def test_float32_is_taken():
    mos = np.arange(5, dtype=np.float32)
    assert plcc(2 * mos, mos) == pytest.approx(1)


@pytest.mark.parametrize("metric", [srocc, plcc, krocc, rmse, logistic_fit])
@pytest.mark.parametrize(
    ("predicted", "mos", "message"),
    [
        ([1.0, 2, 3], [1.0, 2], "must be as many"),
        ([1.0], [1.0], "at least 2"),
        ([[1.0, 2]], [[1.0, 2]], "must be as many"),
        ([1.0, np.nan], [1.0, 2], "finite"),
        ([1.0, 2], [np.inf, 2], "finite"),
    ],
)
def test_values_that_do_not_fit_are_refused(metric, predicted, mos, message):
    with pytest.raises(ValueError, match=message):
        metric(np.array(predicted), np.array(mos))


@pytest.mark.parametrize("metric", [srocc, plcc, krocc, logistic_fit])
def test_constants_have_no_correlation(metric):
    varying, constant = np.arange(4.0), np.ones(4)
    with pytest.raises(ValueError, match="all predictions are equal"):
        metric(constant, varying)
    with pytest.raises(ValueError, match="all ratings are equal"):
        metric(varying, constant)


@pytest.mark.parametrize("direction", [1, -1])
def test_logistic_relation_is_found(direction):
    rng = np.random.default_rng(0)
    quality = rng.normal(size=300)
    mos = 1 + 4 / (1 + np.exp(-3 * direction * (quality - 0.3)))
    predicted = 1000 * quality + 5
    fitted = logistic_fit(predicted, mos)
    assert rmse(fitted, mos) < 1e-4
    assert abs(plcc(predicted, mos)) < 0.97 < plcc(fitted, mos) == plcc_logistic(predicted, mos)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n", [2, 3, 4, 5, 50])
def test_straight_relation_stays_straight(n):
    predicted = np.random.default_rng(1).uniform(0, 1, n)
    mos = 40 * predicted + 10
    np.testing.assert_allclose(logistic_fit(predicted, mos), mos, atol=1e-3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seed", range(20))
def test_curve_is_monotone_and_no_worse_than_a_line(seed):
    rng = np.random.default_rng(seed)
    predicted = rng.standard_t(2, size=30)
    mos = rng.normal(size=30) + rng.choice([0, 1]) * predicted**3
    fitted = logistic_fit(predicted, mos)
    steps = np.diff(fitted[np.argsort(predicted)])
    assert (steps >= 0).all() or (steps <= 0).all()
    line = np.polyval(np.polyfit(predicted, mos, 1), predicted)
    assert rmse(fitted, mos) <= rmse(line, mos) * (1 + 1e-9)


def test_spread_is_the_middle_half():
    assert Spread.of([5.0, 1, 3, 2, 4]) == Spread(median=3, low=2, high=4, n=5)


def test_protocol_draws_from_the_training_images_and_tests_on_the_others():
    features, mos = rated(60)
    train = np.arange(60) % 3 > 0
    fit = LeastSquares()
    results = few_label_protocol(features, mos, train, label_counts=(10, 30), splits=4, fit=fit)
    assert [(r.labels, r.splits, r.srocc.n) for r in results] == [(10, 4, 4), (30, 4, 4)]
    assert [len(x) for x in fit.fitted] == [10] * 4 + [30] * 4
    assert all(len(rows(x)) == len(x) and rows(x) <= rows(features[train]) for x in fit.fitted)
    assert all(np.array_equal(x, features[~train]) for x in fit.tested)
    assert len({x.tobytes() for x in fit.fitted[:4]}) == 4, "draws differ"


def test_protocol_hands_each_rating_its_weight():
    features, mos = rated(60)
    weights, seen = np.arange(1.0, 61), []

    def fit(x: Array, y: Array, w: Array) -> Callable[[Array], Array]:
        index = [int(np.flatnonzero(mos == rating)[0]) for rating in y]
        np.testing.assert_array_equal(w, weights[index])
        seen.append(len(x))
        return lambda z: z[:, 0]

    few_label_protocol(features, mos, weights=weights, label_counts=(10,), splits=3, fit=fit)
    assert seen == [10] * 3


def test_protocol_gives_the_metrics_of_its_draws():
    features, mos = rated(60)
    train = np.arange(60) < 40
    predictions = []

    def fit(x: Array, y: Array):
        weights = np.linalg.lstsq(x, y, rcond=None)[0]
        predictions.append(features[~train] @ weights)
        return lambda others: others @ weights

    (result,) = few_label_protocol(features, mos, train, label_counts=(12,), splits=5, fit=fit)
    measured = (result.srocc, result.plcc, result.plcc_logistic, result.krocc)
    for spread, metric in zip(measured, (srocc, plcc, plcc_logistic, krocc), strict=True):
        low, median, high = np.percentile([metric(p, mos[~train]) for p in predictions], [25, 50, 75])
        assert dataclasses.astuple(spread) == pytest.approx((median, low, high, 5))
    assert result.srocc_by_draw == tuple(srocc(p, mos[~train]) for p in predictions)
    assert result.srocc.low < result.srocc.median < result.srocc.high


def test_draws_do_not_depend_on_other_draws_or_numbers_of_labels():
    features, mos = rated(60)
    many, few = LeastSquares(), LeastSquares()
    both = few_label_protocol(features, mos, label_counts=(30, 10), splits=5, fit=many)
    alone = few_label_protocol(features, mos, label_counts=(10,), splits=5, fit=few)
    assert both[1] == alone[0]
    assert all(np.array_equal(x, y) for x, y in zip(many.fitted[5:], few.fitted, strict=True))
    few_label_protocol(features, mos, label_counts=(10,), splits=2, fit=few)
    assert all(np.array_equal(x, y) for x, y in zip(few.fitted[:2], few.fitted[5:], strict=True))
    assert all(rows(small) < rows(large) for large, small in zip(many.fitted[:5], many.fitted[5:], strict=True))
    assert few_label_protocol(features, mos, label_counts=(10,), splits=5, seed=1, fit=LeastSquares()) != alone


def test_without_a_split_each_draw_holds_out_another_fifth():
    features, mos = rated(53)
    fit = LeastSquares()
    few_label_protocol(features, mos, label_counts=(42,), splits=6, fit=fit)
    assert [len(x) for x in fit.tested] == [11] * 6
    for fitted, tested in zip(fit.fitted, fit.tested, strict=True):
        assert rows(fitted) | rows(tested) == rows(features)
        assert not rows(fitted) & rows(tested)
    assert len({x.tobytes() for x in fit.tested}) == 6


def test_all_labels_of_a_fixed_training_set_need_one_draw():
    features, mos = rated(50)
    (result,) = few_label_protocol(features, mos, np.arange(50) < 30, label_counts=(30,), fit=LeastSquares())
    assert result.splits == result.srocc.n == 1
    assert result.srocc.low == result.srocc.median == result.srocc.high


def test_what_the_protocol_cannot_do_is_refused():
    features, mos = rated(50)
    with pytest.raises(ValueError, match="60 labels asked for, but there are only 40"):
        few_label_protocol(features, mos, label_counts=(10, 60), fit=LeastSquares())
    with pytest.raises(ValueError, match="31 labels asked for, but there are only 30"):
        few_label_protocol(features, mos, np.arange(50) < 30, label_counts=(31,), fit=LeastSquares())
    with pytest.raises(ValueError, match="do not belong together"):
        few_label_protocol(features, mos[:-1], label_counts=(10,), fit=LeastSquares())
    for labels, splits in (((0, 10), 5), ((10,), 0)):
        with pytest.raises(ValueError, match="at least 1"):
            few_label_protocol(features, mos, label_counts=labels, splits=splits, fit=LeastSquares())
