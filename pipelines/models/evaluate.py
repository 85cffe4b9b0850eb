"""``grepr evaluate``: how well a bundle's features predict ratings from few labels, and how well it does as it is."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grepr_core.bundles.bundle import Bundle, load_bundle
from grepr_core.errors import UserError
from grepr_core.regression.metrics import (
    LabelBudgetResult,
    few_label_protocol,
    krocc,
    plcc,
    plcc_logistic,
    srocc,
    training_images,
)
from grepr_core.zero_shot.scores import combined_score
from pipelines.models.rated_features import RatedFeatures, rated_features, read_ratings, train_rows
from pipelines.options import EvaluateOptions
from pipelines.telling.activity import activity
from pipelines.telling.words import counted

#: Numbers of labels that are tried where none are asked for.
USUAL_LABELS = (50, 100, 200)

#: From features, ratings and perhaps their weights to a function that predicts ratings from features.
Regress = Callable[..., Callable[[NDArray[np.floating]], NDArray[np.float64]]]


@dataclass(frozen=True)
class Agreement:
    """How well scores agree with ratings.

    Attributes:
        what: Which scores.
        images: Number of images.
        srocc: Spearman's rank correlation.
        plcc: Pearson's correlation, no curve fitted.
        plcc_logistic: Pearson's correlation after a logistic curve is fitted on these images, as papers report it.
        krocc: Kendall's rank correlation.
    """

    what: str
    images: int
    srocc: float
    plcc: float
    plcc_logistic: float
    krocc: float


@dataclass(frozen=True, kw_only=True)
class FewLabels(LabelBudgetResult):
    """How well a regressor fitted on few labels does.

    Attributes:
        regressor: Which: that of ``grepr fit --from-scratch``, or one of the paper's protocol.
    """

    regressor: str


@dataclass(frozen=True)
class Coverage:
    """How well the bundle's prediction intervals keep what they promise.

    Attributes:
        promised: Fraction of ratings that they are made to hold.
        held: Fraction of the test set's ratings that they do hold.
        width: Their mean width, on the scale of the ratings.
        width_srocc: Rank correlation of width and error: above 0 where they are narrower for the surer scores.
    """

    promised: float
    held: float
    width: float
    width_srocc: float


@dataclass(frozen=True)
class Evaluation:
    """What ``grepr evaluate`` measures.

    Attributes:
        protocol: How regressors are fitted.
        seed: Of the draws.
        few_labels: Each regressor fitted anew on few labels, at each number of them.
        as_it_is: The bundle's own scores on the test set, without any of these labels.
        intervals: The bundle's own prediction intervals on the test set, where it has any.
        test_images: Size of the test set.
    """

    protocol: str
    seed: int
    few_labels: list[FewLabels]
    as_it_is: list[Agreement]
    intervals: Coverage | None
    test_images: int


def run(options: EvaluateOptions) -> Evaluation:
    """Measures a bundle on rated images.

    With a column ``split``, labels are drawn from its ``train`` rows and all others are the test set. Without, every
    draw tests on a random fifth, and the bundle's own scores are compared with all ratings.

    Args:
        options: Of the command.

    Returns:
        The measurements.

    Raises:
        UserError: The ratings cannot be used, there are too few of them for ``--labels``, or scikit-learn is wanted and
            not installed.
    """
    published = _published_regressors() if options.protocol == "paper" else None
    asked = _label_counts(options.labels) if options.labels is not None else None
    bundle = load_bundle(options.model)
    ratings = read_ratings(options.ratings, options.images, storage_options=options.storage_options)
    if asked and max(asked) > (most := training_images(ratings["mos"].to_numpy(), train_rows(ratings))):
        raise UserError(f"--labels {options.labels}: {options.ratings} has only {most} training images")
    rated = rated_features(ratings, options.images, bundle, options)
    available = training_images(rated.mos, rated.train)
    regressors = published or {"grepr": lambda *training: rated.regress(*training).predict}
    with activity(f"fitting on few of {counted(len(rated.mos), 'rating')}, {options.splits} times each"):
        try:
            few_labels = [
                FewLabels(regressor=name, **vars(result))
                for name, fit in regressors.items()
                for result in few_label_protocol(
                    rated.features,
                    rated.mos,
                    train=rated.train,
                    # The paper knows of no weights.
                    weights=None if published else rated.weights(),
                    label_counts=asked or [count for count in USUAL_LABELS if count <= available],
                    splits=options.splits,
                    seed=options.seed,
                    fit=fit,
                )
            ]
        except ValueError as error:
            raise UserError(f"{options.ratings}: {error}; see --labels and --splits") from error
    test = np.ones(len(rated.mos), bool) if rated.train is None else ~rated.train
    own = {
        "the bundle's regressor": rated.score,
        "zero-shot, low-level path": rated.score_low,
        "zero-shot, high-level path": rated.score_high,
    }
    if rated.score_low is not None and rated.score_high is not None:
        own["zero-shot, both paths"] = combined_score(rated.score_low, rated.score_high)
    as_it_is = [_agreement(what, scores[test], rated.mos[test]) for what, scores in own.items() if scores is not None]
    intervals = _coverage(bundle, rated, test)
    return Evaluation(options.protocol, options.seed, few_labels, as_it_is, intervals, int(test.sum()))


def _published_regressors() -> Mapping[str, Regress]:
    try:
        # Nothing else needs scikit-learn.
        from grepr_core.regression.published import fit_published_ridge, fit_svr  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise UserError("--protocol paper needs scikit-learn: pip install 'grepr[paper]'") from error
    return {"ridge": fit_published_ridge, "SVR": fit_svr}


def _label_counts(text: str) -> list[int]:
    try:
        return [int(count) for count in text.split(",")]
    except ValueError as error:
        raise UserError(f"--labels {text}: give numbers with commas between, such as 50,100,200") from error


def _agreement(what: str, scores: NDArray[np.float64], mos: NDArray[np.float64]) -> Agreement:
    return Agreement(what, len(mos), *(metric(scores, mos) for metric in (srocc, plcc, plcc_logistic, krocc)))


def _coverage(bundle: Bundle, rated: RatedFeatures, test: NDArray[np.bool_]) -> Coverage | None:
    if rated.score_lower is None or rated.score_upper is None:
        return None
    assert rated.score is not None
    assert bundle.regressor is not None
    assert bundle.regressor.interval is not None
    lower, upper, mos = rated.score_lower[test], rated.score_upper[test], rated.mos[test]
    return Coverage(
        promised=bundle.regressor.interval.level,
        held=float(np.mean((lower <= mos) & (mos <= upper))),
        width=float(np.mean(upper - lower)),
        width_srocc=srocc(upper - lower, np.abs(mos - rated.score[test])),
    )


def to_text(evaluation: Evaluation) -> str:
    """Lays an evaluation out as a Markdown table.

    Args:
        evaluation: The measurements.

    Returns:
        The table; medians, with the middle half of the draws in brackets.
    """
    lines = ["| labels | draws | SROCC | PLCC | PLCC after a logistic fit | KROCC |", "|---|---|---|---|---|---|"]
    for result in evaluation.few_labels:
        spreads = (result.srocc, result.plcc, result.plcc_logistic, result.krocc)
        cells = (f"{s.median:.3f} ({s.low:.3f}-{s.high:.3f})" for s in spreads)
        labels = f"{result.labels}" if evaluation.protocol == "grepr" else f"{result.labels}, {result.regressor}"
        lines.append(f"| {labels} | {result.splits} | {' | '.join(cells)} |")
    for own in evaluation.as_it_is:
        values = (own.srocc, own.plcc, own.plcc_logistic, own.krocc)
        lines.append(f"| {own.what} | - | {' | '.join(f'{value:.3f}' for value in values)} |")
    if (intervals := evaluation.intervals) is not None:
        lines.append(
            f"\nThe bundle's {intervals.promised:.0%} intervals hold {intervals.held:.1%} of the test ratings; "
            f"mean width {intervals.width:.3f}, rank correlation of width and error {intervals.width_srocc:.2f}"
        )
    lines.append(
        f"\n{evaluation.test_images} test images; medians of the draws (--seed {evaluation.seed}), in brackets their "
        "middle half"
    )
    return "\n".join(lines)


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Gives an evaluation as JSON's types."""
    return asdict(evaluation)
