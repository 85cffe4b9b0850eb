"""A selection as a list of URIs, one a line, the best first."""

import re
import tempfile
import urllib.parse
from collections.abc import Iterable
from contextlib import closing
from typing import Any

import pyarrow as pa

from grepr_core.decoding.images import Status
from grepr_core.storage import Folder, is_local
from pipelines.lake.sources.text_tables import uri_and_member
from pipelines.selection.database import CHUNK_ROWS, connect
from pipelines.selection.rows import FAILURE_SCHEMA

URIS_FILE = "uris.txt"
#: Of the scores, what the list needs.
COLUMNS = ["image_id", "uri", "member", "score"]


def write_uris(output: Folder, tables: Iterable[pa.Table]) -> pa.Table:
    """Writes the list by falling score, and those of the same score by ``image_id``, with memory that is bounded.

    Args:
        output: Folder of the selection.
        tables: Its rows, with :data:`COLUMNS`. An image inside a container is its container's URI, a tab, and its name
            there. A local path that would not be read back as it is, is written as a ``file://`` URL.

    Returns:
        The images that no line can name, for white space in their names, with the schema of failures.
    """
    refused = []
    with (
        tempfile.TemporaryDirectory(prefix="grepr-") as temporary,
        closing(connect(temporary)) as db,
        output.create(URIS_FILE) as file,
    ):
        db.execute("CREATE TABLE images (image_id VARCHAR, uri VARCHAR, member VARCHAR, score FLOAT)")
        for table in tables:
            db.register("incoming", table.select(COLUMNS))
            db.execute("INSERT INTO images FROM incoming")
            db.unregister("incoming")
        reader: Any = db.sql("FROM images ORDER BY score DESC, image_id").to_arrow_reader(CHUNK_ROWS)
        for batch in reader:
            for row in batch.select(["image_id", "uri", "member"]).to_pylist():
                line = _line(row["uri"], row["member"])
                if line is None:
                    reason = "there is a line break in its name, or white space around it"
                    refused.append({**row, "status": Status.UNREADABLE.value, "error": reason})
                else:
                    file.write(line.encode() + b"\n")
    return pa.Table.from_pylist(refused, schema=FAILURE_SCHEMA)


def _line(uri: str, member: str | None) -> str | None:
    """Gives the line that names an image when it is read as a table of URIs; None where none does."""
    names = [uri]
    if is_local(uri) and "://" not in uri:
        names.append(f"file://{urllib.parse.quote(uri)}")
    for name in names:
        line = name if member is None else f"{name}\t{member}"
        if not re.search(r"[\r\n]", line) and uri_and_member(line) == (name, member):
            return line
    return None
