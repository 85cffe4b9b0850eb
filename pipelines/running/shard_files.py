"""Files of shards: one Parquet file each, whole or absent, with what is known of the shard in its footer."""

import io
import json
import posixpath
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import pyarrow.parquet as pq

from grepr_core.errors import UserError
from grepr_core.storage import Folder, is_local
from pipelines.running.cores import available_cores
from pipelines.running.run_files import RUN_FILE
from pipelines.stores.object_listing import list_objects
from pipelines.stores.object_store import is_object_store, open_store

_NAME = re.compile(r"shard=(\d{6,})\.parquet")
_SUMMARY_KEY = b"grepr"
#: More than the footer of a shard of scores takes, some 4 kB.
FOOTER_BYTES = 16 * 2**10
#: At the end of a Parquet file: the length of the footer before it, and the format's mark.
TAIL_BYTES = 8
READERS = 16
LISTING_SECONDS = 60.0

Item = TypeVar("Item")
Read = TypeVar("Read")


class BrokenShard(UserError):  # noqa: N818 - says what is the matter
    """A file of a shard is cut, empty, or none of grepr's."""

    def __init__(self, folder: Folder, shard: int, reason: object) -> None:
        """Says which, and what to do."""
        self.reason = f"{folder.url}/{shard_name(shard)}: no whole file of a shard ({reason})"
        super().__init__(
            f"{self.reason}; delete it, and beside its folder {RUN_FILE} if it is there, and run the command that "
            "wrote it again"
        )


def shard_name(shard: int) -> str:
    """Gives the name of a shard's file."""
    return f"shard={shard:06d}.parquet"


def finished_shards(folder: Folder) -> set[int]:
    """Lists the shards that are complete; one listing, since a file is whole or absent."""
    return {int(match[1]) for name in _names(folder) if (match := _NAME.fullmatch(name))}


def _names(folder: Folder) -> Iterable[str]:
    if not is_object_store(folder.url):
        return folder.names()
    # A page at a time, where the client below fsspec would hold a record of every file.
    store, key = open_store(folder.url, folder.storage_options, timeout=LISTING_SECONDS)
    return (posixpath.basename(found["path"]) for found in list_objects(store, key))


def add_footer(writer: pq.ParquetWriter, summary: dict[str, Any]) -> None:
    """Keeps what is known of a shard, in JSON's types, in the footer of its file."""
    writer.add_key_value_metadata({_SUMMARY_KEY: json.dumps(summary).encode()})


def read_footer(folder: Folder, shard: int) -> Any:  # noqa: ANN401 - JSON is any value
    """Reads what is known of a finished shard, without reading its rows: one request, two where the footer is long.

    Raises:
        BrokenShard: The file has no such footer.
    """
    path = folder.path(shard_name(shard))
    tail = folder.fs.cat_file(path, start=-FOOTER_BYTES)
    if len(tail) < TAIL_BYTES:
        raise BrokenShard(folder, shard, f"{len(tail)} bytes")
    needed = TAIL_BYTES + int.from_bytes(tail[-TAIL_BYTES : -TAIL_BYTES + 4], "little")
    if needed > len(tail):
        tail = folder.fs.cat_file(path, start=-needed)
    try:
        return json.loads(pq.read_metadata(io.BytesIO(tail)).metadata[_SUMMARY_KEY])
    except (KeyError, TypeError, ValueError) as error:
        raise BrokenShard(folder, shard, error) from error


def read_footers(folder: Folder, shards: Iterable[int]) -> Iterator[tuple[int, Any]]:
    """Reads what is known of finished shards, many at a time.

    Args:
        folder: Of the shards.
        shards: Their numbers.

    Yields:
        Each number with what is known, in order.
    """
    yield from read_ahead(lambda shard: (shard, read_footer(folder, shard)), shards)


def readers(folder: Folder) -> int:
    """Gives how many files are best read at a time: those of this machine take a core each, and others wait."""
    return available_cores() if is_local(folder.url) else READERS


def read_ahead(read: Callable[[Item], Read], items: Iterable[Item], *, threads: int = READERS) -> Iterator[Read]:
    """Reads many at a time, but never further ahead than twice as many as are read at once.

    Args:
        read: Reads one, in a thread.
        items: What to read.
        threads: How many are read at once.

    Yields:
        What was read, in order.
    """
    waiting: deque[Future[Read]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
