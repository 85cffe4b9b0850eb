"""The scores on disk: one Parquet file a shard, of the same schema whatever it holds, and the record of the run."""

import io
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from grepr_core.decoding.images import Status
from grepr_core.reasons.probes import NOT_PHOTO, SEVERITIES
from grepr_core.scoring.image_score import ImageScore
from grepr_core.storage import Folder, from_record
from pipelines.options import FeaturesDtype
from pipelines.running.shard_files import (
    BrokenShard,
    add_footer,
    finished_shards,
    read_footer,
    read_footers,
    shard_name,
)
from pipelines.scoring.current import current_folder
from pipelines.stores.row_groups import fill_columns

SCORES_FOLDER = "scores"
#: Failures whose reason may have passed by the time the images are tried again.
TRANSIENT = frozenset({Status.MISSING, Status.DENIED, Status.TIMEOUT, Status.CRASHED})


def schema(feature_size: int | None = None, features_dtype: FeaturesDtype = "float16") -> pa.Schema:
    """Gives the schema of every scores file.

    Args:
        feature_size: Length of the feature vectors, where they are written.
        features_dtype: What they are written as.

    Returns:
        The schema.
    """
    fields = [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("member", pa.string()),
        pa.field("path", pa.string()),
        pa.field("etag", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("score", pa.float32()),
        pa.field("score_low", pa.float32()),
        pa.field("score_high", pa.float32()),
        pa.field("score_lower", pa.float32()),
        pa.field("score_upper", pa.float32()),
        *(pa.field(name, pa.float32()) for name in SEVERITIES),
        pa.field(NOT_PHOTO, pa.bool_()),
        pa.field("reason", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("scored_pixels", pa.int64()),
        pa.field("bytes", pa.int64()),
        # Hexadecimal, since few readers keep all bits of a nullable integer of 64: pandas makes it floating point.
        pa.field("phash", pa.string()),
        pa.field("model_id", pa.string(), nullable=False),
    ]
    if feature_size is not None:
        fields.insert(-1, pa.field("features", pa.list_(pa.type_for_alias(features_dtype), feature_size)))
    return pa.schema(fields)


@dataclass(frozen=True)
class ShardSummary:
    """What is known of a finished shard without reading its rows.

    Attributes:
        images: Number of rows.
        counts: Number of rows by status.
        seconds: Time spent by step, in seconds of one process.
        began: When the first of its images was read, in seconds since 1970.
        ended: When the last of its rows was ready to be written.
        scored_here: Number of rows that were not taken over from before.
        changed: Number of images that were read with another ETag than the manifest has.
        reasons: Number of images by what ails them most, where anything does.
    """

    images: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    began: float = math.inf
    ended: float = -math.inf
    scored_here: int = 0
    changed: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: "ShardSummary") -> "ShardSummary":
        """Joins what is known of two sets of shards."""
        return ShardSummary(
            self.images + other.images,
            dict(Counter(self.counts) + Counter(other.counts)),
            {k: self.seconds.get(k, 0) + other.seconds.get(k, 0) for k in {**self.seconds, **other.seconds}},
            min(self.began, other.began),
            max(self.ended, other.ended),
            self.scored_here + other.scored_here,
            self.changed + other.changed,
            dict(Counter(self.reasons) + Counter(other.reasons)),
        )


def make_table(
    images: pa.Table,
    scores: "Sequence[ImageScore]",
    *,
    model_id: str,
    feature_size: int | None = None,
    features_dtype: FeaturesDtype = "float16",
) -> pa.Table:
    """Joins a shard's images with their scores.

    Args:
        images: The shard, as the manifest has it.
        scores: One for each of its rows, in order.
        model_id: Of the bundle.
        feature_size: Length of the feature vectors, where they are written.
        features_dtype: What they are written as.

    Returns:
        A table with :func:`schema`.
    """
    columns: dict[str, Any] = {"model_id": [model_id] * len(scores)}
    for name in SEVERITIES:
        columns[name] = [None if score.severities is None else score.severities[name] for score in scores]
    if feature_size is not None:
        columns["features"] = _features_array([score.features for score in scores], feature_size, features_dtype)
    wanted = schema(feature_size, features_dtype)
    for name in wanted.names:
        if name in images.column_names:
            columns[name] = images[name]
        elif name not in columns:
            columns[name] = [getattr(score, name) for score in scores]
    return pa.table({name: columns[name] for name in wanted.names}, schema=wanted)


def _features_array(features: Sequence[np.ndarray | None], size: int, dtype: FeaturesDtype) -> pa.Array:
    values = np.zeros((len(features), size), dtype)
    missing = np.array([f is None for f in features], bool)
    for row, vector in zip(values, features, strict=True):
        row[:] = 0 if vector is None else vector
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), size, mask=pa.array(missing))


def count_statuses(table: pa.Table) -> dict[str, int]:
    """Counts rows by status."""
    return dict(Counter(table["status"].to_pylist()))


def count_reasons(table: pa.Table) -> dict[str, int]:
    """Counts rows by what ails them most, where anything does."""
    return dict(Counter(table["reason"].drop_null().to_pylist()))


def count_changed(images: pa.Table, table: pa.Table) -> int:
    """Counts the images that changed between listing and reading.

    Args:
        images: The shard, as the manifest has it.
        table: Its scores.

    Returns:
        Number of rows whose two ETags are known and differ.
    """
    return pc.sum(pc.not_equal(images["etag"], table["etag"])).as_py() or 0


def write_shard(folder: Folder, shard: int, table: pa.Table, summary: ShardSummary) -> None:
    """Writes a shard's scores, whole or not at all.

    Args:
        folder: Of the scores.
        shard: Its number.
        table: With :func:`schema`.
        summary: Is kept in the file's footer.
    """
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, table.schema, compression="zstd") as writer:
        writer.write_table(table)
        add_footer(writer, asdict(summary))
    folder.write(shard_name(shard), buffer.getvalue())


def read_summary(folder: Folder, shard: int) -> ShardSummary:
    """Reads the summary in the footer of a finished shard's file."""
    return from_record(ShardSummary, read_footer(folder, shard))


def read_summaries(folder: Folder, shards: Iterable[int]) -> Iterator[tuple[int, ShardSummary]]:
    """Reads the summaries of finished shards, many at a time; gives each with its shard's number, in order."""
    for shard, footer in read_footers(folder, shards):
        yield shard, from_record(ShardSummary, footer)


def read_shard(folder: Folder, shard: int, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads the scores of a finished shard.

    Args:
        folder: Of the scores.
        shard: Its number.
        columns: Those wanted; all by default.

    Returns:
        The rows. A column of :func:`schema` that an earlier version did not write is null.

    Raises:
        BrokenShard: The file is no Parquet file, or not a whole one.
    """
    table = read_table(folder, shard, columns)
    features = table.schema.field("features").type if "features" in table.column_names else None
    if features is None:
        known = schema()
    else:
        known = schema(features.list_size, "float32" if features.value_type == pa.float32() else "float16")
    return fill_columns(table, known if columns is None else pa.schema([f for f in known if f.name in columns]))


def read_table(folder: Folder, shard: int, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads a table that is kept by shards, of whatever columns; otherwise like :func:`read_shard`."""
    with folder.fs.open(folder.path(shard_name(shard)), "rb") as file:
        try:
            # Without the footer's summary, so that tables of several shards have equal schemas.
            # By one thread, since a shard is small and callers read many at a time.
            return pq.ParquetFile(file).read(columns, use_threads=False).replace_schema_metadata(None)
        except pa.ArrowInvalid as error:
            raise BrokenShard(folder, shard, error) from error


def read_scores(output: Folder, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads all scores.

    Args:
        output: Folder that ``grepr score`` wrote to.
        columns: Those wanted; all by default.

    Returns:
        The rows in the order of the manifest.
    """
    folder = current_folder(output, SCORES_FOLDER)
    return pa.concat_tables(read_shard(folder, shard, columns) for shard in sorted(finished_shards(folder)))
