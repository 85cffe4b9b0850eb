"""S3 Inventory: the list of a bucket that S3 itself writes daily or weekly, instead of listing."""

import csv
import gzip
import io
import json
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.orc
import pyarrow.parquet as pq

from grepr_core.errors import UserError
from pipelines.lake.sources.entry import Entry, NameFilter
from pipelines.lake.sources.files import open_file
from pipelines.stores.object_store import STORE_ERRORS

INVENTORY_FILE = "manifest.json"
_KEYS = {"fileFormat", "fileSchema", "files", "destinationBucket", "sourceBucket"}
#: Columns, as CSV calls them, and as the two binary formats do.
_COLUMNS = {
    "Bucket": "bucket",
    "Key": "key",
    "Size": "size",
    "ETag": "e_tag",
    "IsLatest": "is_latest",
    "IsDeleteMarker": "is_delete_marker",
}
Row = Mapping[str, Any]


def list_inventory(source: str, names: NameFilter, storage_options: Mapping[str, Any]) -> Iterator[Entry]:
    """Lists the objects that an inventory names, but for those deleted or replaced.

    Args:
        source: Its ``manifest.json``.
        names: Decides what is taken.
        storage_options: For fsspec.

    Yields:
        The objects, in the order of the inventory's files and rows.

    Raises:
        UserError: It is not an inventory, or cannot be read.
    """
    with open_file(source, storage_options) as file:
        try:
            record = json.load(file)
        except ValueError as error:
            raise UserError(f"{source}: not JSON: {error}") from error
    if not isinstance(record, dict) or not record.keys() >= _KEYS:
        own = isinstance(record, dict) and "format_version" in record
        advice = "it is part of a manifest of grepr; name the folder that it is in" if own else "not an S3 Inventory"
        raise UserError(f"{source}: {advice}")
    bucket = str(record["destinationBucket"]).removeprefix("arn:").rpartition(":")[2]
    for part in record["files"]:
        uri = f"s3://{bucket}/{part['key']}"
        try:
            for row in _rows(uri, record, storage_options):
                # Bucket and key alone are always there.
                if row.get("is_latest") is False or row.get("is_delete_marker"):
                    continue
                key = row["key"]
                if not key.endswith("/") and names.wants(key):
                    etag = (row.get("e_tag") or "").strip('"') or None
                    yield Entry(f"s3://{row['bucket']}/{key}", row.get("size"), etag)
        except (pa.ArrowException, *STORE_ERRORS, EOFError, KeyError) as error:
            raise UserError(f"{uri}: {error}") from error


def _rows(uri: str, record: Mapping[str, Any], storage_options: Mapping[str, Any]) -> Iterator[Row]:
    with open_file(uri, storage_options) as file:
        match str(record["fileFormat"]).upper():
            case "CSV":
                names = [_COLUMNS.get(name.strip(), name) for name in record["fileSchema"].split(",")]
                lines = io.TextIOWrapper(gzip.GzipFile(fileobj=file), encoding="utf-8", newline="")
                for values in csv.reader(lines):
                    yield _parse(dict(zip(names, values, strict=False)))
            case "PARQUET":
                parquet = pq.ParquetFile(file)
                wanted = [name for name in _COLUMNS.values() if name in parquet.schema_arrow.names]
                for batch in parquet.iter_batches(columns=wanted):
                    yield from batch.to_pylist()
            case "ORC":
                orc = pyarrow.orc.ORCFile(file)
                wanted = [name for name in _COLUMNS.values() if name in orc.schema.names]
                for stripe in range(orc.nstripes):
                    yield from orc.read_stripe(stripe, columns=wanted).to_pylist()
            case other:
                raise UserError(f"{uri}: an inventory in {other}; CSV, Parquet and ORC can be read")


def _parse(values: Mapping[str, str]) -> Row:
    """Gives a row of CSV with the types that the binary formats have; keys are percent-encoded in CSV alone."""
    row: dict[str, Any] = dict(values)
    row["key"] = urllib.parse.unquote_plus(values["key"])
    row["size"] = int(values["size"]) if values.get("size") else None
    for name in ("is_latest", "is_delete_marker"):
        row[name] = values[name].lower() == "true" if values.get(name) else None
    return row
