"""Scores in a DuckDB database on the local disk, so that any storage is read once and memory stays bounded."""

import contextlib
import itertools
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import pyarrow as pa

from grepr_core.reasons.probes import SEVERITIES
from grepr_core.storage import Folder
from pipelines.running.shard_files import BrokenShard, finished_shards
from pipelines.scoring.current import current_folder, no_scores
from pipelines.scoring.score_table import SCORES_FOLDER, read_shard, schema

#: What the statistics look at; features, the bulk where there are any, stay unread.
COLUMNS = [name for name in schema().names if name not in ("score_low", "score_high", "phash", *SEVERITIES)]
#: Shards read at a time; of each the rows are held that DuckDB has not taken yet.
READERS = 8
#: Beyond, DuckDB keeps intermediate results on the disk.
MEMORY_LIMIT = "512MB"


@contextlib.contextmanager
def open_database() -> Iterator[duckdb.DuckDBPyConnection]:
    """Opens an empty database in a temporary folder, which is deleted at the end."""
    with TemporaryDirectory(prefix="grepr-report-") as folder:
        connection = duckdb.connect(
            Path(folder, "scores.duckdb"),
            config={
                "memory_limit": MEMORY_LIMIT,
                "temp_directory": folder,
                # The order of rows carries no meaning here, and keeping it costs memory.
                "preserve_insertion_order": False,
                # Nothing is ever fetched: what the queries need is built in.
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
            },
        )
        with contextlib.closing(connection):
            # A sixth of a report's time would go into making names and ids smaller in a file that is soon deleted. As a
            # part of the configuration above it would be passed over.
            connection.execute("SET disabled_compression_methods = 'fsst,dict_fsst'")
            yield connection


def load_scores(connection: duckdb.DuckDBPyConnection, table: str, output: Folder, *, hashes: bool = True) -> None:
    """Copies the scores of a run, finished or not, into a new table, whatever the storage.

    The table has :data:`COLUMNS`, ``shard``, the number of the shard, and ``folder``: the folder or prefix of the
    image, or the archive or table that it is in.

    Args:
        connection: Of the database.
        table: Its name.
        output: Folder that ``grepr score`` wrote to.
        hashes: Whether it is to have ``hash`` too, the perceptual hash as a number.

    Raises:
        UserError: There are no scores, or a file of them is broken.
    """
    scores = current_folder(output, SCORES_FOLDER)
    shards = sorted(finished_shards(scores))
    if not shards:
        raise no_scores(output)
    columns = [*COLUMNS, *(["phash"] if hashes else [])]
    fields = [schema().field(name) for name in columns] + [pa.field("shard", pa.int64())]
    broken: list[BrokenShard] = []
    batches = _read_batches(scores, shards, columns, broken)
    reader = pa.RecordBatchReader.from_batches(pa.schema(fields), batches)
    with contextlib.closing(batches):
        folder = "CASE WHEN member IS NULL THEN regexp_replace(uri, '/[^/]*$', '') ELSE uri END"
        wanted = f"*, {folder} AS folder"
        if hashes:
            wanted = f"* EXCLUDE (phash), TRY_CAST('0x' || phash AS UBIGINT) AS hash, {folder} AS folder"
        try:
            connection.from_arrow(reader).project(wanted).create(table)
        except duckdb.Error as error:
            # Of what goes wrong in reading for it, DuckDB passes on the text alone.
            if broken:
                raise broken[0] from error
            raise


def _read_batches(
    scores: Folder, shards: list[int], columns: list[str], broken: list[BrokenShard]
) -> Generator[pa.RecordBatch]:
    def read(shard: int) -> list[pa.RecordBatch]:
        table = read_shard(scores, shard, columns)
        numbers = pa.repeat(pa.scalar(shard, pa.int64()), len(table))
        batches: list[pa.RecordBatch] = table.append_column("shard", numbers).to_batches()
        return batches

    numbers = iter(shards)
    with ThreadPoolExecutor(READERS) as pool:
        # A few at a time, since an executor would read on ahead of DuckDB.
        while some := list(itertools.islice(numbers, READERS)):
            try:
                for batches in pool.map(read, some):
                    yield from batches
            except BrokenShard as error:
                broken.append(error)
                raise
