"""Tables that name images: CSV, TSV, Parquet with a column of URIs, and text with a URI a line."""

import csv
import gzip
import io
import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from grepr_core.errors import UserError
from pipelines.lake.sources.duplicates import Seen
from pipelines.lake.sources.entry import Entry
from pipelines.lake.sources.files import open_file, resolve
from pipelines.stores.object_store import STORE_ERRORS

log = logging.getLogger(__name__)

COMPRESSED = ".gz"
_TEXT_SUFFIXES = (".csv", ".tsv", ".txt")
TABLE_SUFFIXES = (*_TEXT_SUFFIXES, *(f"{suffix}{COMPRESSED}" for suffix in _TEXT_SUFFIXES), ".parquet")
#: Columns that may hold the URI; the first that is there does.
URI_COLUMNS = ("uri", "url", "path", "image", "file_name")
#: Further columns that are taken over.
_DETAILS = {"size": pa.int64(), "etag": pa.string(), "member": pa.string(), "offset": pa.int64()}
_BATCH_ROWS = 16_384


def uri_column(schema: pa.Schema) -> str | None:
    """Gives the column of a Parquet file that holds URIs, if one does."""
    for name in URI_COLUMNS:
        index = schema.get_field_index(name)
        if index >= 0 and (pa.types.is_string(schema.types[index]) or pa.types.is_large_string(schema.types[index])):
            return name
    return None


def list_table(table: str, storage_options: Mapping[str, Any], seen: Seen) -> Iterator[Entry]:
    """Lists the images that a table names, each once.

    Args:
        table: URI of the file; its suffix tells the format, and text may be compressed by gzip.
        storage_options: For fsspec.
        seen: What the same source has named before.

    Yields:
        The images, in the order of the rows. Relative paths are relative to the table's folder.

    Raises:
        UserError: The file cannot be read, or has no column of URIs.
    """
    name = table.lower()
    kind = name.removesuffix(COMPRESSED)
    with open_file(table, storage_options) as stored, _plain(stored, compressed=kind != name) as file:
        try:
            if kind.endswith(".txt"):
                batches = _text_batches(file)
            elif kind.endswith(".parquet"):
                batches = _parquet_batches(table, file)
            else:
                batches = _csv_batches(table, file, "\t" if kind.endswith(".tsv") else ",")
            for batch in batches:
                entries = list(_entries(table, batch))
                keys = [entry.uri if entry.member is None else f"{entry.uri}\0{entry.member}" for entry in entries]
                yield from (entry for entry, new in zip(entries, seen.first_time(keys), strict=True) if new)
        except (pa.ArrowException, EOFError, zlib.error, *STORE_ERRORS) as error:
            raise UserError(f"{table}: {error}") from error


def _plain(file: BinaryIO, *, compressed: bool) -> BinaryIO:
    return cast(BinaryIO, gzip.GzipFile(fileobj=file)) if compressed else file


def _entries(table: str, batch: pa.RecordBatch) -> Iterator[Entry]:
    columns = [batch.column(0).to_pylist()]
    for name, kind in _DETAILS.items():
        known = name in batch.schema.names
        columns.append(batch.column(name).cast(kind).to_pylist() if known else [None] * len(batch))
    for uri, size, etag, member, offset in zip(*columns, strict=True):
        if uri:
            yield Entry(resolve(uri, table), size, etag, member, offset)


def _text_batches(file: BinaryIO) -> Iterator[pa.RecordBatch]:
    lines = (line.strip() for line in io.TextIOWrapper(file, encoding="utf-8-sig"))
    rows: list[str] = []
    for line in lines:
        rows.append(line)
        if len(rows) == _BATCH_ROWS:
            yield pa.record_batch({"uri": rows})
            rows = []
    if rows:
        yield pa.record_batch({"uri": rows})


def _parquet_batches(table: str, file: BinaryIO) -> Iterator[pa.RecordBatch]:
    parquet = pq.ParquetFile(file)
    column = uri_column(parquet.schema_arrow)
    if column is None:
        raise _no_column(table, parquet.schema_arrow.names)
    wanted = [column, *(name for name in _DETAILS if name in parquet.schema_arrow.names)]
    for batch in parquet.iter_batches(_BATCH_ROWS, columns=wanted):
        # Batches come in the file's order of columns.
        yield batch.select(wanted)


def _csv_batches(table: str, file: BinaryIO, delimiter: str) -> Iterator[pa.RecordBatch]:
    first = file.readline()
    names = next(csv.reader([first.decode("utf-8-sig")], delimiter=delimiter), [])
    file.seek(0)
    column = next((name for name in URI_COLUMNS if name in names), None)
    if column is None:
        raise _no_column(table, names)
    wanted = [column, *(name for name in _DETAILS if name in names)]
    reader = pyarrow.csv.open_csv(
        file,
        parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            include_columns=wanted,
            column_types={name: _DETAILS.get(name, pa.string()) for name in wanted},
            # Names such as NA are names.
            null_values=[""],
            strings_can_be_null=True,
        ),
    )
    yield from reader


def _no_column(table: str, names: Sequence[str]) -> UserError:
    there, expected = ", ".join(names) or "no columns", ", ".join(URI_COLUMNS)
    return UserError(f"{table}: no column of URIs or of images; it has {there}; expected is one of {expected}")
