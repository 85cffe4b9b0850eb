"""Near-copies among the scored photographs: how many there are, and the largest groups of them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from pipelines.options import NEAR_BITS
from pipelines.reporting.shown_photos import PHOTO, ShownPhoto
from pipelines.reporting.statistics import select_one
from pipelines.scoring.near_copies import find_near_copies

#: Of more photographs only equal hashes are looked for: the others would take longer than all else in a report.
MOST_COMPARED = 300_000


@dataclass(frozen=True)
class CopyGroup:
    """Photographs that are near-copies of the best of them.

    Attributes:
        photos: Some of them, the best first.
        size: How many there are.
    """

    photos: list[ShownPhoto]
    size: int


@dataclass(frozen=True)
class Copies:
    """Near-copies, as ``grepr filter --distinct`` groups them.

    Attributes:
        copies: Number of photographs that are a copy of a better one.
        groups: Number of groups.
        bits: In how many bits of 64 their hashes may differ.
        unhashed: Number of scored photographs without a hash.
        largest: The largest groups, largest first.
        others: Of each photograph that was asked for and has copies, how many others are in its group.
    """

    copies: int
    groups: int
    bits: int
    unhashed: int
    largest: list[CopyGroup] = field(default_factory=list)
    others: dict[str, int] = field(default_factory=dict)


def find_copies(
    connection: duckdb.DuckDBPyConnection, table: str, shown: Iterable[ShownPhoto], *, groups: int, photos: int
) -> Copies | None:
    """Finds near-copies.

    Args:
        connection: Of the database.
        table: The scores.
        shown: Photographs of which it is to be told how many near-copies they have.
        groups: Of the largest groups, how many are wanted.
        photos: Of each of them, how many photographs.

    Returns:
        What there is; None where no photograph has a hash.
    """
    hashed, unhashed = select_one(
        connection, f"SELECT count(hash), count(*) - count(hash) FROM {table} WHERE score IS NOT NULL"
    )
    if not hashed:
        return None
    bits, which = NEAR_BITS, f"FROM {table} WHERE score IS NOT NULL AND hash IS NOT NULL"
    if hashed > MOST_COMPARED:
        bits, which = 0, f"{which} AND hash IN (SELECT hash {which} GROUP BY hash HAVING count(*) > 1)"
    rows: dict[str, Any] = connection.execute(
        f"SELECT rowid AS row, score, hash {which} ORDER BY score DESC, image_id"
    ).fetchnumpy()
    found = find_near_copies(rows["hash"], rows["score"], bits=bits)
    best, sizes = np.unique(found.kept[found.copies], return_counts=True)
    largest = []
    for index in np.lexsort((best, -sizes))[:groups]:
        members = rows["row"][np.flatnonzero(found.kept == best[index])[:photos]]
        largest.append(CopyGroup(_photos(connection, table, members), int(sizes[index]) + 1))
    return Copies(
        copies=len(found.copies),
        groups=len(best),
        bits=bits,
        unhashed=unhashed,
        largest=largest,
        others=_others(connection, table, shown, rows["row"], found.kept),
    )


def _photos(connection: duckdb.DuckDBPyConnection, table: str, rows: NDArray[np.int64]) -> list[ShownPhoto]:
    photos = connection.execute(
        f"SELECT {PHOTO} FROM {table} WHERE rowid IN ({', '.join(map(str, rows))}) ORDER BY score DESC, image_id"
    ).fetchall()
    return [ShownPhoto(**photo) for (photo,) in photos]


def _others(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    shown: Iterable[ShownPhoto],
    rows: NDArray[np.int64],
    kept: NDArray[np.int64],
) -> dict[str, int]:
    if not len(rows):
        return {}
    ids = [photo.image_id for photo in shown]
    asked = connection.execute(
        f"SELECT image_id, rowid FROM {table} WHERE hash IS NOT NULL AND image_id IN (SELECT unnest(?))", [ids]
    ).fetchall()
    sizes = np.bincount(kept)
    places = np.argsort(rows)
    found = {}
    for image_id, row in asked:
        place = places[min(np.searchsorted(rows, row, sorter=places), len(rows) - 1)]
        if rows[place] == row and (others := int(sizes[kept[place]]) - 1):
            found[image_id] = others
    return found
