"""Learning curves continued: laws that are known, noise that is known, and curves that say nothing."""

import numpy as np
import pytest

from grepr_core.regression.learning_curve import extrapolate
from grepr_core.regression.metrics import LabelBudgetResult, Spread


def curve(sroccs: dict[int, np.ndarray]) -> list[LabelBudgetResult]:
    return [
        LabelBudgetResult(n, len(draws), *[Spread.of(draws.tolist())] * 4, srocc_by_draw=tuple(draws.tolist()))
        for n, draws in sroccs.items()
    ]


def test_an_inverse_square_root_is_continued_exactly_and_lies_in_the_range():
    root = curve({n: np.full(5, 0.8 - 1.5 * n**-0.5) for n in (50, 100, 200)})
    (twice, fourfold) = extrapolate(root, [400, 800])
    assert twice.srocc == pytest.approx(0.8 - 1.5 * 400**-0.5)
    assert fourfold.srocc == pytest.approx(0.8 - 1.5 * 800**-0.5)
    # Without spread, the range opens to what a power law hopes for.
    assert twice.low == pytest.approx(twice.srocc)
    assert twice.srocc < twice.high < fourfold.high < 0.8


def test_a_power_law_lies_at_the_upper_end():
    (outlook,) = extrapolate(curve({n: np.full(5, 1 - 1.4 * n**-0.3) for n in (50, 100, 200)}), [800])
    assert outlook.high == pytest.approx(1 - 1.4 * 800**-0.3)
    assert outlook.low == outlook.srocc < outlook.high


def test_the_first_ratings_do_not_count_once_there_are_many():
    later = {n: np.full(5, 0.8 - 1.5 * n**-0.5) for n in (100, 200, 400, 800)}
    assert extrapolate(curve({25: np.full(5, 0.1), **later}), [1600]) == extrapolate(curve(later), [1600])


def test_ranges_hold_nine_tenths_where_draws_share_their_images():
    # A draw differs from the truth by what all draws share, of the variance that Nadeau and Bengio's correction takes
    # into account, and by its own; both are the same at all numbers of ratings.
    rng, held, deviation = np.random.default_rng(0), 0, 0.06
    for _ in range(400):
        off = deviation * (0.5 * rng.normal() + rng.normal(size=20))
        root = curve({n: 0.8 - 1.5 * n**-0.5 + off for n in (50, 100, 200)})
        (outlook,) = extrapolate(root, [400])
        held += outlook.low <= 0.8 - 1.5 * 400**-0.5 <= outlook.high
    assert 0.85 <= held / 400 <= 0.98


@pytest.mark.parametrize(
    "sroccs",
    [
        {},
        {48: 0.5},
        {50: 0.5, 200: 0.6},  # two points have no bend
        {25: 0.4, 50: 0.5, 51: 0.51},  # too near each other
        {50: 0.6, 100: 0.6, 200: 0.6},
        {50: 0.6, 100: 0.7, 200: 0.5},
    ],
)
def test_nothing_is_said_where_the_curve_does_not_carry_it(sroccs: dict[int, float]):
    assert extrapolate(curve({n: np.full(5, value) for n, value in sroccs.items()}), [400]) == []
