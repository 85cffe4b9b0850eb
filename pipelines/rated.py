"""Rated images: reading ratings, and the features of the images they are about."""

import logging
import posixpath
import tempfile
from dataclasses import dataclass

import numpy as np
import pandas as pd
from fsspec.core import url_to_fs
from numpy.typing import NDArray

from grepr_core.bundle import Bundle
from grepr_core.errors import UserError
from grepr_core.images import Status
from grepr_core.storage import Folder, absolute, is_local
from pipelines.manifest import write_manifest
from pipelines.options import LARGEST_SHARD, ScoringOptions
from pipelines.score import MANIFEST_FOLDER, score_manifest
from pipelines.score_table import read_scores
from pipelines.sources import Entry, path_to_uri

log = logging.getLogger(__name__)

TRAIN = "train"
SHOWN = 5


@dataclass(frozen=True)
class RatedFeatures:
    """Rated images whose features are known.

    Attributes:
        features: (N, D) float32.
        mos: (N,) float64 mean opinion scores.
        train: (N,) bool, true where ``split`` is ``train``; None where the ratings have no split.
        score: (N,) float64, what the bundle itself predicts, None where it has no way to a score yet.
        score_low: (N,) zero-shot scores of the low-level path, None where the bundle lacks it.
        score_high: (N,) zero-shot scores of the high-level path, None where the bundle lacks it.
        score_lower: (N,) lower ends of the prediction intervals, None where the bundle has none.
        score_upper: (N,) upper ends of them.
    """

    features: NDArray[np.float32]
    mos: NDArray[np.float64]
    train: NDArray[np.bool_] | None
    score: NDArray[np.float64] | None
    score_low: NDArray[np.float64] | None
    score_high: NDArray[np.float64] | None
    score_lower: NDArray[np.float64] | None
    score_upper: NDArray[np.float64] | None


def read_ratings(path: str) -> pd.DataFrame:
    """Reads and checks a table of ratings.

    Args:
        path: CSV or Parquet file, path or URL.

    Returns:
        Columns ``image`` (string), ``mos`` (float64) and, where given, ``split`` (string).

    Raises:
        UserError: The file is missing or not a table, a column is missing, an image appears twice, or ratings are not
            finite or all equal.
    """
    try:
        fs, name = url_to_fs(absolute(path))
        with fs.open(name, "rb") as file:
            table = pd.read_parquet(file) if name.endswith(".parquet") else pd.read_csv(file, dtype={"image": str})
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (ValueError, OSError) as error:  # pandas' and Arrow's parser errors are ValueErrors
        raise UserError(f"{path}: not a readable CSV or Parquet table: {error}") from error
    for column in ("image", "mos"):
        if column not in table.columns:
            raise UserError(f"{path}: has no column {column!r}; its columns are {', '.join(map(str, table.columns))}")
    mos = pd.to_numeric(table["mos"], errors="coerce").astype(np.float64)
    bad = table["image"][~np.isfinite(mos) | table["image"].isna()]
    if len(bad):
        raise UserError(
            f"{path}: {len(bad)} rows lack an image or a finite number as mos, first row {bad.index[0] + 2}"
        )
    twice = table["image"][table["image"].duplicated()]
    if len(twice):
        raise UserError(f"{path}: {len(twice)} images are rated twice, such as {_some(list(twice))}; keep one row each")
    if mos.nunique() < 2:
        raise UserError(f"{path}: all ratings are equal; there is nothing to learn from")
    columns = ["image", "mos", "split"] if "split" in table.columns else ["image", "mos"]
    return table.assign(mos=mos)[columns]


def rated_features(ratings: pd.DataFrame, images: str, bundle: Bundle, options: ScoringOptions) -> RatedFeatures:
    """Scores rated images and joins them with their ratings.

    Args:
        ratings: As :func:`read_ratings` gives them.
        images: Folder or URL that their paths start from.
        bundle: The model that ``options.model`` names.
        options: How images are scored.

    Returns:
        Features and ratings, without the images that failed.

    Raises:
        UserError: More images failed than the options allow.
    """
    uris = [image_uri(images, image) for image in ratings["image"]]
    with tempfile.TemporaryDirectory(prefix="grepr-") as temporary:
        output = Folder(temporary)
        manifest = write_manifest(
            map(Entry, uris), output.child(MANIFEST_FOLDER), source=images, largest_shard=LARGEST_SHARD
        )
        record = score_manifest(manifest, output, bundle, options, features=True)
        table = read_scores(output)
    scored = np.array([status == Status.SCORED for status in table["status"].to_pylist()])
    if not scored.all():
        failed = table.filter(~scored).select(["uri", "status", "error"]).slice(0, SHOWN).to_pylist()
        reasons = "; ".join(f"{row['uri']}: {row['status']} ({row['error']})" for row in failed)
        message = f"{(~scored).sum()} of {len(scored)} rated images could not be scored: {reasons}"
        if record.failed_fraction > options.max_failed_fraction:
            raise UserError(f"{message}; check --images, or allow more with --max-failed-fraction")
        log.warning("%s; they are left out", message)
    kept = table.filter(scored)
    features = np.stack(kept["features"].to_numpy()).astype(np.float32)
    train = (ratings["split"] == TRAIN).to_numpy()[scored] if "split" in ratings else None
    names = ("score", "score_low", "score_high", "score_lower", "score_upper")
    optional = {name: _column(kept.column(name).to_numpy()) for name in names}
    return RatedFeatures(features, ratings["mos"].to_numpy()[scored], train, **optional)


def image_uri(images: str, image: str) -> str:
    """Gives the URI of a rated image.

    Args:
        images: Folder or URL that the ratings' paths start from.
        image: Path below it, absolute path or URI.
    """
    if "://" in image or image.startswith("/"):
        return image
    if is_local(images):
        return path_to_uri(f"{absolute(images)}/{image}")
    return posixpath.join(images, image)


def _column(values: NDArray[np.float32]) -> NDArray[np.float64] | None:
    return None if np.isnan(values).all() else values.astype(np.float64)


def _some(values: list[str]) -> str:
    return ", ".join(values[:SHOWN]) + (", ..." if len(values) > SHOWN else "")
