"""Scores of an earlier run, taken over for the images that have not changed since.

What is held in memory is an index of 24 bytes an image, once a machine; 36 where the two runs are of different sources,
since then the lake may have been moved or copied, and images are found by their paths below the source too. It makes no
difference in which order the two runs list their images.
"""

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from grepr_core.decoding.images import Status
from grepr_core.errors import UserError
from grepr_core.storage import Folder
from pipelines.running.run_files import RUN_FILE
from pipelines.running.settings import AUTO, SOURCE, SOURCE_DIGEST, changes, other_source
from pipelines.running.shard_files import finished_shards
from pipelines.scoring.current import current_folder
from pipelines.scoring.kept_rows import KeptRows
from pipelines.scoring.score_table import SCORES_FOLDER, TRANSIENT, read_shard

log = logging.getLogger(__name__)

#: Settings that tell which images there are, and not how they are scored.
OF_THE_IMAGES = (SOURCE, SOURCE_DIGEST, "images", "manifest")
#: A place is a shard's number times this, plus a row.
MOST_ROWS = 2**24
READERS = 16
#: Columns that say which image a row is of, and where that is.
IDENTITY = ("image_id", "uri", "member", "path")


@dataclass(frozen=True, eq=False)
class OldScores:
    """An index of the scores of a finished run.

    Attributes:
        scores: Folder of its scores.
        keys: (N,) uint64, the first half of each image's id, ascending.
        versions: (N,) uint64, hash of its ETag.
        places: (N,) int64, where its row is.
        paths: (M,) uint64, hashes of the paths, with member, that M of the images have alone, ascending.
        of_paths: (M,) uint32, which of the N each is.
    """

    scores: Folder
    keys: NDArray[np.uint64]
    versions: NDArray[np.uint64]
    places: NDArray[np.int64]
    paths: NDArray[np.uint64]
    of_paths: NDArray[np.uint32]

    @classmethod
    def read(cls, output: Folder, settings: Mapping[str, Any]) -> Self:
        """Indexes the scores of a run. Failures that may have passed, and images without an ETag, are left out.

        Args:
            output: Its folder.
            settings: What the scores of this run depend on.

        Returns:
            The index.
        """
        scores = current_folder(output, SCORES_FOLDER)
        before = output.read_json(RUN_FILE)["settings"] if output.exists(RUN_FILE) else {}
        moved = other_source(before, settings)
        with ThreadPoolExecutor(READERS) as pool:
            shards = sorted(finished_shards(scores))
            parts = list(pool.map(lambda shard: _index_shard(scores, shard, by_path=moved), shards))
        empty = (np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.uint64))
        columns = zip(empty, *(arrays for arrays, _ in parts), strict=True)
        keys, versions, places, paths = (np.concatenate(column) for column in columns)
        if without := sum(count for _, count in parts):
            log.info(
                "%s: an earlier version scored %d of its images, without the phash that 'grepr filter --distinct' "
                "compares; rows are taken over as they are, and a new output that takes none over has it throughout",
                output.url,
                without,
            )
        order = np.argsort(keys)
        paths = paths[order] if moved else paths  # none
        known = np.flatnonzero(paths)
        # A path that several images have tells none of them.
        alone, first, times = np.unique(paths[known], return_index=True, return_counts=True)
        of_paths = known[first[times == 1]].astype(np.uint32)
        return cls(scores, keys[order], versions[order], places[order], alone[times == 1], of_paths)

    def unchanged(self, images: pa.Table) -> KeptRows:
        """Finds the rows of those images of a shard that have the same ETag as then.

        Args:
            images: The shard, as the manifest has it.

        Returns:
            Their rows, with the identity and the place that the images have now.
        """
        if len(self.keys) == 0:
            return KeptRows.none()
        found, there = _find(self.keys, id_keys(images["image_id"]))
        if len(self.paths):
            hashes = _path_hashes(images)
            by_path, known = _find(self.paths, hashes)
            found = np.where(there, found, self.of_paths[by_path])
            there |= known & (hashes != 0)
        versions, known = _versions(images["etag"])
        rows = np.flatnonzero(there & known & (self.versions[found] == versions))
        places = self.places[found[rows]]
        tables, positions = [], []
        for shard in np.unique(places // MOST_ROWS).tolist():
            of_shard = rows[places // MOST_ROWS == shard]
            table = _read_shard(self.scores, shard).take(places[places // MOST_ROWS == shard] % MOST_ROWS)
            now = images.take(of_shard)
            # Half an id is as good as unique, and this makes sure.
            same = np.flatnonzero(_equal(table, now, "image_id") | (_equal(table, now, "path", "member")))
            for name in IDENTITY:
                place = table.column_names.index(name)
                table = table.set_column(place, table.schema.field(name), now[name])
            tables.append(table.take(same))
            positions.append(of_shard[same])
        return KeptRows(np.concatenate(positions), pa.concat_tables(tables)) if tables else KeptRows.none()


def _find(keys: NDArray[np.uint64], wanted: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Gives where in the ascending keys the wanted ones are, and which of them are there."""
    found = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return found, keys[found] == wanted


def _equal(one: pa.Table, other: pa.Table, *columns: str) -> NDArray[np.bool_]:
    """Tells which rows have the same values; those without the first of them have not."""
    equal = np.array([value is not None for value in one[columns[0]].to_pylist()], bool)
    for name in columns:
        equal &= np.array(one[name].to_pylist(), object) == np.array(other[name].to_pylist(), object)
    return equal


def check_old_settings(output: Folder, settings: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Makes sure that scores of an earlier run can be taken over.

    Args:
        output: Its folder.
        settings: What the scores of this run depend on.
        defaults: What settings are that an earlier version did not know.

    Raises:
        UserError: It is not finished, or its scores were made otherwise.
    """
    if not output.exists(RUN_FILE):
        raise UserError(
            f"{output.url}: no finished run there to take rows over from; run its command again to finish it"
        )
    before = output.read_json(RUN_FILE)["settings"]
    same = {key: value for key, value in settings.items() if key not in OF_THE_IMAGES}
    # Whether a row is of one arithmetic or the other, an earlier version has not recorded.
    if before.get("precision") == AUTO:
        log.info("%s: is of an earlier version, whose rows may be fp32 or bf16; both are taken over", output.url)
        del same["precision"]
    if changed := changes(before, same, defaults):
        raise UserError(
            f"{output.url}: its rows cannot be taken over, since they were made otherwise ({changed}); use the model "
            "and the options they were made with, or begin an output that takes nothing over"
        )


def _index_shard(
    scores: Folder, shard: int, *, by_path: bool
) -> tuple[tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64], NDArray[np.uint64]], int]:
    """Indexes a shard; gives besides how many of its scored rows have no perceptual hash."""
    table = read_shard(scores, shard, ["image_id", "etag", "status", "phash", *(("path", "member") if by_path else ())])
    versions, known = _versions(table["etag"])
    statuses = table["status"].to_pylist()
    final = [status not in TRANSIENT for status in statuses]
    # A row without a score has none either.
    without_hash = statuses.count(Status.SCORED) - (len(table) - table["phash"].null_count)
    rows = np.flatnonzero(known & final)
    paths = _path_hashes(table)[rows] if by_path else np.empty(0, np.uint64)
    return (id_keys(table["image_id"])[rows], versions[rows], shard * MOST_ROWS + rows, paths), without_hash


def _path_hashes(images: pa.Table) -> NDArray[np.uint64]:
    """Gives the hashes of paths with members; 0 where there is no path."""
    paths, members = images["path"].to_pylist(), images["member"].to_pylist()
    keys = np.array(["" if p is None else f"{p}\0{m or ''}" for p, m in zip(paths, members, strict=True)], object)
    hashes: NDArray[np.uint64] = np.where(keys == "", 0, _hashes(keys))
    return hashes


def id_keys(ids: pa.ChunkedArray) -> NDArray[np.uint64]:
    """Gives the first half of each image's id as a number, which sorts as the id does."""
    halves = np.frombuffer(bytes.fromhex("".join(ids.to_pylist())), ">u8")
    return halves[::2].astype(np.uint64)


def _versions(etags: pa.ChunkedArray) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    values = np.array(etags.to_pylist(), dtype=object)
    known = np.array([value is not None for value in values], bool)
    hashes = np.zeros(len(values), np.uint64)
    hashes[known] = _hashes(values[known])
    return hashes, known


def _hashes(values: NDArray[np.object_]) -> NDArray[np.uint64]:
    # Only who takes over old scores is to wait for it.
    from pandas.util import hash_array  # noqa: PLC0415

    return hash_array(values, categorize=False)


@lru_cache(maxsize=8)
def _read_shard(scores: Folder, shard: int) -> pa.Table:
    return read_shard(scores, shard)
