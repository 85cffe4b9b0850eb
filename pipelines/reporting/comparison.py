"""What changed between two runs over a lake, joined by the identity of the images.

Where the runs share none, the lake was moved or is a copy: they are joined by the paths below their sources.
"""

from dataclasses import dataclass

import duckdb

from pipelines.reporting.shown_photos import PHOTO, ShownPhoto
from pipelines.reporting.statistics import (
    QUANTILES,
    REASONS,
    Histogram,
    histogram,
    most_first,
    score_edges,
    select_one,
)

_PAIRS = "pairs"


@dataclass(frozen=True)
class Move:
    """A photograph whose score changed.

    Attributes:
        photo: As it is now.
        before: Its score then.
        content_changed: Whether its ETag is another one; None where one of the two is unknown.
    """

    photo: ShownPhoto
    before: float
    content_changed: bool | None


@dataclass(frozen=True)
class Turn:
    """Images of one status that have another one now."""

    before: str
    now: str
    images: int


@dataclass(frozen=True)
class Comparison:
    """What is told of the difference between two runs.

    Attributes:
        new: Images of this run that the other lacks.
        gone: Images of the other that this run lacks.
        both: Images of both.
        content_changed: Of these, those with another ETag.
        scored: Of these, those scored in both.
        model_ids: Of the other run's bundles.
        median_before: Of all its scores; None without any.
        change_quantiles: Of the changes of the images scored in both, at
            :data:`~pipelines.reporting.statistics.QUANTILES`; empty without any.
        unchanged: Images whose score is the same to 0.001.
        largest_gap: Largest difference between the fractions of the images that score below any one value, then and
            now (Kolmogorov-Smirnov statistic, 0 to 1); None where one of the runs has no score.
        before: Histogram of its scores; None without any.
        now: That of this run, with the same bars.
        risen: Those that rose most, first the one that did most.
        fallen: Those that fell most.
        turns: Changes of status, the most frequent first.
        reasons: How many of the other run's images each reason ails most.
        told: Images of it of which that is told.
    """

    new: int
    gone: int
    both: int
    content_changed: int
    scored: int
    model_ids: list[str]
    median_before: float | None
    change_quantiles: tuple[float, ...]
    unchanged: int
    largest_gap: float | None
    before: Histogram | None
    now: Histogram | None
    risen: list[Move]
    fallen: list[Move]
    turns: list[Turn]
    reasons: dict[str, int]
    told: int


def compare(connection: duckdb.DuckDBPyConnection, now: str, before: str, *, photos: int) -> Comparison:
    """Compares two runs.

    Args:
        connection: Of the database.
        now: Table of this run, made by :func:`~pipelines.reporting.database.load_scores`.
        before: Table of the other.
        photos: Number of photographs shown of those that rose most, and of those that fell most.

    Returns:
        What changed.
    """
    _identify_moved(connection, now, before)
    connection.execute(
        f"""CREATE OR REPLACE TABLE {_PAIRS} AS
            SELECT image_id, score - old_score AS change, old_score, status, old_status,
                   etag <> old_etag AS content_changed
            FROM {now} JOIN (SELECT image_id, score AS old_score, status AS old_status, etag AS old_etag FROM {before})
            USING (image_id)"""
    )
    both, content_changed, scored, quantiles, unchanged = select_one(
        connection,
        f"""SELECT count(*), count(*) FILTER (content_changed), count(change),
                   quantile_cont(change, {list(QUANTILES)}), count(*) FILTER (abs(change) <= 0.001)
            FROM {_PAIRS}""",
    )
    images_now, scored_now = select_one(connection, f"SELECT count(*), count(score) FROM {now}")
    images_before, scored_before, median_before, told, reasons = select_one(
        connection, f"SELECT count(*), count(score), median(score), count(not_photo), {REASONS} FROM {before}"
    )
    edges = score_edges(connection, [now, before]) if scored_now and scored_before else None
    turns = connection.execute(
        f"""SELECT old_status, status, count(*) AS images FROM {_PAIRS} WHERE status <> old_status
            GROUP BY ALL ORDER BY images DESC, old_status, status"""
    ).fetchall()
    return Comparison(
        new=images_now - both,
        gone=images_before - both,
        both=both,
        content_changed=content_changed,
        scored=scored,
        model_ids=[
            row[0] for row in connection.execute(f"SELECT DISTINCT model_id FROM {before} ORDER BY 1").fetchall()
        ],
        median_before=median_before,
        change_quantiles=tuple(quantiles or ()),
        unchanged=unchanged,
        largest_gap=None if edges is None else _largest_gap(connection, now, before),
        before=None if edges is None else histogram(connection, before, edges),
        now=None if edges is None else histogram(connection, now, edges),
        risen=_moves(connection, now, "change > 0.001", "change DESC", photos),
        fallen=_moves(connection, now, "change < -0.001", "change", photos),
        turns=[Turn(*row) for row in turns],
        reasons=most_first(reasons),
        told=told,
    )


def _identify_moved(connection: duckdb.DuckDBPyConnection, now: str, before: str) -> None:
    """Gives the images of before the ids that they have now, where the two runs share none but paths."""
    (shared,) = select_one(connection, f"SELECT count(*) FROM {now} JOIN {before} USING (image_id)")
    if shared:
        return
    # A path that several images have tells none of them.
    alone = (
        "SELECT path, member, any_value(image_id) AS id FROM {} WHERE path IS NOT NULL GROUP BY ALL HAVING count(*) = 1"
    )
    connection.execute(
        f"""UPDATE {before} SET image_id = found.now FROM (
                SELECT now.id AS now, before.id AS before FROM ({alone.format(now)}) now
                JOIN ({alone.format(before)}) before
                ON now.path = before.path AND now.member IS NOT DISTINCT FROM before.member) found
            WHERE {before}.image_id = found.before"""
    )


def _largest_gap(connection: duckdb.DuckDBPyConnection, now: str, before: str) -> float:
    gap: float = select_one(
        connection,
        f"""WITH counts AS (
                SELECT score, sum(new)::BIGINT AS new, sum(old)::BIGINT AS old FROM (
                    SELECT score, 1 AS new, 0 AS old FROM {now} UNION ALL SELECT score, 0, 1 FROM {before})
                WHERE score IS NOT NULL GROUP BY score),
            running AS (SELECT sum(new) OVER (ORDER BY score) AS new, sum(old) OVER (ORDER BY score) AS old FROM counts)
            SELECT max(abs(new / (SELECT sum(new) FROM counts) - old / (SELECT sum(old) FROM counts))) FROM running""",
    )[0]
    return gap


def _moves(connection: duckdb.DuckDBPyConnection, now: str, which: str, order: str, photos: int) -> list[Move]:
    rows = connection.execute(
        f"""SELECT {PHOTO}, old_score, content_changed FROM {now} JOIN (
                SELECT * FROM {_PAIRS} WHERE {which} ORDER BY {order}, image_id LIMIT {photos}) USING (image_id)
            ORDER BY {order}, image_id"""
    ).fetchall()
    return [Move(ShownPhoto(**photo), before, changed) for photo, before, changed in rows]
