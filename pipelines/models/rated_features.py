"""Rated images: reading ratings, and the features of the images they are about."""

import io
import logging
import os
import posixpath
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from grepr_core.bundles.bundle import Bundle
from grepr_core.decoding.images import Status
from grepr_core.errors import UserError
from grepr_core.regression.rating_noise import model_variance, variance_of_mean
from grepr_core.regression.regressor import Regressor, fit_ridge
from grepr_core.storage import Folder, absolute, is_file_url, is_local, open_file_system
from grepr_core.web.access import for_reading, with_lower_scheme
from pipelines.lake.manifest import MANIFEST_FOLDER, write_manifest
from pipelines.lake.sources import Entry, path_to_uri, uri_to_path
from pipelines.options import LARGEST_SHARD, ScoringOptions
from pipelines.scoring.run_record import RunRecord
from pipelines.scoring.score import score_manifest
from pipelines.scoring.score_table import read_scores
from pipelines.telling.words import counted

log = logging.getLogger(__name__)

TRAIN = "train"
SHOWN = 5
FAILED_HINT = ". Check --images, or allow more with --max-failed-fraction"
#: Where in a container an image is, as a manifest has it; the last two only count beside the first.
PLACE_COLUMNS = ("member", "offset", "size")
COLUMNS = ("image", "mos", "std", "count", "split")


@dataclass(frozen=True)
class RatedFeatures:
    """Rated images whose features are known.

    Attributes:
        features: (N, D) float32.
        mos: (N,) float64 mean opinion scores.
        blocks: Lengths of the blocks that the features consist of, in order.
        block_variances: How much each of them counts in a fit.
        variance: (N,) float64 variance of each of them, None where the ratings do not tell.
        train: (N,) bool, true where ``split`` is ``train``; None where the ratings have no split.
        score: (N,) float64, what the bundle itself predicts, None where it has no way to a score yet.
        score_low: (N,) zero-shot scores of the low-level path, None where the bundle lacks it.
        score_high: (N,) zero-shot scores of the high-level path, None where the bundle lacks it.
        score_lower: (N,) lower ends of the prediction intervals, None where the bundle has none.
        score_upper: (N,) upper ends of them.
        start: Regressor, of other ratings, that fits start from; None where they know these ratings alone.
    """

    features: NDArray[np.float32]
    mos: NDArray[np.float64]
    blocks: tuple[int, ...]
    block_variances: tuple[float, ...]
    variance: NDArray[np.float64] | None
    train: NDArray[np.bool_] | None
    score: NDArray[np.float64] | None
    score_low: NDArray[np.float64] | None
    score_high: NDArray[np.float64] | None
    score_lower: NDArray[np.float64] | None
    score_upper: NDArray[np.float64] | None
    start: Regressor | None

    def weights(self) -> NDArray[np.float64] | None:
        """Gives each rating its weight in a fit: inverse to the variance of model and rating together.

        Returns:
            (N,) weights, of which the ratios matter; None where the ratings do not tell their variance. That of the
            model is estimated on the training images alone.
        """
        if self.variance is None:
            return None
        rows = np.ones(len(self.mos), bool) if self.train is None else self.train
        known = (self.features[rows], self.mos[rows], self.variance[rows])
        return 1 / (model_variance(*known, fit=lambda x, y: self.regress(x, y).predict) + self.variance)

    def regress(
        self, features: NDArray[np.floating], mos: NDArray[np.floating], weights: NDArray[np.floating] | None = None
    ) -> Regressor:
        """Fits a regressor on some of the rows; see :func:`grepr_core.regression.regressor.fit_ridge`."""
        return fit_ridge(features, mos, weights, blocks=self.blocks, variances=self.block_variances, start=self.start)


def read_ratings(path: str, images: str = ".", *, storage_options: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """Reads and checks a table of ratings.

    Args:
        path: CSV or Parquet file, path or URL.
        images: Folder or URL that the images' paths start from, so that two spellings of one image are found.
        storage_options: For fsspec.

    Returns:
        Columns ``image`` (string), ``mos`` (float64) and, where given, ``std`` (float64, 0 where a single rating has
        none), ``count`` (float64), ``split`` (string) and, where images are in containers, ``member`` (string, empty
        where ``image`` is none), ``offset`` and ``size`` (float64, not a number where unknown). The index holds the
        line in a CSV file or the row in a Parquet file, counted from 1; its name says which, with the file's, for
        messages.

    Raises:
        UserError: The file is missing or not a table, a column is missing, an image appears twice, or a number cannot
            be one of its column.
    """
    table = _read_table(path, storage_options)
    for column in ("image", "mos"):
        if column not in table.columns:
            found = ", ".join(map(str, table.columns))
            raise UserError(f"{path}: has no column {column!r}; its columns are {found}{_separator_hint(table)}")
    if table.empty:
        raise UserError(f"{path}: holds no ratings, only the names of its columns")
    places = PLACE_COLUMNS if "member" in table.columns else ()
    table = table[[column for column in (*COLUMNS, *places) if column in table.columns]].copy()
    nameless = table["image"].isna() | (table["image"].astype(str).str.strip() == "")
    _refuse(table, nameless, "image", "the path or URI of an image")
    table["image"] = table["image"].astype(str)
    mos = _numbers(table["mos"])
    _refuse(table, ~np.isfinite(mos), "mos", "a finite number")
    table["mos"] = mos
    if "count" in table:
        count = _numbers(table["count"]).mask(_empty(table["count"]), 1.0)
        _refuse(table, ~(np.isfinite(count) & (count >= 1) & (count % 1 == 0)), "count", "a whole number from 1 on")
        table["count"] = count
    if "std" in table:
        single = table["count"] == 1 if "count" in table else pd.Series(False, table.index)
        std = _numbers(table["std"]).mask(_empty(table["std"]) & single, 0.0)
        hint = "; only one rating (count 1) may have none" if _empty(table["std"]).any() else ""
        _refuse(table, ~(np.isfinite(std) & (std >= 0)), "std", f"a number from 0 on{hint}")
        table["std"] = std
    if "member" in table:
        table["member"] = table["member"].fillna("").astype(str)
        for column in ("offset", "size"):
            table[column] = _numbers(table[column]) if column in table else np.nan
            whole = table[column].isna() | ((table[column] >= 0) & (table[column] % 1 == 0))
            _refuse(table, ~whole, column, "a whole number from 0 on")
    keys = pd.Series([f"{e.uri}\0{e.member}" for e in rated_images(table, images)], table.index)
    twice = keys[keys.duplicated(keep=False)]
    if len(twice):
        rows = table[keys == twice.iloc[0]]
        spellings = " and ".join(dict.fromkeys(rows["image"]))
        raise UserError(
            f"{rows.index.name} {rows.index[0]} and {rows.index[1]}: rate the same image, {spellings}; "
            f"{counted(twice.nunique(), 'image is', 'images are')} rated more than once. Keep one row each, with the "
            "mean as mos"
        )
    if mos.nunique() < 2:
        raise UserError(f"{path}: all ratings are equal, {mos.iloc[0]:g}; there is nothing to learn from")
    if "std" in table:
        count_or_none = table["count"].to_numpy() if "count" in table else None
        if variance_of_mean(table["std"].to_numpy(), count_or_none).mean() > mos.var(ddof=0):
            raise UserError(
                f"{path}: std tells of more noise (std^2/count on average) than the whole spread of mos; give std on "
                "the scale of mos, and in a column count the number of ratings behind each mos. If that is so, raters "
                "do not agree on what is good; without std all ratings weigh alike"
            )
    return table


def _read_table(path: str, storage_options: Mapping[str, Any] | None) -> pd.DataFrame:
    """Reads a table, its index named and counted as :func:`read_ratings` says; cells of a CSV file are text."""
    try:
        fs, name = open_file_system(absolute(path), for_reading(storage_options or {}, path))
        content: bytes = fs.cat_file(name)
        if content.startswith(b"PAR1"):
            file = pq.ParquetFile(io.BytesIO(content))
            found = [column for column in file.schema_arrow.names if column in COLUMNS + PLACE_COLUMNS]
            # Where a column is missing, all are read, to be named.
            columns = found if {"image", "mos"} <= set(found) else None
            table: pd.DataFrame = file.read(columns).to_pandas().reset_index()
            table.index = pd.RangeIndex(1, len(table) + 1, name=f"{path}, row")
            return table
        if b"\0" in content or content.startswith(b"PK"):
            raise ValueError("its bytes are no text")
        # Names such as 007 and NA stay what they are. Blank lines count, for messages, but are no rows.
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(
                io.BytesIO(content), dtype=str, keep_default_na=False, skip_blank_lines=False, index_col=False
            )
    except pd.errors.ParserWarning as error:
        raise UserError(
            f"{path}, line 2: has more cells than the first line has names; put names that hold commas in quotes"
        ) from error
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (ValueError, OSError, pa.ArrowException) as error:  # pandas' parser errors are ValueErrors
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a readable table; give CSV in UTF-8, or Parquet ({reason})") from error
    table.columns = table.columns.str.strip()
    table.index = pd.RangeIndex(2, len(table) + 2, name=f"{path}, line")
    blank: pd.Series[bool] = table.apply(_empty).all(axis=1)
    return table[~blank]


def _separator_hint(table: pd.DataFrame) -> str:
    for separator, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if any(separator in str(column) for column in table.columns):
            return f". They are separated by {name}; save it with commas, and with points in decimal numbers"
    return ""


def _empty(cells: "pd.Series[Any]") -> "pd.Series[bool]":
    return cells.isna() | (cells.astype(str).str.strip() == "")


def _numbers(cells: "pd.Series[Any]") -> "pd.Series[float]":
    return pd.to_numeric(cells, errors="coerce").astype(np.float64)


def _refuse(table: pd.DataFrame, bad: "pd.Series[bool] | NDArray[np.bool_]", column: str, wanted: str) -> None:
    if bad.any():
        rows = table[bad]
        more = f" ({len(rows)} such rows)" if len(rows) > 1 else ""
        value = str(rows[column].iloc[0])
        raise UserError(f"{rows.index.name} {rows.index[0]}: {column} is {value!r}, not {wanted}{more}")


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
    entries = rated_images(ratings, images)
    uris = [entry.uri for entry in entries]
    if options.address is None:  # the disks of other machines may hold other files
        present = np.array([not is_local(uri) or os.path.lexists(uri_to_path(uri)) for uri in uris])
        if np.mean(~present) > options.max_failed_fraction:
            raise UserError(_failures(ratings, present, [f"{uri}: {Status.MISSING}" for uri in uris]) + FAILED_HINT)
    table, record = score_entries(entries, images, bundle, options)
    scored = np.array([status == Status.SCORED for status in table["status"].to_pylist()])
    if not scored.all():
        rows = table.select(["uri", "status", "error"]).to_pylist()
        message = _failures(ratings, scored, [f"{row['uri']}: {row['status']} ({row['error']})" for row in rows])
        if record.failed_fraction > options.max_failed_fraction:
            raise UserError(message + FAILED_HINT)
        log.warning("%s; they are left out", message)
    kept = table.filter(scored)
    features = np.stack(kept["features"].to_numpy()).astype(np.float32)
    train = train_rows(ratings)
    names = ("score", "score_low", "score_high", "score_lower", "score_upper")
    optional = {name: _column(kept.column(name).to_numpy()) for name in names}
    mos, variance = ratings["mos"].to_numpy()[scored], _variance(ratings, scored)
    train = None if train is None else train[scored]
    return RatedFeatures(
        features, mos, bundle.feature_blocks, bundle.block_variances, variance, train, **optional, start=None
    )


def train_rows(ratings: pd.DataFrame) -> NDArray[np.bool_] | None:
    """Tells which ratings are to be learnt from.

    Args:
        ratings: The N rows of :func:`read_ratings`.

    Returns:
        (N,) bool, true where ``split`` is ``train``; None where the ratings have no split.
    """
    return (ratings["split"] == TRAIN).to_numpy() if "split" in ratings else None


def score_entries(
    entries: Iterable[Entry], source: str, bundle: Bundle, options: ScoringOptions
) -> tuple[pa.Table, RunRecord]:
    """Scores images into memory, with their features.

    Args:
        entries: Few enough that their features fit.
        source: Where they are from, for messages.
        bundle: The model that ``options.model`` names.
        options: How images are scored.

    Returns:
        Their scores, in order, and the record of the run.
    """
    with tempfile.TemporaryDirectory(prefix="grepr-") as temporary:
        output = Folder(temporary)
        manifest = write_manifest(entries, output.child(MANIFEST_FOLDER), source=source, largest_shard=LARGEST_SHARD)
        record = score_manifest(manifest, output, bundle, options, features="float32")
        return read_scores(output), record


def rated_images(ratings: pd.DataFrame, images: str) -> list[Entry]:
    """Gives the images that ratings are about.

    Args:
        ratings: As :func:`read_ratings` gives them.
        images: Folder or URL that their paths start from.

    Returns:
        One for each row, in order.
    """
    uris = [image_uri(images, image) for image in ratings["image"]]
    if "member" not in ratings:
        return [Entry(uri) for uri in uris]
    places = zip(*(ratings[column] for column in PLACE_COLUMNS), strict=True)
    return [
        Entry(uri, member=member, offset=_whole(offset), size=_whole(size)) if member else Entry(uri)
        for uri, (member, offset, size) in zip(uris, places, strict=True)
    ]


def _whole(number: float) -> int | None:
    return None if np.isnan(number) else int(number)


def image_uri(images: str, image: str) -> str:
    """Gives the URI of a rated image, the same for all spellings of its path.

    Args:
        images: Folder or URL that the ratings' paths start from.
        image: Path below it, absolute path or URI.

    Returns:
        Absolute path or URL, as :class:`pipelines.lake.sources.Entry` has it.
    """
    image = with_lower_scheme(image)
    if "://" in image and not is_local(image):
        return image
    if is_file_url(image):
        return path_to_uri(absolute(uri_to_path(image)))
    if image.startswith("/") or is_local(images):
        return path_to_uri(os.path.normpath(os.path.join(absolute(images), uri_to_path(image))))
    scheme, _, root = images.partition("://")
    return f"{scheme}://{posixpath.normpath(posixpath.join(root, image))}"


def _failures(ratings: pd.DataFrame, good: NDArray[np.bool_], reasons: list[str]) -> str:
    bad = np.flatnonzero(~good)
    shown = "; ".join(f"{ratings.index.name} {ratings.index[i]}: {reasons[i]}" for i in bad[:SHOWN])
    more = "; and more" if len(bad) > SHOWN else ""
    return f"{len(bad)} of {counted(len(good), 'rated image')} could not be scored: {shown}{more}"


def _variance(ratings: pd.DataFrame, kept: NDArray[np.bool_]) -> NDArray[np.float64] | None:
    if "std" not in ratings:
        return None
    count = ratings["count"].to_numpy()[kept] if "count" in ratings else None
    return variance_of_mean(ratings["std"].to_numpy()[kept], count)


def _column(values: NDArray[np.float32]) -> NDArray[np.float64] | None:
    return None if np.isnan(values).all() else values.astype(np.float64)
