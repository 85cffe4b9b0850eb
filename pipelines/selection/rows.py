"""The rows of scores on their way from one folder to another: all to be chosen from, then those chosen."""

import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from grepr_core.decoding.images import Status
from grepr_core.storage import Folder
from pipelines.running.shard_files import read_ahead, readers, shard_name
from pipelines.scoring.score_table import SCORES_FOLDER, ShardSummary, count_reasons, read_shard, write_shard
from pipelines.selection.criteria import PLACES, Criteria, Picked, with_places
from pipelines.selection.database import CHUNK_ROWS
from pipelines.selection.names import common_root, first_and_last
from pipelines.telling.progress import Progress

FAILED_FILE = "failed.parquet"
#: Of images without a score, and of those that could not be written.
FAILURE_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("member", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
    ]
)
#: Below a selection's work folder, what else is known of its images: as many rows as the shard of that number.
KNOWN_FOLDER = "offsets"
#: Column there of what the images are called in tars.
KEY = "key"


@dataclass(frozen=True)
class Contents:
    """What a folder of scores holds.

    Attributes:
        counts: Number of rows by status.
        root: Folder that all URIs are below, with a slash at its end, or empty.
        reasons: Number of rows by what ails them most, where anything does.
    """

    counts: dict[str, int]
    root: str
    reasons: dict[str, int]


def read_rows(scores: Folder, shards: Sequence[int], criteria: Criteria, output: Folder, *, total: int) -> Contents:
    """Hands all scored rows to the criteria, and lists those that failed in ``failed.parquet``.

    Args:
        scores: Folder of the shards.
        shards: Their numbers, in order; one at least.
        criteria: What selects among the rows.
        output: Where to the list goes.
        total: Number of rows; 0 where it is not known.

    Returns:
        What there is.
    """
    first = read_shard(scores, shards[0]).slice(0, 0)
    columns = [*dict.fromkeys([*FAILURE_SCHEMA.names, "reason", *criteria.columns(first.schema)])]
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    ends: list[str] = []
    progress = Progress(total, what="reading")

    def read(shard: int) -> pa.Table:
        return with_places(read_shard(scores, shard, columns), shard)

    def failures() -> Iterator[pa.Table]:
        for table in _cut(read_ahead(read, shards, threads=readers(scores)), CHUNK_ROWS):
            scored = pc.equal(table["status"], Status.SCORED)
            for value in pc.value_counts(table["status"]).to_pylist():
                counts[value["values"]] += value["counts"]
            reasons.update(count_reasons(table))
            ends[:] = first_and_last([*ends, *first_and_last(table["uri"])])
            criteria.add_scores(table, scored)
            progress.update(len(table), 0)
            yield table.select(FAILURE_SCHEMA.names).filter(pc.invert(scored))

    try:
        criteria.add_scores(with_places(first.select(columns), 0), pa.chunked_array([], pa.bool_()))
        criteria.check()
        write_failures(output, FAILED_FILE, failures())
    finally:
        progress.close()
    return Contents(dict(counts), common_root(*ends) if ends else "", dict(reasons))


def write_failures(folder: Folder, name: str, tables: Iterable[pa.Table]) -> None:
    """Writes a list of failures, as a stream.

    Args:
        folder: Where to.
        name: Of the file.
        tables: With the columns of :data:`FAILURE_SCHEMA`.
    """
    with folder.create(name) as file, pq.ParquetWriter(file, FAILURE_SCHEMA, compression="zstd") as writer:
        for table in _cut(tables, CHUNK_ROWS):
            writer.write_table(table.cast(FAILURE_SCHEMA))


def write_rows(
    scores: Folder,
    picked: Iterable[Picked],
    output: Folder,
    work: Folder,
    *,
    first: int,
    total: int,
    shard_size: int,
    name: Callable[[pa.Table], pa.Array | None],
) -> tuple[int, ShardSummary]:
    """Writes the rows of a selection, in shards of the same schema, some of them in memory at a time.

    Args:
        scores: Folder of the shards that they are in.
        picked: Which rows.
        output: Folder of the selection.
        work: Where to goes what is known of their archives and names.
        first: Number of one of those shards, for its schema.
        total: Number of rows.
        shard_size: Rows in a shard.
        name: Is called with the rows of each, and :data:`.criteria.PLACES` where any are in archives, before they are
            written; may give what they are called.

    Returns:
        Number of shards, 1 of no rows where nothing is selected, so that there is a schema; and what is in them.
    """
    folder, known = output.child(SCORES_FOLDER), work.child(KNOWN_FOLDER)

    def read(part: Picked) -> pa.Table:
        table = read_shard(scores, part.shard).take(part.rows)
        if part.places is not None:
            for column in PLACES:
                table = table.append_column(column, part.places[column])
        return table

    def numbered() -> Iterator[tuple[int, pa.Table]]:
        number = -1
        for number, table in enumerate(_cut(read_ahead(read, picked, threads=readers(scores)), shard_size)):
            keys = name(table)
            yield number, table if keys is None else table.append_column(KEY, keys)
        if number < 0:
            yield 0, read_shard(scores, first).slice(0, 0)

    def write(shard: tuple[int, pa.Table]) -> ShardSummary:
        number, table = shard
        if others := [column for column in (*PLACES, KEY) if column in table.column_names]:
            buffer = io.BytesIO()
            pq.write_table(table.select(others), buffer)
            known.write(shard_name(number), buffer.getvalue())
            table = table.drop_columns(others)
        counts = {Status.SCORED.value: len(table)} if len(table) else {}
        summary = ShardSummary(len(table), counts, reasons=count_reasons(table))
        write_shard(folder, number, table, summary)
        return summary

    shards, written = 0, ShardSummary()
    progress = Progress(total, what="selecting")
    try:
        for summary in read_ahead(write, numbered(), threads=readers(output)):
            shards += 1
            written += summary
            progress.update(summary.images, 0)
    finally:
        progress.close()
    return shards, written


def _cut(tables: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """Cuts tables anew, into ones of so many rows but for the last."""
    held: list[pa.Table] = []
    rows = 0
    for table in tables:
        held.append(table)
        rows += len(table)
        if rows >= size:
            whole = pa.concat_tables(held)
            for begin in range(0, rows - size + 1, size):
                yield whole.slice(begin, size)
            # Copied, or the little that is left would keep all of it in memory.
            rest = rows % size
            held, rows = [whole.slice(rows - rest).take(np.arange(rest))] if rest else [], rest
    if rows:
        yield pa.concat_tables(held)
