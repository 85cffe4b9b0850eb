"""Files of shards: one Parquet file each, whole or absent, with what is known of the shard in its footer."""

import json
import re
from typing import Any

import pyarrow.parquet as pq

from grepr_core.storage import Folder

_NAME = re.compile(r"shard=(\d{6,})\.parquet")
_SUMMARY_KEY = b"grepr"


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
    """Reads what is known of a finished shard, without reading its rows."""
    with folder.fs.open(folder.path(shard_name(shard)), "rb") as file:
        return json.loads(pq.read_metadata(file).metadata[_SUMMARY_KEY])
