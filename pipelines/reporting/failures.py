"""The images without a score, one by one, as far as a page can hold them."""

from dataclasses import dataclass

import duckdb

from grepr_core.decoding.images import Status

#: Failures that a page lists, and bytes of their names and reasons, at most.
MOST_FAILURES = 1000
MOST_BYTES = 150_000


@dataclass(frozen=True)
class FailedImage:
    """An image without a score."""

    status: str
    error: str | None
    uri: str
    member: str | None


def list_failures(connection: duckdb.DuckDBPyConnection, table: str) -> list[FailedImage]:
    """Lists images without a score; where there are too many for a page, some of every status and reason.

    Args:
        connection: Of the database.
        table: The scores.

    Returns:
        The images by status, reason and URI.
    """
    rows = connection.execute(
        f"""SELECT status, error, uri, member FROM (
                SELECT *, sum(strlen(concat(uri, member, error)))
                    OVER (ORDER BY place, image_id ROWS UNBOUNDED PRECEDING) AS bytes
                FROM (SELECT status, error, uri, member, image_id, row_number() OVER (
                          PARTITION BY status, regexp_replace(error, '[0-9][0-9.,]*', '#', 'g') ORDER BY image_id
                      ) AS place
                      FROM {table} WHERE status <> '{Status.SCORED}')
                ORDER BY place, image_id LIMIT {MOST_FAILURES})
            WHERE bytes <= {MOST_BYTES} ORDER BY status, error, uri, member"""
    ).fetchall()
    return [FailedImage(*row) for row in rows]
