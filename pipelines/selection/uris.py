"""A selection as a list of URIs, one a line."""

from collections.abc import Iterable

import pyarrow as pa

from grepr_core.decoding.images import Status
from grepr_core.storage import Folder
from pipelines.selection.rows import FAILURE_SCHEMA

URIS_FILE = "uris.txt"


def write_uris(output: Folder, tables: Iterable[pa.Table]) -> pa.Table:
    """Writes the list, as a stream.

    Args:
        output: Folder of the selection.
        tables: Its rows. An image inside a container is its container's URI, a tab, and its name there.

    Returns:
        The images that no line can name, since there is a line break in their names, with the schema of failures.
    """
    refused = []
    with output.create(URIS_FILE) as file:
        for table in tables:
            for row in table.select(["image_id", "uri", "member"]).to_pylist():
                line = row["uri"] if row["member"] is None else f"{row['uri']}\t{row['member']}"
                if "\n" in line or "\r" in line:
                    reason = "there is a line break in its name"
                    refused.append({**row, "status": Status.UNREADABLE.value, "error": reason})
                else:
                    file.write(line.encode() + b"\n")
    return pa.Table.from_pylist(refused, schema=FAILURE_SCHEMA)
