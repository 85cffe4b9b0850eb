"""Which photographs a report shows: the worst, the best, and some all along the scores between them."""

from dataclasses import dataclass

import duckdb

#: A row of the scores as :class:`ShownPhoto` has it.
PHOTO = """{'shard': shard, 'image_id': image_id, 'uri': uri, 'member': member, 'etag': etag, 'score': score,
'lower': score_lower, 'upper': score_upper, 'width': width, 'height': height, 'scored_pixels': scored_pixels,
'bytes': bytes, 'reason': reason}"""
#: Times as many pixels as there are, from which on a model is said to have seen a photograph enlarged.
ENLARGED = 1.5


@dataclass(frozen=True)
class ShownPhoto:
    """A photograph that the report shows, with its row of the scores.

    Attributes:
        shard: Number of the shard it is in.
        image_id: Its identity.
        uri: Of the image or of its container.
        member: Name in the container, if it is in one.
        etag: Of what was scored.
        score: Predicted quality.
        lower: Lower end of the prediction interval; None where not calibrated.
        upper: Upper end.
        width: In pixels.
        height: In pixels.
        scored_pixels: That the model saw; None where that is not known.
        bytes: Encoded size; None where that is not known.
        reason: What ails it most; None where nothing does, or it is not told.
    """

    shard: int
    image_id: str
    uri: str
    member: str | None
    etag: str | None
    score: float
    lower: float | None
    upper: float | None
    width: int
    height: int
    scored_pixels: int | None = None
    bytes: int | None = None
    reason: str | None = None

    @property
    def name(self) -> str:
        """Its own name, without where it is."""
        return (self.member or self.uri).rsplit("/", 1)[-1]

    @property
    def folder(self) -> str:
        """The folder or prefix of the image, or the archive or table that it is in."""
        return self.uri if self.member is not None else self.uri.rpartition("/")[0]

    @property
    def enlarged(self) -> bool:
        """Whether the model saw it far larger than it is, and so softer."""
        return self.scored_pixels is not None and self.scored_pixels >= ENLARGED * self.width * self.height


def extremes(
    connection: duckdb.DuckDBPyConnection, table: str, scored: int, most: int
) -> tuple[list[ShownPhoto], list[ShownPhoto]]:
    """Gives the photographs of the lowest and of the highest scores, none of them in both.

    Args:
        connection: Of the database.
        table: The scores.
        scored: Number of them.
        most: Photographs of either kind, at most.

    Returns:
        The worst, lowest first, and the best, highest first. An odd one in the middle is among the worst.
    """
    worst = min(most, -(-scored // 2))
    return _first(connection, table, "ASC", worst), _first(connection, table, "DESC", min(worst, scored - worst))


def _first(connection: duckdb.DuckDBPyConnection, table: str, order: str, photos: int) -> list[ShownPhoto]:
    rows = connection.execute(
        f"SELECT {PHOTO} FROM {table} WHERE score IS NOT NULL ORDER BY score {order}, image_id LIMIT {photos}"
    ).fetchall()
    return [ShownPhoto(**photo) for (photo,) in rows]


def photos_between(
    connection: duckdb.DuckDBPyConnection, table: str, low: float, high: float, most: int
) -> list[ShownPhoto]:
    """Gives photographs at even steps of the score, so that wherever a threshold is put, some lie beside it.

    Args:
        connection: Of the database.
        table: The scores.
        low: Score above which they lie.
        high: Score below which they lie.
        most: How many at most; one of each step that has any.

    Returns:
        The photographs, lowest first.
    """
    if low >= high:
        return []
    # Identities are hashes, so the least is a fair draw, and much the same one every night.
    rows = connection.execute(
        f"""SELECT {PHOTO} FROM {table} JOIN (
                SELECT min(image_id) AS image_id FROM {table} WHERE score > ?::FLOAT AND score < ?::FLOAT
                GROUP BY least({most - 1}, floor({most} * (score::DOUBLE - ?) / ?))) USING (image_id)
            ORDER BY score, image_id""",
        [low, high, low, high - low],
    ).fetchall()
    return [ShownPhoto(**photo) for (photo,) in rows]
