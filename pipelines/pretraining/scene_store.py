"""Prepared scenes on disk, made once and read at random by training.

A folder with one Parquet file a shard, in which every row group is one scene, so that one request reads one scene from
a local disk or an object store; and ``scenes.json``, written last, which tells how many scenes each file holds. Pixels
are stored as they are: to unpack them costs a fraction of decoding PNG.
"""

import bisect
import io
import itertools
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from grepr_core.pretraining.scenes import Scene, SceneRecipe
from grepr_core.storage import Folder, from_record
from pipelines.running.shard_files import add_footer, read_footer, shard_name
from pipelines.stores.row_groups import read_file_metadata, read_row_group

FORMAT_VERSION = 1
INDEX_FILE = "scenes.json"

SCHEMA = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("kinds", pa.list_(pa.string()), nullable=False),
        pa.field("levels", pa.list_(pa.int32()), nullable=False),
        pa.field("similarity", pa.list_(pa.float32()), nullable=False),
        pa.field("versions", pa.large_binary(), nullable=False),
        pa.field("pseudo_label", pa.float32()),
    ]
)


@dataclass(frozen=True)
class ScenesSummary:
    """What became of a shard's images.

    Attributes:
        shard: Its number.
        scenes: Scenes made.
        failures: URI of each image of which none could be made, and the reason.
    """

    shard: int
    scenes: int
    failures: dict[str, str]


def write_scenes(
    folder: Folder, shard: int, scenes: Iterable[tuple[str, Scene]], failures: dict[str, str]
) -> ScenesSummary:
    """Writes the scenes of a shard, whole or not at all.

    Args:
        folder: Of the scenes.
        shard: Its number.
        scenes: URI and scene; taken one at a time, so that only their compressed pixels are held.
        failures: Images without a scene, and why; may grow while ``scenes`` is iterated.

    Returns:
        What became of the images.
    """
    buffer = io.BytesIO()
    count = 0
    # Level 1 unpacks as fast as any, and real photographs shrink little further.
    with pq.ParquetWriter(buffer, SCHEMA, compression="zstd", compression_level=1, use_dictionary=False) as writer:
        for uri, scene in scenes:
            writer.write_table(pa.Table.from_pylist([_row(uri, scene)], schema=SCHEMA))
            count += 1
        summary = ScenesSummary(shard, count, failures)
        add_footer(writer, asdict(summary))
    folder.write(shard_name(shard), buffer.getvalue())
    return summary


def _row(uri: str, scene: Scene) -> dict[str, object]:
    _, height, width, _ = scene.versions.shape
    return {
        "uri": uri,
        "height": height,
        "width": width,
        "kinds": scene.kinds,
        "levels": scene.levels,
        "similarity": scene.similarity.ravel(),
        "versions": scene.versions.tobytes(),
        "pseudo_label": scene.pseudo_label,
    }


def read_summary(folder: Folder, shard: int) -> ScenesSummary:
    """Reads what became of a finished shard's images."""
    return from_record(ScenesSummary, read_footer(folder, shard))


def write_index(folder: Folder, recipe: SceneRecipe, source: str, summaries: Iterable[ScenesSummary]) -> None:
    """Completes a store.

    Args:
        folder: Of the scenes.
        recipe: Of all scenes.
        source: What the photographs are.
        summaries: Of all shards.
    """
    ordered = sorted(summaries, key=lambda summary: summary.shard)
    record = {
        "format_version": FORMAT_VERSION,
        "source": source,
        "recipe": asdict(recipe),
        "scenes": [[summary.shard, summary.scenes] for summary in ordered],
        "failed": sum(len(summary.failures) for summary in ordered),
    }
    folder.write_json(INDEX_FILE, record)


class SceneStore:
    """Prepared scenes, by number. Pickles by address.

    Attributes:
        folder: Where they are.
        recipe: How they were made.
        source: What the photographs are.
    """

    def __init__(self, folder: Folder) -> None:
        """Opens a store that is complete.

        Args:
            folder: Of the scenes.
        """
        index = folder.read_json(INDEX_FILE)
        self.folder = folder
        self.recipe = from_record(SceneRecipe, index["recipe"])
        self.source: str = index["source"]
        self._shards = [shard for shard, scenes in index["scenes"] if scenes]
        self._ends = list(itertools.accumulate(scenes for _, scenes in index["scenes"] if scenes))

    def __len__(self) -> int:
        """Number of scenes."""
        return self._ends[-1] if self._ends else 0

    def __reduce__(self) -> tuple[type["SceneStore"], tuple[Folder]]:
        """Pickles by address."""
        return type(self), (self.folder,)

    def read(self, index: int) -> Scene:
        """Reads a scene.

        Args:
            index: Its number, from 0.

        Returns:
            The scene.
        """
        position = bisect.bisect_right(self._ends, index)
        first = self._ends[position - 1] if position else 0
        name = shard_name(self._shards[position])
        row = read_row_group(self.folder, name, index - first, _metadata(self.folder, name)).to_pylist()[0]
        kinds = tuple(row["kinds"])
        versions = np.frombuffer(row["versions"], np.uint8).reshape(len(kinds), row["height"], row["width"], 3)
        similarity = np.array(row["similarity"], np.float32).reshape(len(kinds), len(kinds))
        # Stores of before hold no pseudo-labels.
        return Scene(versions, similarity, kinds, tuple(row["levels"]), row.get("pseudo_label"))


_metadata = lru_cache(maxsize=256)(read_file_metadata)
