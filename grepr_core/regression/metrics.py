"""How well predicted quality agrees with ratings, and GRepQ's few-label protocol."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import least_squares
from scipy.special import expit

Array = NDArray[np.float64]
Floats = NDArray[np.floating]


def srocc(predicted: Floats, mos: Floats) -> float:
    """Spearman's rank correlation, in [-1, 1].

    Args:
        predicted: (N,) predicted quality.
        mos: (N,) mean opinion scores.

    Returns:
        The correlation; ties share their mean rank.

    Raises:
        ValueError: The lengths differ, are below 2, a value is not finite, or all predictions or ratings are equal.
    """
    return float(stats.spearmanr(*_varying(predicted, mos)).statistic)


def plcc(predicted: Floats, mos: Floats) -> float:
    """Pearson's linear correlation, in [-1, 1], of the predictions as they are.

    Papers often fit a curve first, as :func:`plcc_logistic` does.

    Args:
        predicted: (N,) predicted quality.
        mos: (N,) mean opinion scores.

    Returns:
        The correlation.

    Raises:
        ValueError: The lengths differ, are below 2, a value is not finite, or all predictions or ratings are equal.
    """
    return float(stats.pearsonr(*_varying(predicted, mos)).statistic)


def plcc_logistic(predicted: Floats, mos: Floats) -> float:
    """Pearson's linear correlation after :func:`logistic_fit` on these very ratings.

    Args:
        predicted: (N,) predicted quality.
        mos: (N,) mean opinion scores.

    Returns:
        The correlation, in [0, 1] since the curve may fall.

    Raises:
        ValueError: The lengths differ, are below 2, a value is not finite, or all predictions or ratings are equal.
    """
    return plcc(logistic_fit(predicted, mos), mos)


def krocc(predicted: Floats, mos: Floats) -> float:
    """Kendall's rank correlation tau-b, in [-1, 1].

    Args:
        predicted: (N,) predicted quality.
        mos: (N,) mean opinion scores.

    Returns:
        The correlation.

    Raises:
        ValueError: The lengths differ, are below 2, a value is not finite, or all predictions or ratings are equal.
    """
    return float(stats.kendalltau(*_varying(predicted, mos)).statistic)


def rmse(predicted: Floats, mos: Floats) -> float:
    """Root mean squared error, in units of the ratings.

    Args:
        predicted: (N,) predicted quality on the scale of the ratings, where need be by :func:`logistic_fit`.
        mos: (N,) mean opinion scores.

    Returns:
        The error, 0 or more.

    Raises:
        ValueError: The lengths differ, are below 2, or a value is not finite.
    """
    x, y = _pair(predicted, mos)
    return float(np.sqrt(np.mean((x - y) ** 2)))


def logistic_fit(predicted: Floats, mos: Floats) -> Array:
    """Maps predictions to the scale of the ratings by the monotone curve that fits them best.

    The curve is the logistic of four parameters, low + (high - low) sigmoid(slope (x - middle)), which VQEG recommends;
    the published code fits a cubic, which need not be monotone. A straight line takes its place where it fits better,
    as where ratings depend on predictions linearly. A falling curve is fitted where high predictions mean low quality,
    so the sign of the correlation is lost.

    Args:
        predicted: (N,) predicted quality on any scale.
        mos: (N,) mean opinion scores.

    Returns:
        (N,) float64 predictions on the scale of the ratings.

    Raises:
        ValueError: The lengths differ, are below 2, a value is not finite, or all predictions or ratings are equal.
    """
    x, y = _varying(predicted, mos)
    x = (x - x.mean()) / x.std()
    slope, intercept = np.polyfit(x, y, 1)
    line: Array = slope * x + intercept
    start = (y.min(), y.max(), np.sign(slope), 0.0)
    solution = least_squares(lambda parameters: _logistic(x, *parameters) - y, start, x_scale="jac")
    curve = _logistic(x, *solution.x)
    return curve if rmse(curve, y) < rmse(line, y) else line


@dataclass(frozen=True)
class Spread:
    """What a metric comes to over the draws.

    Attributes:
        median: Of the draws.
        low: Their 25th percentile.
        high: Their 75th percentile.
        n: Number of draws.
    """

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Summarises the values of all draws."""
        low, median, high = np.percentile(values, [25, 50, 75]).tolist()
        return cls(median, low, high, len(values))


@dataclass(frozen=True)
class LabelBudgetResult:
    """How well a regressor fitted on so many ratings agrees with the ratings of the test images.

    Attributes:
        labels: Ratings fitted on.
        splits: Draws of that many.
        srocc: Spearman's rank correlation.
        plcc: Pearson's correlation, no curve fitted.
        plcc_logistic: Pearson's correlation after :func:`logistic_fit` on the test images, as papers report it.
        krocc: Kendall's rank correlation.
        srocc_by_draw: Spearman's rank correlation of each draw. Draw i is the same at every number of labels.
    """

    labels: int
    splits: int
    srocc: Spread
    plcc: Spread
    plcc_logistic: Spread
    krocc: Spread
    srocc_by_draw: tuple[float, ...]


def training_images(mos: NDArray[np.floating], train: NDArray[np.bool_] | None) -> int:
    """Counts the images that :func:`few_label_protocol` draws labels from.

    Args:
        mos: (N,) ratings.
        train: (N,) bool, which of them may be drawn; None holds out a fifth in every draw.

    Returns:
        How many.
    """
    return len(mos) * 4 // 5 if train is None else int(train.sum())


def few_label_protocol(
    features: Floats,
    mos: Floats,
    train: NDArray[np.bool_] | None = None,
    *,
    weights: Floats | None = None,
    label_counts: Sequence[int] = (50, 100, 200),
    splits: int = 10,
    seed: int = 0,
    fit: Callable[..., Callable[[Floats], Floats]],
) -> list[LabelBudgetResult]:
    """Measures what a regressor makes of few ratings, as GRepQ reports it for 50, 100 and 200 labels.

    Each draw takes so many training images at random, fits on their ratings and predicts those of the test images.
    Draw i depends on ``seed`` and i alone, and its smaller sets of images are parts of its larger ones, so that
    numbers of labels are compared on equal terms.

    Args:
        features: (N, D) features.
        mos: (N,) mean opinion scores.
        train: (N,) true for images to draw from, false for the test set. By default each draw tests on another random
            fifth of the images.
        weights: (N,) weights of the ratings in the fit; testing weighs all alike.
        label_counts: Numbers of ratings to fit on.
        splits: Draws at each; one is enough where all images of a fixed training set are taken.
        seed: Of the draws.
        fit: From (n, D) features, (n,) ratings and, where ``weights`` are given, (n,) weights to a function that
            predicts ratings from features.

    Returns:
        One result for each number of labels, in the order given.

    Raises:
        ValueError: The lengths differ, more labels are asked for than there are training images, a number of labels or
            of draws is below 1, or :func:`srocc` cannot be told, as where a draw predicts the same for all images.
    """
    if not len(features) == len(mos) == len(mos if train is None else train):
        raise ValueError(f"{len(features)} features, {len(mos)} ratings and the split do not belong together")
    available = training_images(mos, train)
    if min([splits, *label_counts]) < 1:
        raise ValueError(f"{splits} draws of {label_counts} labels; each of these numbers must be at least 1")
    if (most := max(label_counts, default=0)) > available:
        raise ValueError(f"{most} labels asked for, but there are only {available} training images")

    training = (features, mos) if weights is None else (features, mos, weights)
    results = []
    for labels in label_counts:
        draws = 1 if train is not None and labels == available else splits
        agreement = []
        for draw in range(draws):
            candidates, test = _split(len(mos), train, np.random.default_rng([seed, draw]))
            chosen = candidates[:labels]
            predicted = fit(*(part[chosen] for part in training))(features[test])
            agreement.append([metric(predicted, mos[test]) for metric in (srocc, plcc, plcc_logistic, krocc)])
        sroccs, plccs, fitted, kroccs = zip(*agreement, strict=True)
        spreads = (Spread.of(sroccs), Spread.of(plccs), Spread.of(fitted), Spread.of(kroccs))
        results.append(LabelBudgetResult(labels, draws, *spreads, srocc_by_draw=sroccs))
    return results


def _split(
    n: int, train: NDArray[np.bool_] | None, rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Training images in random order, and test images."""
    if train is not None:
        return rng.permutation(np.flatnonzero(train)), np.flatnonzero(~train)
    order = rng.permutation(n)
    return order[: n * 4 // 5], order[n * 4 // 5 :]


def _logistic(x: Array, low: float, high: float, slope: float, middle: float) -> Array:
    curve: Array = low + (high - low) * expit(slope * (x - middle))
    return curve


def _pair(predicted: Floats, mos: Floats) -> tuple[Array, Array]:
    x, y = np.asarray(predicted, np.float64), np.asarray(mos, np.float64)
    if x.ndim != 1 or x.shape != y.shape or len(x) < 2:
        raise ValueError(f"predictions {x.shape} and ratings {y.shape} must be as many, and at least 2")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("predictions and ratings must be finite numbers")
    return x, y


def _varying(predicted: Floats, mos: Floats) -> tuple[Array, Array]:
    x, y = _pair(predicted, mos)
    for name, values in (("predictions", x), ("ratings", y)):
        if np.ptp(values) == 0:
            raise ValueError(f"all {name} are equal, so they have no correlation with anything")
    return x, y
