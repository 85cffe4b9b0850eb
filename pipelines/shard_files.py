"""Files of shards: one Parquet file each, whole or absent, with what is known of the shard in its footer."""

import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow.parquet as pq

from grepr_core.storage import Folder

_NAME = re.compile(r"shard=(\d{6,})\.parquet")
_SUMMARY_KEY = b"grepr"
#: More than the footer of any shard takes.
FOOTER_BYTES = 256 * 2**10
READERS = 16


def shard_name(shard: int) -> str:
    """Gives the name of a shard's file."""
    return f"shard={shard:06d}.parquet"


def finished_shards(folder: Folder) -> set[int]:
    """Lists the shards that are complete; one listing, since a file is whole or absent."""
    return {int(match[1]) for name in folder.names() if (match := _NAME.fullmatch(name))}


def add_footer(writer: pq.ParquetWriter, summary: dict[str, Any]) -> None:
    """Keeps what is known of a shard, in JSON's types, in the footer of its file."""
    writer.add_key_value_metadata({_SUMMARY_KEY: json.dumps(summary).encode()})


def read_footer(folder: Folder, shard: int) -> Any:  # noqa: ANN401 - JSON is any value
    """Reads what is known of a finished shard, without reading its rows: one request."""
    tail = folder.fs.cat_file(folder.path(shard_name(shard)), start=-FOOTER_BYTES)
    return json.loads(pq.read_metadata(io.BytesIO(tail)).metadata[_SUMMARY_KEY])


def read_footers(folder: Folder, shards: Iterable[int]) -> Iterator[tuple[int, Any]]:
    """Reads what is known of finished shards, many at a time.

    Args:
        folder: Of the shards.
        shards: Their numbers.

    Yields:
        Each number with what is known, in order.
    """
    numbers = iter(shards)
    with ThreadPoolExecutor(READERS) as pool:
        # A few at a time, since an executor would take in all shards of a lake at once.
        while some := list(itertools.islice(numbers, 64 * READERS)):
            yield from zip(some, pool.map(lambda shard: read_footer(folder, shard), some), strict=True)
