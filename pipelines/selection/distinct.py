"""Of near-copies the best alone: which images ``--distinct`` leaves out, and for which others."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from grepr_core.storage import Folder
from pipelines.scoring.near_copies import find_near_copies, hash_numbers

DUPLICATES_FILE = "duplicates.parquet"
DUPLICATE_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("member", pa.string()),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("kept_image_id", pa.string(), nullable=False),
        pa.field("kept_uri", pa.string(), nullable=False),
        pa.field("kept_member", pa.string()),
        pa.field("distance", pa.uint8(), nullable=False),
    ]
)


def hash_column(phashes: pa.ChunkedArray) -> pa.Array:
    """Gives hashes as numbers of 64 bits; null where there is none."""
    known = phashes.is_valid().to_numpy()
    numbers = np.zeros(len(phashes), np.uint64)
    numbers[known] = hash_numbers(phashes.drop_null().to_pylist())
    return pa.array(numbers, mask=~known)


def find_copies(rows: pa.Table, bits: int, *, grouped: bool) -> pa.Table:
    """Finds near-copies.

    Args:
        rows: Images, the best first: ``__place``, which tells one from the other, ``__hash``, ``score``, and
            ``__within``, the group that they are in.
        bits: In how many bits their hashes may differ.
        grouped: Whether only those of a group are compared.

    Returns:
        Those that are left out: ``__place``; ``__kept``, that of the image which is kept for it; and ``distance``.
    """
    within = rows["__within"].to_numpy() if grouped else None
    found = find_near_copies(rows["__hash"].to_numpy(), rows["score"].to_numpy(), bits=bits, within=within)
    copies, places = found.copies, rows["__place"].to_numpy()
    return pa.table(
        {
            "__place": places[copies],
            "__kept": places[found.kept[copies]],
            "distance": found.distances[copies],
        }
    )


def write_duplicates(output: Folder, tables: Iterable[pa.Table]) -> None:
    """Writes the list of images left out, as a stream.

    Args:
        output: Folder of the selection.
        tables: With the columns of :data:`DUPLICATE_SCHEMA`.
    """
    with (
        output.create(DUPLICATES_FILE) as file,
        pq.ParquetWriter(file, DUPLICATE_SCHEMA, compression="zstd") as writer,
    ):
        for table in tables:
            writer.write_table(table.cast(DUPLICATE_SCHEMA))
