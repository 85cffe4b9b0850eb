"""``grepr fit``: the regressor of a bundle, fitted on rated images."""

import logging
import posixpath
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from grepr_core.bundle import Bundle, load_bundle, save_bundle
from grepr_core.errors import UserError
from grepr_core.metrics import LabelBudgetResult, few_label_protocol
from grepr_core.regressor import fit_ridge
from pipelines.options import FitOptions
from pipelines.rated import TRAIN, rated_features, read_ratings

log = logging.getLogger(__name__)

FEWEST_RATINGS = 20
CROSS_VALIDATION_SPLITS = 20


@dataclass(frozen=True)
class FitResult:
    """A bundle with its new regressor.

    Attributes:
        bundle: As saved.
        learning_curve: Quality at growing numbers of ratings, each draw tested on a fifth of the ratings that the
            regressor did not see.
    """

    bundle: Bundle
    learning_curve: list[LabelBudgetResult]


def run(options: FitOptions) -> FitResult:
    """Fits a regressor on the features of rated images and saves it with the encoders as a new bundle.

    Args:
        options: Of the command.

    Returns:
        The bundle and its cross-validation.

    Raises:
        UserError: The ratings cannot be used, or the output holds a bundle already.
    """
    ratings = read_ratings(options.ratings)
    if "split" in ratings:
        ratings = ratings[ratings["split"] == TRAIN].reset_index(drop=True)
    if len(ratings) < FEWEST_RATINGS:
        raise UserError(f"{options.ratings}: {len(ratings)} ratings to fit on; at least {FEWEST_RATINGS} are needed")
    base = load_bundle(options.model)
    rated = rated_features(ratings, options.images, base, options)
    most = int(len(rated.mos) * 0.8)
    curve = few_label_protocol(
        rated.features,
        rated.mos,
        label_counts=sorted({n for n in (50, 100, 200, 400, 800) if n < most} | {most}),
        splits=CROSS_VALIDATION_SPLITS,
        fit=lambda features, mos: fit_ridge(features, mos, blocks=base.feature_blocks).predict,
    )
    regressor = fit_ridge(rated.features, rated.mos, blocks=base.feature_blocks)
    card = {
        **base.card,
        "training": {
            "ratings": len(rated.mos),
            "mos": {"lowest": float(rated.mos.min()), "highest": float(rated.mos.max())},
            "ridge_penalty": round(regressor.alpha, 4),
            "fitted": datetime.now(UTC).date().isoformat(),
        },
        "evaluation": {
            "protocol": f"median of {CROSS_VALIDATION_SPLITS} draws, each tested on a fifth of the ratings left out",
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
    return FitResult(save_bundle(bundle, options.output), curve)
