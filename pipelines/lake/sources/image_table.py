"""Parquet files that hold encoded images: a binary column, or Hugging Face's struct of ``bytes`` and ``path``."""

import collections
import itertools
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from grepr_core.errors import UserError
from pipelines.lake.sources.entry import Entry
from pipelines.lake.sources.files import open_file, resolve
from pipelines.lake.sources.parquet_columns import BUFFER_BYTES, ImageColumn, column_batches, is_list
from pipelines.stores.object_store import STORE_ERRORS

#: Rows and bytes that the reader decodes at once; bytes by the average of the row group.
_BATCH_ROWS, _BATCH_BYTES = 256, 8 * 2**20
#: Images behind the foremost one that stay at hand, for threads that ask a little out of order.
_IMAGES_KEPT = 64
#: Columns and files read at a time.
_CURSORS = 4


def list_image_table(
    table: Entry, columns: Sequence[ImageColumn], storage_options: Mapping[str, Any]
) -> Iterator[Entry]:
    """Lists the images in a Parquet file, reading them only where some rows may hold a path in place of bytes.

    Args:
        table: The file.
        columns: Those that hold images.
        storage_options: For fsspec.

    Yields:
        The images in the order of rows, then columns, with ``COLUMN:ROW`` for member, the row counted from 0 in the
        file, or ``COLUMN:ROW:INDEX`` in a column of lists; and for a path without bytes, the file of that path.

    Raises:
        UserError: The file cannot be read.
    """
    with open_file(table.uri, storage_options) as file:
        try:
            parquet = pq.ParquetFile(file, buffer_size=BUFFER_BYTES)
            first = 0
            for group in range(parquet.num_row_groups):
                rows = parquet.metadata.row_group(group).num_rows
                cells = zip(*(_paths(parquet, group, column) for column in columns), strict=True)
                for row, paths in enumerate(cells, start=first):
                    for column, values in zip(columns, paths, strict=True):
                        for index, path in enumerate(values):
                            if path is None:
                                place = f"{row}:{index}" if column.in_list else f"{row}"
                                yield Entry(table.uri, etag=table.etag, member=f"{column.name}:{place}")
                            else:
                                yield Entry(resolve(path, table.uri))
                first += rows
        except (pa.ArrowException, *STORE_ERRORS) as error:
            raise UserError(f"{table.uri}: {error}") from error


def _paths(parquet: pq.ParquetFile, group: int, column: ImageColumn) -> Iterator[Sequence[str | None]]:
    """Gives for each row of a row group the images in it: None, or the path where there is no more than that."""
    rows = parquet.metadata.row_group(group).num_rows
    has_paths = column.is_struct and column.leaf(parquet, group, "path") is not None
    content = column.leaf(parquet, group, "bytes")
    statistics = content.statistics if content is not None and column.bytes_known else None
    # Of null lists and structs too. Without statistics, the bytes themselves tell.
    null = statistics.null_count if statistics is not None and statistics.has_null_count else None
    if not column.in_list and (not has_paths or null == 0):
        return itertools.repeat((None,), rows)
    none_null = null == 0
    all_null = not column.bytes_known or (null == rows and not column.in_list)
    fields = ["path"] if has_paths else []
    if not has_paths or not (none_null or all_null):
        fields.append("bytes")
    return _read_paths(parquet, group, column, fields, otherwise_null=all_null)


def _read_paths(
    parquet: pq.ParquetFile, group: int, column: ImageColumn, fields: Sequence[str], *, otherwise_null: bool
) -> Iterator[Sequence[str | None]]:
    chunks = [chunk for name in fields if (chunk := column.leaf(parquet, group, name)) is not None]
    held = sum(chunk.total_uncompressed_size for chunk in chunks)
    rows = min(max(_BATCH_BYTES * parquet.metadata.row_group(group).num_rows // max(1, held), 1), _BATCH_ROWS)
    for batch in parquet.iter_batches(rows, row_groups=[group], columns=[chunk.path_in_schema for chunk in chunks]):
        values = batch.column(0)
        counts: Sequence[int] = [1] * len(values)
        if column.in_list:
            counts = [count or 0 for count in pc.list_value_length(values).to_pylist()]
            values = pc.list_flatten(values)
        paths: list[str | None] = [None] * len(values)
        if "path" in fields:
            paths = pc.struct_field(values, "path").to_pylist()
            missing = [otherwise_null] * len(values)
            if "bytes" in fields:
                missing = pc.struct_field(values, "bytes").is_null().to_pylist()
            paths = [(path or None) if none else None for path, none in zip(paths, missing, strict=True)]
        end = iter(paths)
        yield from ([*itertools.islice(end, count)] for count in counts)


@dataclass
class _Cursor:
    """Where reading a column of a file has come to."""

    file: BinaryIO
    parquet: pq.ParquetFile
    column: ImageColumn
    batches: Iterator[pa.Array] = field(default_factory=lambda: iter(()))
    group: int = -1
    next_row: int = 0
    kept: "collections.deque[tuple[int, pa.Array]]" = field(default_factory=collections.deque)


class ImageTableReader:
    """Reads images out of Parquet files, from any number of threads.

    Images asked for in about ascending order are read in one pass, with some :data:`_IMAGES_KEPT` of them in memory.
    Any other order gives the same bytes, at the price of reading a row group again from its start.
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
            member: ``COLUMN:ROW`` or ``COLUMN:ROW:INDEX``, as :func:`list_image_table` gives it.

        Returns:
            Its encoded bytes.

        Raises:
            ValueError: The row holds no bytes.
            LookupError: There is no such column or row.
            UserError: The file cannot be opened.
        """
        with self._lock:
            column, row, index = self._place(uri, member)
            try:
                value = self._value(self._cursor(uri, column), row, index)
            except BaseException:
                # A cursor that broke off knows no more where it is.
                self._cursors.pop((uri, column), None)
                raise
        if value is None:
            raise ValueError(f"row {row} holds no image bytes in column {column}")
        return value

    def _place(self, uri: str, member: str) -> tuple[str, int, int | None]:
        """Gives a member's column, row, and place in the row's list; names of columns may hold colons and numbers."""
        for pattern in (r"(.+):(\d+):(\d+)", r"(.+):(\d+)"):
            if (found := re.fullmatch(pattern, member, re.DOTALL)) is not None:
                column, row, *index = found.groups()
                try:
                    in_list = self._cursor(uri, column).column.in_list
                except LookupError:
                    continue
                if in_list == bool(index):
                    return column, int(row), int(index[0]) if index else None
        raise LookupError(f"no image {member} in the table")

    def _cursor(self, uri: str, column: str) -> _Cursor:
        key = (uri, column)
        if key not in self._cursors:
            file = open_file(uri, self._options)
            parquet = pq.ParquetFile(file)
            index = parquet.schema_arrow.get_field_index(column)
            held = ImageColumn.of(column, parquet.schema_arrow.types[index]) if index >= 0 else None
            if held is None:
                raise LookupError(f"no column {column} of images")
            self._cursors[key] = _Cursor(file, parquet, held)
            if len(self._cursors) > _CURSORS:
                self._cursors.popitem(last=False)[1].file.close()
        self._cursors.move_to_end(key)
        return self._cursors[key]

    def _value(self, cursor: _Cursor, row: int, index: int | None) -> bytes | None:
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
                cursor.batches = column_batches(
                    cursor.parquet, cursor.group, cursor.column, "bytes", _BATCH_BYTES, _BATCH_ROWS
                )
                continue
            cursor.kept.append((cursor.next_row, batch))
            cursor.next_row += len(batch)
            while sum(map(_images_in, cursor.kept)) - _images_in(cursor.kept[0]) >= _IMAGES_KEPT:
                cursor.kept.popleft()
        first, values = next(item for item in reversed(cursor.kept) if item[0] <= row)
        value = values[row - first]
        if index is not None:
            images = value.values
            if images is None or index >= len(images):
                raise LookupError(f"no image {index} in row {row}")
            value = images[index]
        content: bytes | dict[str, bytes | None] | None = value.as_py()
        return content["bytes"] if isinstance(content, dict) else content


def _images_in(kept: tuple[int, pa.Array]) -> int:
    _, values = kept
    return int(pc.sum(pc.list_value_length(values)).as_py() or 0) if is_list(values.type) else len(values)


def _locate(parquet: pq.ParquetFile, row: int) -> tuple[int, int]:
    """Gives the row group that a row is in, and its place there."""
    rest = row
    for group in range(parquet.num_row_groups):
        rows = parquet.metadata.row_group(group).num_rows
        if rest < rows:
            return group, rest
        rest -= rows
    raise LookupError(f"no row {row}; the file has {parquet.metadata.num_rows:,}")
