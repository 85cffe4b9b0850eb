"""``grepr fit``: the regressor of a bundle, fitted on rated images."""

import logging
import posixpath
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from grepr_core.bundles.bundle import Bundle, load_bundle, save_bundle
from grepr_core.bundles.bundle_files import check_vacant
from grepr_core.errors import UserError
from grepr_core.regression.learning_curve import Outlook, extrapolate
from grepr_core.regression.metrics import LabelBudgetResult, Spread, few_label_protocol
from pipelines.models.rated_features import TRAIN, RatedFeatures, rated_features, read_ratings
from pipelines.options import FitOptions
from pipelines.telling.activity import activity
from pipelines.telling.words import counted

log = logging.getLogger(__name__)

FEWEST_RATINGS = 20
#: Draws of the cross-validation. Where there are many ratings, each draw costs more and says more.
DRAWS, MANY_RATINGS, DRAWS_OF_MANY = 20, 1500, 5
#: Where three quarters of the draws have a lower SROCC with the scores of a model, ratings may be the wrong way round.
REVERSED = -0.3
#: Doubled until no more ratings are there.
FIRST_LABELS = 25


@dataclass(frozen=True)
class FitResult:
    """A bundle with its new regressor.

    Attributes:
        bundle: As saved.
        output: Where.
        ratings: Number of ratings fitted on.
        learning_curve: Quality at growing numbers of ratings, each draw tested on a fifth of the ratings that the
            regressor did not see; empty where they are too few or too alike to tell.
        outlook: What twice and four times the ratings would likely bring; empty where the curve does not carry it.
        base: Name of the bundle that the encoders are from.
        base_as_it_is: How well its own scores agree with the ratings that the last point is tested on; None where it
            has none, or nothing can be told.
    """

    bundle: Bundle
    output: str
    ratings: int
    learning_curve: list[LabelBudgetResult]
    outlook: list[Outlook]
    base: str
    base_as_it_is: LabelBudgetResult | None


def run(options: FitOptions) -> FitResult:
    """Fits a regressor on the features of rated images and saves it with the encoders as a new bundle.

    Args:
        options: Of the command.

    Returns:
        The bundle and its cross-validation.

    Raises:
        UserError: The ratings cannot be used, or the output holds a bundle already.
    """
    check_vacant(options.output)
    ratings = read_ratings(options.ratings, options.images, storage_options=options.storage_options)
    base = load_bundle(options.model)
    _warn_of_own_ratings(base)
    rated = rated_features(_training_rows(ratings, options.ratings), options.images, base, options)
    if not options.from_scratch and rated.score is not None and np.ptp(rated.score) > 0:
        rated = replace(rated, start=base.regressor)
    with activity(f"fitting on {counted(len(rated.mos), 'rating')}"):
        weights = rated.weights()
        try:
            regressor = rated.regress(rated.features, rated.mos, weights)
        except ValueError as error:
            raise UserError(f"{options.ratings}: {error}; rate more images") from error
    if options.max_pixels is not None:
        base = replace(base, view=base.view.at(options.max_pixels))
    elif regressor.interval is not None and base.regressor is not None and base.regressor.interval is not None:
        # How much less enlarged photos tell is a matter of what the encoders see, and was measured with more ratings.
        interval = replace(regressor.interval, widening=base.regressor.interval.widening)
        regressor = replace(regressor, interval=interval)
    with activity("cross-validating"):
        curve, as_it_is = _cross_validate(rated, weights)
    _warn_of_reversed_ratings(base, as_it_is)
    card = {
        **base.card,
        "training": {
            "ratings": len(rated.mos),
            "weighed_by_noise": weights is not None,
            "started_from": base.model_id if rated.start is not None else None,
            "mos": {"lowest": float(rated.mos.min()), "highest": float(rated.mos.max())},
            "ridge_penalty": round(regressor.alpha, 4),
            "fitted": datetime.now(UTC).date().isoformat(),
        },
        "evaluation": {
            "protocol": "median of random draws, each tested on a fifth of the ratings left out",
            "learning_curve": [
                {"labels": r.labels, "srocc": round(r.srocc.median, 3), "plcc": round(r.plcc.median, 3)} for r in curve
            ],
        },
    }
    bundle = replace(
        base,
        name=options.name or posixpath.basename(options.output.rstrip("/")),
        regressor=regressor,
        scale=(float(rated.mos.min()), float(rated.mos.max())),
        card=card,
    )
    saved = save_bundle(bundle, options.output)
    outlook = extrapolate(curve, [2 * len(rated.mos), 4 * len(rated.mos)])
    return FitResult(saved, options.output, len(rated.mos), curve, outlook, base.name, as_it_is)


def _warn_of_own_ratings(base: Bundle) -> None:
    training = base.card.get("training")
    if isinstance(training, dict) and "weighed_by_noise" in training:  # as this command writes it
        log.warning(
            "%s was fitted by 'grepr fit'; where any of these ratings went into it, its figures, and those of what "
            "starts from it, are too good: name the model that it was fitted from",
            base.name,
        )


def _warn_of_reversed_ratings(base: Bundle, as_it_is: LabelBudgetResult | None) -> None:
    if as_it_is is not None and as_it_is.srocc.high < REVERSED:
        log.warning(
            "ratings are low where %s gives high scores; if low ones mean good photos, turn them round: of a model's "
            "scores, higher is taken for better",
            base.name,
        )


def _cross_validate(
    rated: RatedFeatures, weights: NDArray[np.float64] | None
) -> tuple[list[LabelBudgetResult], LabelBudgetResult | None]:
    """Gives the learning curve, and what the scores as they are come to on what its last point is tested on."""
    most = len(rated.mos) * 4 // 5
    splits = DRAWS if len(rated.mos) <= MANY_RATINGS else DRAWS_OF_MANY
    try:
        curve = few_label_protocol(
            rated.features,
            rated.mos,
            weights=weights,
            label_counts=label_counts(most),
            splits=splits,
            fit=lambda *training: rated.regress(*training).predict,
        )
    except ValueError as error:
        log.warning("the ratings are too few, or too many of them are equal, to cross-validate (%s)", error)
        return [], None
    if rated.score is None:
        return curve, None
    try:
        (as_it_is,) = few_label_protocol(
            rated.score[:, None], rated.mos, label_counts=[most], splits=splits, fit=lambda *_: np.ravel
        )
    except ValueError:  # too many of its scores are equal
        return curve, None
    return curve, as_it_is


def label_counts(most: int) -> list[int]:
    """Gives the numbers of ratings of a learning curve: 25, 50, 100, ... and the most there are."""
    counts = [FIRST_LABELS]
    while counts[-1] * 2 < most:
        counts.append(counts[-1] * 2)
    return [count for count in counts if count < most] + [most]


def _training_rows(ratings: pd.DataFrame, path: str) -> pd.DataFrame:
    rows = ratings[ratings["split"] == TRAIN] if "split" in ratings else ratings
    if len(rows) < FEWEST_RATINGS:
        which = f" whose split is {TRAIN!r}" if "split" in ratings else ""
        found = counted(len(rows), "rating")
        raise UserError(f"{path}: {found}{which} to fit on; rate at least {FEWEST_RATINGS} images, better 50 to 200")
    return rows


def to_text(result: FitResult) -> str:
    """Says what a fit came to.

    Args:
        result: Of the fit.

    Returns:
        How good the given model is, and one line for each number of ratings; medians, with the middle half of the draws
        in brackets.
    """
    named = [] if result.base_as_it_is is None else [(f"{result.base} as it is", result.base_as_it_is)]
    named += [(f"at {point.labels:5d} ratings", point) for point in result.learning_curve]
    lines = [f"{name}: SROCC {_spread(point.srocc)}, PLCC {_spread(point.plcc)}" for name, point in named]
    if lines:
        lines.append(
            f"cross-validated: medians of {result.learning_curve[-1].splits} draws, each tested on a fifth left out; "
            "in brackets the middle half of them"
        )
    lines += [
        f"with {o.labels} ratings SROCC would likely be about {o.srocc:.2f} ({o.low:.2f} to {o.high:.2f})"
        for o in result.outlook
    ]
    lines.append(f"wrote {result.output}, fitted on all {result.ratings} ratings, model id {result.bundle.model_id}")
    return "\n".join(lines)


def _spread(spread: Spread) -> str:
    return f"{spread.median:.3f} ({spread.low:.3f} to {spread.high:.3f})"


def to_json(result: FitResult) -> dict[str, Any]:
    """Gives a fit as JSON's types."""
    return {
        "output": result.output,
        "model_id": result.bundle.model_id,
        "ratings": result.ratings,
        "base": result.base,
        "base_as_it_is": None if result.base_as_it_is is None else asdict(result.base_as_it_is),
        "started_from": result.bundle.card["training"]["started_from"],
        "learning_curve": [asdict(point) for point in result.learning_curve],
        "outlook": [asdict(outlook) for outlook in result.outlook],
    }
