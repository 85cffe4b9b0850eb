"""What the user knows of the images: a table to be joined with the scores."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from grepr_core.errors import UserError
from grepr_core.storage import absolute
from grepr_core.web.access import for_reading
from pipelines.lake.sources.files import open_file, resolve
from pipelines.lake.sources.tables import URI_COLUMNS
from pipelines.stores.object_store import STORE_ERRORS

BATCH_ROWS = 65_536
#: Read to tell the types of a CSV file's columns.
CSV_BLOCK_BYTES = 16 * 2**20


def read_metadata(
    table: str, storage_options: Mapping[str, Any], mentions: Callable[[str], bool]
) -> tuple[tuple[str, ...], Iterator[pa.Table]]:
    """Reads a table of metadata.

    Args:
        table: Path or URL of a Parquet, CSV or TSV file.
        storage_options: For fsspec.
        mentions: Tells which columns are wanted.

    Returns:
        The columns of the scores that it is joined by; and its rows, a part at a time, with these as ``__key0``,
        ``__key1``, and the columns that are wanted.

    Raises:
        UserError: It cannot be read, or has no column to join by.
    """
    url = absolute(table)
    schema, batches = _open(url, storage_options)
    names = schema.names
    uri = next((name for name in URI_COLUMNS if name in names), None)
    if "image_id" in names:
        keys = {"image_id": "image_id"}
    elif uri is not None:
        keys = {"uri": uri} | ({"member": "member"} if "member" in names else {})
    else:
        raise UserError(
            f"--metadata {table}: has no column to join by, image_id or uri; its columns are {', '.join(names)}"
        )
    columns = [name for name in names if name not in keys.values() and mentions(name)]

    def parts() -> Iterator[pa.Table]:
        for batch in batches([*keys.values(), *columns]):
            found = {f"__key{i}": _as_text(batch[name]) for i, name in enumerate(keys.values())}
            if "uri" in keys:
                found["__key0"] = _resolved(found["__key0"], url)
            yield pa.table({**found, **{name: batch[name] for name in columns}})

    return tuple(keys), _complaining(parts(), table)


def _open(url: str, storage_options: Mapping[str, Any]) -> tuple[pa.Schema, Callable[[list[str]], Iterator[pa.Table]]]:
    file = open_file(url, for_reading(storage_options, url))
    try:
        if url.lower().endswith((".csv", ".tsv")):
            return _open_csv(file, "\t" if url.lower().endswith(".tsv") else ",")
        parquet = pq.ParquetFile(file)
    except (pa.ArrowException, *STORE_ERRORS) as error:
        raise UserError(f"--metadata {url}: {error}") from error
    schema = parquet.schema_arrow

    def batches(columns: list[str]) -> Iterator[pa.Table]:
        yield schema.empty_table().select(columns)
        for batch in parquet.iter_batches(BATCH_ROWS, columns=columns):
            yield pa.Table.from_batches([batch])

    return schema, batches


def _open_csv(file: BinaryIO, delimiter: str) -> tuple[pa.Schema, Callable[[list[str]], Iterator[pa.Table]]]:
    text = {name: pa.string() for name in ("image_id", "member", *URI_COLUMNS)}
    reader = pyarrow.csv.open_csv(
        file,
        read_options=pyarrow.csv.ReadOptions(block_size=CSV_BLOCK_BYTES),
        parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(column_types=text, null_values=[""], strings_can_be_null=True),
    )

    def batches(columns: list[str]) -> Iterator[pa.Table]:
        yield reader.schema.empty_table().select(columns)
        for batch in reader:
            yield pa.Table.from_batches([batch]).select(columns)

    return reader.schema, batches


def _complaining(parts: Iterable[pa.Table], table: str) -> Iterator[pa.Table]:
    try:
        yield from parts
    except (pa.ArrowException, *STORE_ERRORS) as error:
        raise UserError(f"--metadata {table}: {error}") from error


def _as_text(values: pa.ChunkedArray) -> pa.ChunkedArray:
    return values.cast(pa.string())


def _resolved(uris: pa.ChunkedArray, table: str) -> pa.ChunkedArray:
    """Gives URIs as scores have them."""
    relative = pc.invert(pc.or_(pc.starts_with(uris, "/"), pc.match_substring(uris, "://")))
    odd = pc.or_(relative, pc.starts_with(uris, "file://"))
    if not pc.any(odd).as_py():
        return uris
    return pa.chunked_array([[uri if uri is None else resolve(uri, table) for uri in uris.to_pylist()]], pa.string())
