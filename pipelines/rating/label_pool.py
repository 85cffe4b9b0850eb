"""The photos to choose from, with their features and predicted quality."""

import logging
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from grepr_core.bundles.bundle import Bundle
from grepr_core.decoding.images import Status
from grepr_core.errors import UserError
from grepr_core.storage import Folder, MissingDriver, absolute
from pipelines.lake.manifest import ENTRY_COLUMNS, MANIFEST_FOLDER, Manifest, find_manifest, find_or_make_manifest
from pipelines.lake.sources import Entry
from pipelines.models.rated_features import score_entries
from pipelines.options import LARGEST_SHARD, LabelOptions
from pipelines.running.run_files import RUN_FILE
from pipelines.running.settings import SETTINGS_FILE
from pipelines.scoring.current import current_folder, one_state, output_state
from pipelines.scoring.score_table import SCORES_FOLDER, read_shard
from pipelines.telling.words import counted

log = logging.getLogger(__name__)

#: Of a large lake no more shards are read than these, drawn by their sizes.
MOST_SHARDS = 64
READERS = 8
SCORE_COLUMNS = ["status", "score", "phash", "features"]


@dataclass(frozen=True)
class Pool:
    """Photos to choose from.

    Attributes:
        source: What they were listed from.
        entries: The N photos.
        features: (N, D) float32.
        quality: (N,) float64 predicted quality, None where the model predicts none.
        phashes: N perceptual hashes; None of photos that an earlier version scored.
    """

    source: str
    entries: list[Entry]
    features: NDArray[np.float32]
    quality: NDArray[np.float64] | None
    phashes: list[str | None]


def find_pool(options: LabelOptions, bundle: Bundle) -> Pool:
    """Takes a sample of scored photos with their features; scores it first where they are not there.

    Args:
        options: Of the command.
        bundle: The model that ``options.model`` names.

    Returns:
        The photos that could be scored, at most ``options.pool``.

    Raises:
        UserError: The source cannot be listed or holds no images, scores are not finished, or their manifest is gone.
    """
    try:
        folder = Folder(options.source, options.storage_options)
        finished = folder.exists(RUN_FILE)
    except MissingDriver:  # images can be listed and read without it, but no scores
        return _listed(options, bundle)
    if finished:
        with one_state(folder, output_state(folder)):
            record = folder.read_json(RUN_FILE)
            manifest = _manifest_of_scores(folder, record["options"]["source"], options)
            settings = record["settings"]
            if settings.get("features") and settings["model_id"] == bundle.model_id:
                rows = _sample(manifest, options)
                entries = _take(rows, manifest.read_shard, ENTRY_COLUMNS)
                scores = current_folder(folder, SCORES_FOLDER)
                table = _take(rows, lambda shard: read_shard(scores, shard, SCORE_COLUMNS), SCORE_COLUMNS)
                return _pool(manifest.source, entries, table)
        why = "are of another model" if settings.get("features") else "hold no features"
        log.info("%s: its scores %s, so a sample of its photos is scored with %s", folder.url, why, bundle.name)
        return _scored(manifest, bundle, options)
    if folder.exists(SCORES_FOLDER) and folder.exists(SETTINGS_FILE):
        raise UserError(f"{folder.url}: its scores are not finished; run the command that wrote them again first")
    return _listed(options, bundle)


def _manifest_of_scores(folder: Folder, source: str, options: LabelOptions) -> Manifest:
    """Opens the manifest that scores were made from: the one below them, or the one that their command was given."""
    for url in (current_folder(folder, MANIFEST_FOLDER).url, absolute(source)):
        if (found := find_manifest(url, options.storage_options)) is not None:
            return found
    raise UserError(f"{folder.url}: the manifest it was scored from, {source}, is gone; name a manifest or the photos")


def _listed(options: LabelOptions, bundle: Bundle) -> Pool:
    with tempfile.TemporaryDirectory(prefix="grepr-") as temporary:
        manifest = find_or_make_manifest(
            options.source,
            Folder(temporary),
            all_files=options.all_files,
            column=options.column,
            members=options.members,
            shard_size=LARGEST_SHARD,
            storage_options=options.storage_options,
        )
        return _scored(manifest, bundle, options)


def _scored(manifest: Manifest, bundle: Bundle, options: LabelOptions) -> Pool:
    entries = _take(_sample(manifest, options), manifest.read_shard, ENTRY_COLUMNS)
    photos = counted(manifest.images, "photo")
    log.info("choosing among %d of %s, scored first", len(entries), photos)
    table, _ = score_entries(_entries(entries), manifest.source, bundle, options)
    return _pool(manifest.source, entries, table)


def _sample(manifest: Manifest, options: LabelOptions) -> dict[int, NDArray[np.int64]]:
    """Draws photos at random, reading no more than :data:`MOST_SHARDS` shards: rows by shard."""
    rng = np.random.default_rng(options.seed)
    sizes = np.array(manifest.shard_sizes())
    shards = np.arange(len(sizes))
    if len(shards) > MOST_SHARDS:
        shards = np.sort(rng.choice(shards, MOST_SHARDS, replace=False, p=sizes / sizes.sum()))
    ends = sizes[shards].cumsum()
    drawn = np.sort(rng.choice(ends[-1], min(options.pool, int(ends[-1])), replace=False))
    of_shard = np.searchsorted(ends, drawn, side="right")
    rows = drawn - (ends - sizes[shards])[of_shard]
    return {int(shards[i]): rows[of_shard == i] for i in np.unique(of_shard)}


def _take(rows: dict[int, NDArray[np.int64]], read: Callable[[int], pa.Table], columns: list[str]) -> pa.Table:
    with ThreadPoolExecutor(READERS) as pool:
        parts = pool.map(lambda shard: read(shard).select(columns).take(rows[shard]), rows)
        return pa.concat_tables(parts)


def _entries(table: pa.Table) -> list[Entry]:
    return [Entry(**row) for row in table.select(ENTRY_COLUMNS).to_pylist()]


def _pool(source: str, entries: pa.Table, scores: pa.Table) -> Pool:
    """Joins photos with their scores, which are in the same order."""
    scored = pc.equal(scores["status"], Status.SCORED)
    if failed := len(scores) - pc.sum(scored).as_py():
        photos = counted(len(scores), "photo")
        log.warning("%d of %s could not be scored and will not be chosen", failed, photos)
    kept = scores.filter(scored)
    if not len(kept):
        raise UserError(f"{source}: none of {counted(len(scores), 'photo')} could be scored, so there is none to rate")
    quality = kept["score"].to_numpy().astype(np.float64)
    return Pool(
        source,
        _entries(entries.filter(scored)),
        np.stack(kept["features"].to_numpy()).astype(np.float32),
        None if np.isnan(quality).all() else quality,
        kept["phash"].to_pylist(),
    )
