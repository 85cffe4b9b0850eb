"""Parquet files that hold encoded images: a binary column, or Hugging Face's struct of ``bytes`` and ``path``."""

import collections
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from grepr_core.errors import UserError
from pipelines.lake.sources.entry import Entry
from pipelines.lake.sources.files import open_file, resolve
from pipelines.stores.object_store import STORE_ERRORS

#: Rows and bytes that the reader decodes at once; bytes by the average of the row group.
_BATCH_ROWS, _BATCH_BYTES = 256, 8 * 2**20
#: Rows behind the foremost one that stay at hand, for threads that ask a little out of order.
_ROWS_KEPT = 64
#: Columns and files read at a time.
_CURSORS = 4


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_struct(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and _is_binary(kind.field("bytes").type)
    )


def image_columns(schema: pa.Schema) -> list[str]:
    """Gives the columns of a Parquet file that hold encoded images.

    Args:
        schema: Of the file.

    Returns:
        Those that Hugging Face's metadata declares to be images; without any, all binary columns and all structs with
        binary ``bytes``.
    """
    columns = [
        name for name, kind in zip(schema.names, schema.types, strict=True) if _is_binary(kind) or _is_struct(kind)
    ]
    described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = described.get("info", {}).get("features", {})
    declared = [name for name in columns if (features.get(name) or {}).get("_type") == "Image"]
    return declared or columns


def list_image_table(table: Entry, storage_options: Mapping[str, Any]) -> Iterator[Entry]:
    """Lists the images in a Parquet file, reading them only where some rows hold a path in place of bytes.

    Args:
        table: The file.
        storage_options: For fsspec.

    Yields:
        The images in the order of rows, then columns, with ``COLUMN:ROW`` for member, the row counted from 0 in the
        file; and for a row with a path and no bytes, the file of that path.

    Raises:
        UserError: The file cannot be read.
    """
    with open_file(table.uri, storage_options) as file:
        try:
            parquet = pq.ParquetFile(file)
            columns = image_columns(parquet.schema_arrow)
            first = 0
            for group in range(parquet.num_row_groups):
                rows = parquet.metadata.row_group(group).num_rows
                paths = {name: _paths(parquet, group, name) for name in columns}
                for row in range(rows):
                    for name in columns:
                        path = paths[name].get(row)
                        if path is None:
                            yield Entry(table.uri, etag=table.etag, member=f"{name}:{first + row}")
                        else:
                            yield Entry(resolve(path, table.uri))
                first += rows
        except (pa.ArrowException, *STORE_ERRORS) as error:
            raise UserError(f"{table.uri}: {error}") from error


def _leaf(parquet: pq.ParquetFile, group: int, path: str) -> pq.ColumnChunkMetaData | None:
    metadata = parquet.metadata.row_group(group)
    chunks = (metadata.column(i) for i in range(metadata.num_columns))
    return next((chunk for chunk in chunks if chunk.path_in_schema == path), None)


def _paths(parquet: pq.ParquetFile, group: int, column: str) -> dict[int, str]:
    """Gives the paths of a row group's rows without bytes."""
    chunk = _leaf(parquet, group, f"{column}.bytes")
    if chunk is None or _leaf(parquet, group, f"{column}.path") is None:
        return {}
    # Without statistics all rows count as having bytes; those that have none end as unreadable.
    if chunk.statistics is None or not chunk.statistics.null_count:
        return {}
    all_null = chunk.statistics.null_count == parquet.metadata.row_group(group).num_rows
    leaves = [f"{column}.path"] if all_null else [f"{column}.path", f"{column}.bytes"]
    found: dict[int, str] = {}
    first = 0
    for batch in parquet.iter_batches(64, row_groups=[group], columns=leaves):
        values = batch.column(0)
        paths = values.field("path").to_pylist()
        missing = [True] * len(paths) if all_null else values.field("bytes").is_null().to_pylist()
        found.update((first + row, path) for row, path in enumerate(paths) if path and missing[row])
        first += len(batch)
    return found


@dataclass
class _Cursor:
    """Where reading a column of a file has come to."""

    file: BinaryIO
    parquet: pq.ParquetFile
    struct: bool
    batches: Iterator[pa.Array] = field(default_factory=lambda: iter(()))
    group: int = -1
    next_row: int = 0
    kept: "collections.deque[tuple[int, pa.Array]]" = field(default_factory=collections.deque)


class ImageTableReader:
    """Reads images out of Parquet files, from any number of threads.

    Rows asked for in about ascending order are read in one pass, with some :data:`_ROWS_KEPT` rows in memory. Any other
    order gives the same bytes, at the price of reading a row group again from its start.
    """

    def __init__(self, storage_options: Mapping[str, Any] | None = None) -> None:
        """Prepares; nothing is opened yet.

        Args:
            storage_options: For fsspec.
        """
        self._options = dict(storage_options or {})
        self._cursors: collections.OrderedDict[tuple[str, str], _Cursor] = collections.OrderedDict()
        # Two threads in one ParquetFile crash the process.
        self._lock = threading.Lock()

    def read(self, uri: str, member: str) -> bytes:
        """Reads an image.

        Args:
            uri: Of the Parquet file.
            member: ``COLUMN:ROW``, as :func:`list_image_table` gives it.

        Returns:
            Its encoded bytes.

        Raises:
            ValueError: The row holds no bytes.
            LookupError: There is no such column or row.
            UserError: The file cannot be opened.
        """
        column, _, number = member.rpartition(":")
        row = int(number)
        with self._lock:
            try:
                value = self._value(self._cursor(uri, column), column, row)
            except BaseException:
                # A cursor that broke off knows no more where it is.
                self._cursors.pop((uri, column), None)
                raise
        if value is None:
            raise ValueError(f"row {row} holds no image bytes in column {column}")
        return value

    def _cursor(self, uri: str, column: str) -> _Cursor:
        key = (uri, column)
        if key not in self._cursors:
            file = open_file(uri, self._options)
            parquet = pq.ParquetFile(file)
            index = parquet.schema_arrow.get_field_index(column)
            if index < 0:
                raise LookupError(f"no column {column}")
            self._cursors[key] = _Cursor(file, parquet, _is_struct(parquet.schema_arrow.types[index]))
            if len(self._cursors) > _CURSORS:
                self._cursors.popitem(last=False)[1].file.close()
        self._cursors.move_to_end(key)
        return self._cursors[key]

    def _value(self, cursor: _Cursor, column: str, row: int) -> bytes | None:
        group, _ = _locate(cursor.parquet, row)
        kept_from = cursor.kept[0][0] if cursor.kept else cursor.next_row
        if row < kept_from or group not in (cursor.group, cursor.group + 1):
            cursor.kept.clear()
            cursor.batches, cursor.group = iter(()), group - 1
            cursor.next_row = row - _locate(cursor.parquet, row)[1]
        while row >= cursor.next_row:
            batch = next(cursor.batches, None)
            if batch is None:
                cursor.group += 1
                cursor.batches = _batches(cursor.parquet, cursor.group, f"{column}.bytes" if cursor.struct else column)
                continue
            cursor.kept.append((cursor.next_row, batch))
            cursor.next_row += len(batch)
            while sum(len(b) for _, b in cursor.kept) - len(cursor.kept[0][1]) >= _ROWS_KEPT:
                cursor.kept.popleft()
        first, values = next(item for item in reversed(cursor.kept) if item[0] <= row)
        value: bytes | None = values[row - first].as_py()
        return value


def _locate(parquet: pq.ParquetFile, row: int) -> tuple[int, int]:
    """Gives the row group that a row is in, and its place there."""
    rest = row
    for group in range(parquet.num_row_groups):
        rows = parquet.metadata.row_group(group).num_rows
        if rest < rows:
            return group, rest
        rest -= rows
    raise LookupError(f"no row {row}; the file has {parquet.metadata.num_rows:,}")


def _batches(parquet: pq.ParquetFile, group: int, leaf: str) -> Iterator[pa.Array]:
    chunk = _leaf(parquet, group, leaf)
    assert chunk is not None
    average = chunk.total_uncompressed_size // max(1, chunk.num_values)
    rows = min(max(_BATCH_BYTES // max(1, average), 1), _BATCH_ROWS)
    for batch in parquet.iter_batches(rows, row_groups=[group], columns=[leaf]):
        values = batch.column(0)
        yield pc.struct_field(values, "bytes") if pa.types.is_struct(values.type) else values
