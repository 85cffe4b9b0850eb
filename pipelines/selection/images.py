"""Writing the images of a selection, by shard, in the processes of a pool on Ray Data."""

import io
import posixpath
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from grepr_core.decoding.images import Failure, Limits
from grepr_core.decoding.kinds import signature
from grepr_core.storage import Folder
from pipelines.lake.sources import IMAGE_SUFFIXES, Entry
from pipelines.running.shard_files import add_footer, read_footer, shard_name
from pipelines.running.shard_worker import ShardWorker
from pipelines.scoring.score_table import SCORES_FOLDER, read_shard
from pipelines.selection.rows import FAILURE_SCHEMA, KNOWN_FOLDER

#: Below a selection's work folder: the images of each finished shard that could not be written.
WRITTEN_FOLDER = "written"
_SUFFIXES = {"JPEG": ".jpg", "JPEG2000": ".jp2", "HEIF": ".heic"}


@dataclass(frozen=True)
class ImagesJob:
    """All that a process needs to write the images of shards.

    Attributes:
        output: Folder of the selection.
        work: Folder of what is known of its shards.
        root: Folder that all URIs are below.
        timeout: Seconds that reading one image may take.
        storage_options: For fsspec, of the images.
    """

    output: Folder
    work: Folder
    root: str
    timeout: float
    storage_options: Mapping[str, Any]


@dataclass(frozen=True)
class WrittenShard:
    """What became of the images of a shard.

    Attributes:
        images: Number of those written.
        failed: Number of those not written.
        changed: Number of those written that are not what was scored any more.
        bytes: Encoded size of those written.
    """

    images: int = 0
    failed: int = 0
    changed: int = 0
    bytes: int = 0

    def __add__(self, other: "WrittenShard") -> "WrittenShard":
        """Adds up two sets of shards."""
        return WrittenShard(
            self.images + other.images,
            self.failed + other.failed,
            self.changed + other.changed,
            self.bytes + other.bytes,
        )


@dataclass
class Outcome:
    """Collects what becomes of the images of a shard while they are written."""

    images: int = 0
    changed: int = 0
    bytes: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)

    def written(self, size: int, *, changed: bool) -> None:
        """Counts an image of so many bytes."""
        self.images += 1
        self.changed += changed
        self.bytes += size

    def failed(self, row: Mapping[str, Any], failure: Failure) -> None:
        """Lists an image that could not be written."""
        known = {name: row[name] for name in ("image_id", "uri", "member")}
        self.failures.append({**known, "status": str(failure.status), "error": failure.error})


@dataclass(frozen=True)
class SelectedImage:
    """An image to be written.

    Attributes:
        row: Its scores, without features.
        entry: Where it is.
        known: What else is known of it: :data:`.criteria.PLACES` and :data:`.rows.KEY`, or some of them.
    """

    row: dict[str, Any]
    entry: Entry
    known: Mapping[str, Any]


class ImagesWriter(ShardWorker):
    """Reads the images of a shard, and writes them in some form.

    A shard is finished when its list of failures is there.
    """

    def __init__(self, job: ImagesJob) -> None:
        """Prepares.

        Args:
            job: What to do.
        """
        self.job = job
        self._written = job.work.child(WRITTEN_FOLDER)

    def process(self, shard: int, *, last_try: bool = False) -> dict[str, Any]:
        """Writes the images of a shard and returns its :class:`WrittenShard`."""
        if self._written.exists(shard_name(shard)):
            # The process died after it wrote the file and before Ray knew.
            found: dict[str, Any] = read_footer(self._written, shard)
            return found
        table = read_shard(self.job.output.child(SCORES_FOLDER), shard)
        rows = table.drop_columns([name for name in ("features",) if name in table.column_names]).to_pylist()
        outcome = Outcome()
        self.write(shard, self._images(shard, rows), outcome)
        summary = asdict(WrittenShard(outcome.images, len(outcome.failures), outcome.changed, outcome.bytes))
        buffer = io.BytesIO()
        with pq.ParquetWriter(buffer, FAILURE_SCHEMA) as writer:
            writer.write_table(pa.Table.from_pylist(outcome.failures, schema=FAILURE_SCHEMA))
            add_footer(writer, summary)
        self._written.write(shard_name(shard), buffer.getvalue())
        return summary

    @abstractmethod
    def write(self, shard: int, images: Sequence[SelectedImage], outcome: Outcome) -> None:
        """Writes the images of a shard.

        Args:
            shard: Its number.
            images: Its images.
            outcome: To be told of each.
        """

    def _images(self, shard: int, rows: Sequence[dict[str, Any]]) -> list[SelectedImage]:
        known: list[dict[str, Any]] = [{}] * len(rows)
        folder = self.job.work.child(KNOWN_FOLDER)
        if folder.exists(shard_name(shard)):
            known = pq.read_table(io.BytesIO(folder.read(shard_name(shard)))).to_pylist()
        return [
            SelectedImage(row, Entry(row["uri"], row["bytes"], row["etag"], row["member"], place.get("offset")), place)
            for row, place in zip(rows, known, strict=True)
        ]


def limits_of(entries: Iterable[Entry]) -> Limits:
    """Gives limits that no image of a shard exceeds unless it has grown since it was scored."""
    return Limits(max_bytes=max([Limits().max_bytes, *(entry.size or 0 for entry in entries)]))


def has_changed(entry: Entry, etag: str | None) -> bool:
    """Tells whether what was read is known to be another version than what was scored."""
    return None not in (entry.etag, etag) and entry.etag != etag


def suffix(name: str, content: bytes) -> str:
    """Gives the suffix of an image's name, in lower case, or else one for its content."""
    own = posixpath.splitext(name)[1].lower()
    if own in IMAGE_SUFFIXES:
        return own
    kind = signature(content)
    if not kind:
        return ".bin"  # scored once, and changed since
    return _SUFFIXES.get(kind, f".{kind.lower()}")
