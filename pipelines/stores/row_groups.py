"""Single row groups of Parquet files that hold many, wherever they are.

A file is opened anew for every row group, since threads cannot share a reader. Its footer is read apart from that, so
that callers can keep it.
"""

import pyarrow as pa
import pyarrow.parquet as pq

from grepr_core.storage import Folder

#: Else fsspec reads on from where a row group ends: megabytes that nobody asked for, with every one of them.
_NO_READ_AHEAD = {"cache_type": "none"}


def read_file_metadata(folder: Folder, name: str) -> pq.FileMetaData:
    """Reads the footer of a file."""
    with folder.fs.open(folder.path(name), "rb", **_NO_READ_AHEAD) as file:
        return pq.read_metadata(file)


def read_row_group(folder: Folder, name: str, group: int, metadata: pq.FileMetaData) -> pa.Table:
    """Reads a row group, by one request.

    Args:
        folder: Where the file is.
        name: Of the file.
        group: Number of the row group.
        metadata: The file's footer.

    Returns:
        Its rows.
    """
    with folder.fs.open(folder.path(name), "rb", **_NO_READ_AHEAD) as file:
        # Pre-buffering joins the columns into one request.
        return pq.ParquetFile(file, metadata=metadata, pre_buffer=True).read_row_group(group)


def fill_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Gives a table that another version may have written the columns of this one, null where it has none.

    Args:
        table: The table. Columns that are unknown here stay, behind the others.
        schema: Of this version.
    """
    missing = [field for field in schema if field.name not in table.column_names]
    if not missing:
        return table
    unknown = [name for name in table.column_names if name not in schema.names]
    for field in missing:
        table = table.append_column(field, pa.nulls(len(table), field.type))
    return table.select([*schema.names, *unknown])
