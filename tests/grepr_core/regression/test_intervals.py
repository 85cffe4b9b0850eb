import numpy as np
import pytest

from grepr_core.regression.intervals import IntervalModel, fit_interval


def predictions(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores in [0, 1] whose errors are twice as large in the middle as at the ends."""
    rng = np.random.default_rng(seed)
    predicted = rng.uniform(0, 1, n)
    return predicted, (0.1 - 0.2 * (predicted - 0.5) ** 2) * rng.standard_t(5, n)


@pytest.mark.parametrize("n", [50, 200, 800])
@pytest.mark.parametrize("level", [0.9, 0.8])
def test_so_many_new_ratings_lie_within(n: int, level: float):
    new, new_residuals = predictions(5000, seed=1000)
    held = []
    for seed in range(40):
        model = fit_interval(*predictions(n, seed), level=level)
        lower, upper = model.bounds(new)
        held.append(np.mean((lower <= new + new_residuals) & (new + new_residuals <= upper)))
    assert np.mean(held) == pytest.approx(level, abs=0.02)


def test_intervals_are_narrower_where_the_model_is_surer():
    model = fit_interval(*predictions(800, seed=0))
    lower, upper = model.bounds(np.array([0.0, 0.5, 1.0]))
    low_end, middle, high_end = upper - lower
    assert middle > 1.4 * low_end
    assert middle > 1.4 * high_end


def test_beyond_the_scores_seen_the_width_stays():
    model = fit_interval(*predictions(800, seed=0))
    lower, upper = model.bounds(np.array([-50.0, model.lowest, model.highest, 50.0]))
    widths = upper - lower
    assert widths[0] == pytest.approx(widths[1])
    assert widths[3] == pytest.approx(widths[2])
    assert (widths > 0).all()


def test_too_few_ratings_say_nothing():
    assert fit_interval(*predictions(29, seed=0)) is None
    assert fit_interval(np.arange(50.0), np.zeros(50)) is None


def test_numbers_round_trip():
    model = fit_interval(*predictions(100, seed=0))
    again = IntervalModel.from_array(model.to_array())
    scores = np.linspace(-1, 2, 20)
    np.testing.assert_array_equal(again.bounds(scores), model.bounds(scores))


def smaller(n: int, seed: int, lost: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores of copies that lost some quality, and the ratings of their originals minus these."""
    predicted, residuals = predictions(n, seed)
    return predicted - lost, 2 * residuals + lost


def test_intervals_of_enlarged_photos_hold_the_ratings_of_their_originals():
    new, new_residuals = smaller(5000, seed=1000, lost=0.05)
    held = []
    for seed in range(40):
        model = fit_interval(*predictions(400, seed))
        widened = model.widened({2.0: smaller(400, 100 + seed, 0.05), 4.0: smaller(400, 200 + seed, 0.1)})
        lower, upper = widened.bounds(new, 2.0)
        held.append(np.mean((lower <= new + new_residuals) & (new + new_residuals <= upper)))
        np.testing.assert_array_equal(widened.bounds(new), model.bounds(new))
    assert np.mean(held) == pytest.approx(0.9, abs=0.02)


def test_intervals_grow_with_the_enlargement():
    model = fit_interval(*predictions(400, seed=0))
    widened = model.widened({2.0: smaller(400, 1, 0.05), 4.0: smaller(400, 2, 0.1)})
    scores = np.full(5, 0.4)
    lower, upper = widened.bounds(scores, np.array([1.0, 1.5, 2.0, 4.0, 9.0]))
    assert (np.diff(upper)[:3] > 0).all()
    assert (np.diff(lower)[:2] < 0).all()
    assert (lower[4], upper[4]) == (lower[3], upper[3])
    # What was not measured is not widened.
    np.testing.assert_array_equal(model.bounds(scores, 4.0), model.bounds(scores))


def test_widening_round_trips():
    model = fit_interval(*predictions(100, seed=0)).widened({2.0: smaller(100, 1, 0.05)})
    again = IntervalModel.from_array(model.to_array(), model.widening)
    scores = np.linspace(-1, 2, 20)
    np.testing.assert_array_equal(again.bounds(scores, 1.7), model.bounds(scores, 1.7))
