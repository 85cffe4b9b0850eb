"""Scores of an earlier run, taken over for the images that have not changed since.

What is held in memory is an index of 24 bytes an image, once a machine. It makes no difference in which order the two
runs list their images.
"""

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from grepr_core.errors import UserError
from grepr_core.storage import Folder
from pipelines.running.run_files import RUN_FILE
from pipelines.running.settings import AUTO, SOURCE, SOURCE_DIGEST, changes
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


@dataclass(frozen=True, eq=False)
class OldScores:
    """An index of the scores of a finished run.

    Attributes:
        scores: Folder of its scores.
        keys: (N,) uint64, the first half of each image's id, ascending.
        versions: (N,) uint64, hash of its ETag.
        places: (N,) int64, where its row is.
    """

    scores: Folder
    keys: NDArray[np.uint64]
    versions: NDArray[np.uint64]
    places: NDArray[np.int64]

    @classmethod
    def read(cls, output: Folder) -> Self:
        """Indexes the scores of a run. Failures that may have passed, and images without an ETag, are left out.

        Args:
            output: Its folder.

        Returns:
            The index.
        """
        scores = current_folder(output, SCORES_FOLDER)
        with ThreadPoolExecutor(READERS) as pool:
            shards = sorted(finished_shards(scores))
            parts = list(pool.map(lambda shard: _index_shard(scores, shard), shards))
        empty = (np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty(0, np.int64))
        keys, versions, places = (np.concatenate(columns) for columns in zip(empty, *parts, strict=True))
        order = np.argsort(keys)
        return cls(scores, keys[order], versions[order], places[order])

    def unchanged(self, images: pa.Table) -> KeptRows:
        """Finds the rows of those images of a shard that have the same ETag as then.

        Args:
            images: The shard, as the manifest has it.

        Returns:
            Their rows.
        """
        if len(self.keys) == 0:
            return KeptRows.none()
        keys = id_keys(images["image_id"])
        found = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        versions, known = _versions(images["etag"])
        rows = np.flatnonzero(known & (self.keys[found] == keys) & (self.versions[found] == versions))
        places = self.places[found[rows]]
        tables, positions = [], []
        for shard in np.unique(places // MOST_ROWS).tolist():
            of_shard = rows[places // MOST_ROWS == shard]
            table = _read_shard(self.scores, shard).take(places[places // MOST_ROWS == shard] % MOST_ROWS)
            # Half an id is as good as unique, and this makes sure.
            same = np.flatnonzero(np.array(table["image_id"]) == np.array(images["image_id"].take(of_shard)))
            tables.append(table.take(same))
            positions.append(of_shard[same])
        return KeptRows(np.concatenate(positions), pa.concat_tables(tables)) if tables else KeptRows.none()


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
            f"{output.url}: its rows cannot be taken over, since they were made otherwise ({changed}); use the options "
            "they were made with, or begin an output that takes nothing over"
        )


def _index_shard(scores: Folder, shard: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64]]:
    table = read_shard(scores, shard, ["image_id", "etag", "status"])
    versions, known = _versions(table["etag"])
    final = [status not in TRANSIENT for status in table["status"].to_pylist()]
    rows = np.flatnonzero(known & final)
    return id_keys(table["image_id"])[rows], versions[rows], shard * MOST_ROWS + rows


def id_keys(ids: pa.ChunkedArray) -> NDArray[np.uint64]:
    """Gives the first half of each image's id as a number, which sorts as the id does."""
    halves = np.frombuffer(bytes.fromhex("".join(ids.to_pylist())), ">u8")
    return halves[::2].astype(np.uint64)


def _versions(etags: pa.ChunkedArray) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    values = np.array(etags.to_pylist(), dtype=object)
    known = np.array([value is not None for value in values], bool)
    hashes = np.zeros(len(values), np.uint64)
    hashes[known] = pd.util.hash_array(values[known], categorize=False)
    return hashes, known


@lru_cache(maxsize=8)
def _read_shard(scores: Folder, shard: int) -> pa.Table:
    return read_shard(scores, shard)
