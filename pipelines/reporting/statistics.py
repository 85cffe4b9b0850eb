"""What the scores of a run come to: counts, distribution, groups, and which photographs to show."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from grepr_core.decoding.images import Status
from pipelines.reporting.shown_photos import ENLARGED, ShownPhoto, extremes, photos_between

#: Of which a group of images has the quantiles of its scores told.
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
#: Most bars of a histogram.
BARS = 50
#: Groups that are told one by one; the others are pooled.
MOST_GROUPS = 24
#: Levels of folders that are looked at.
DEEPEST = 24
MOST_REASONS = 5
#: Upper ends of the classes of image size, in pixels, and their names.
SIZE_CLASSES = (
    (300_000, "under 0.3 megapixels"),
    (1_000_000, "0.3 to 1"),
    (3_000_000, "1 to 3"),
    (8_000_000, "3 to 8"),
    (16_000_000, "8 to 16"),
    (32_000_000, "16 to 32"),
    (math.inf, "32 megapixels and more"),
)


#: How many images each reason ails most, as a map.
REASONS = "histogram(reason)"


@dataclass(frozen=True)
class Reason:
    """One reason for failure, numbers in it aside.

    Attributes:
        error: The reason of one such image.
        images: How many there are.
    """

    error: str
    images: int


@dataclass(frozen=True)
class StatusCount:
    """How many images ended in one status.

    Attributes:
        status: Its name.
        images: How many.
        reasons: The most frequent reasons; none where scored.
        other_reasons: Images that failed for other reasons.
    """

    status: str
    images: int
    reasons: list[Reason]
    other_reasons: int


@dataclass(frozen=True)
class Group:
    """A set of images and the distribution of its scores.

    Attributes:
        name: Of the set; None for the pool of all sets not told by themselves.
        images: In it.
        scored: Of them.
        mean: Of the scores; None without any.
        quantiles: Of the scores, at :data:`QUANTILES`; empty without any.
        reasons: How many of them each reason ails most, the most frequent first.
    """

    name: str | None
    images: int
    scored: int
    mean: float | None
    quantiles: tuple[float, ...]
    reasons: dict[str, int]

    @property
    def median(self) -> float | None:
        """Median of the scores."""
        return self.quantiles[len(QUANTILES) // 2] if self.quantiles else None


@dataclass(frozen=True)
class Folders:
    """Scores by folder, prefix or archive.

    Attributes:
        root: What all of them begin with.
        groups: The largest ones, lowest median first; the pool of the others last, if there is one.
        pooled: Number of folders in the pool.
    """

    root: str
    groups: list[Group]
    pooled: int


@dataclass(frozen=True)
class Histogram:
    """Counts of scores in bars of one width.

    Attributes:
        edges: (N + 1,) float64 edges of the bars.
        counts: (N,) int64 scores in each, its lower edge included.
        below: Scores below the first bar.
        above: Scores above the last one.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    below: int = 0
    above: int = 0


@dataclass(frozen=True)
class Statistics:
    """What is told of the scores of one run.

    Attributes:
        images: Number of rows.
        scored: Of them.
        told: Of these, those of which it is told what ails them.
        model_ids: Of the bundles that scored them; more than one would be a defect.
        statuses: The statuses there are: scored first, then by number of images.
        overall: All images.
        lowest: Those up to the first tenth of the scores; None without any.
        interval_width: Mean width of the prediction intervals; None where not calibrated.
        scaled_down: Scored images of which the model saw fewer pixels than there are.
        enlarged: Those of which it saw far more, as :attr:`~pipelines.reporting.shown_photos.ShownPhoto.enlarged` says.
        bytes: Encoded size of all images that were read.
        histogram: Of the scores; None without any.
        worst: The lowest scores, lowest first.
        best: The highest scores, highest first.
        between: Photographs all along the scores between those, lowest first.
        folders: Scores by folder.
        sizes: Scores by image size, smallest first.
    """

    images: int
    scored: int
    told: int
    model_ids: list[str]
    statuses: list[StatusCount]
    overall: Group
    lowest: Group | None
    interval_width: float | None
    scaled_down: int
    enlarged: int
    bytes: int
    histogram: Histogram | None
    worst: list[ShownPhoto]
    best: list[ShownPhoto]
    between: list[ShownPhoto]
    folders: Folders
    sizes: list[Group]


def compute(connection: duckdb.DuckDBPyConnection, table: str, *, most: int, between: int) -> Statistics:
    """Computes what is told of the scores of one run.

    Args:
        connection: Of the database.
        table: That :func:`~pipelines.reporting.database.load_scores` made.
        most: Number of photographs shown of the worst, and of the best.
        between: Number of photographs shown between those, at most.

    Returns:
        The statistics.
    """
    images, scored, told, width, scaled_down, enlarged, size = select_one(
        connection,
        f"""SELECT count(*), count(score), count(not_photo), avg(score_upper - score_lower),
                   count(*) FILTER (score IS NOT NULL AND scored_pixels < width::BIGINT * height),
                   count(*) FILTER (score IS NOT NULL AND scored_pixels >= {ENLARGED} * width::BIGINT * height),
                   coalesce(sum(bytes), 0)::BIGINT
            FROM {table}""",
    )
    model_ids = connection.execute(f"SELECT DISTINCT model_id FROM {table} ORDER BY 1").fetchall()
    overall = _groups(connection, table, "''")[0]
    worst, best = extremes(connection, table, scored, most)
    return Statistics(
        images=images,
        scored=scored,
        told=told,
        model_ids=[row[0] for row in model_ids],
        statuses=_statuses(connection, table),
        overall=overall,
        lowest=_lowest(connection, table, overall),
        interval_width=width,
        scaled_down=scaled_down,
        enlarged=enlarged,
        bytes=size,
        histogram=histogram(connection, table, score_edges(connection, [table])) if scored else None,
        worst=worst,
        best=best,
        between=photos_between(connection, table, worst[-1].score, best[-1].score, between) if best else [],
        folders=_folders(connection, table),
        sizes=_sizes(connection, table),
    )


def score_edges(connection: duckdb.DuckDBPyConnection, tables: Sequence[str]) -> NDArray[np.float64]:
    """Chooses the bars of a histogram: of a round width, holding nearly all scores.

    The few scores that lie far from all others are left outside, since bars that hold them would be too wide.

    Args:
        connection: Of the database.
        tables: Those whose scores are to share the bars; some must have one.

    Returns:
        (N + 1,) float64 edges.
    """
    union = " UNION ALL ".join(f"SELECT score FROM {table} WHERE score IS NOT NULL" for table in tables)
    least, most, (low, high) = select_one(
        connection,
        f"SELECT min(score), max(score), quantile_cont(score, [0.001, 0.999]) FROM ({union})",
    )
    margin = (high - low) / 2
    low, high = max(least, low - margin), min(most, high + margin)
    # Scores that are all equal get a bar of their own.
    step = round_up((high - low) / BARS) if high > low else round_up(max(abs(high), 1.0) / BARS)
    first, last = math.floor(low / step), math.floor(high / step) + 1
    return np.arange(first, last + 1) * step


def round_up(step: float) -> float:
    """Gives the least number of the form 1, 2 or 5 times a power of ten that is not less than another."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step)


def decimals_of(step: float) -> int:
    """Gives how many decimals multiples of a step need that :func:`round_up` gave."""
    return max(0, -math.floor(math.log10(step) + 1e-9))


def histogram(connection: duckdb.DuckDBPyConnection, table: str, edges: NDArray[np.float64]) -> Histogram:
    """Counts the scores of a table in bars of equal width.

    Args:
        connection: Of the database.
        table: The scores.
        edges: (N + 1,) edges of the bars.

    Returns:
        The counts.
    """
    bars = len(edges) - 1
    step = (edges[-1] - edges[0]) / bars
    found = connection.execute(
        f"""SELECT greatest(-1, least({bars}, floor((score::DOUBLE - ?) / ?)))::BIGINT AS bar, count(*)
            FROM {table} WHERE score IS NOT NULL GROUP BY bar""",
        [float(edges[0]), float(step)],
    ).fetchall()
    counts = np.zeros(bars + 2, np.int64)
    for bar, images in found:
        counts[bar + 1] = images
    return Histogram(edges, counts[1:-1], below=int(counts[0]), above=int(counts[-1]))


def select_one(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    """Gives the one row that a query selects."""
    row = connection.execute(query).fetchone()
    assert row is not None
    return row


def _statuses(connection: duckdb.DuckDBPyConnection, table: str) -> list[StatusCount]:
    counts = connection.execute(
        f"""SELECT status, count(*) AS images FROM {table}
            GROUP BY status ORDER BY status = '{Status.SCORED}' DESC, images DESC, status"""
    ).fetchall()
    # Sizes and limits differ from image to image where the reason is one.
    reasons = connection.execute(
        f"""SELECT status, arg_min(error, image_id), count(*) AS images
            FROM {table} WHERE error IS NOT NULL
            GROUP BY status, regexp_replace(error, '[0-9][0-9.,]*', '#', 'g')
            QUALIFY row_number() OVER (PARTITION BY status ORDER BY images DESC, min(image_id)) <= {MOST_REASONS}
            ORDER BY images DESC, min(image_id)"""
    ).fetchall()
    found = []
    for status, images in counts:
        own = [Reason(error, number) for of, error, number in reasons if of == status]
        failed = 0 if status == Status.SCORED else images
        found.append(StatusCount(status, images, own, failed - sum(reason.images for reason in own)))
    return found


def _groups(connection: duckdb.DuckDBPyConnection, source: str, key: str) -> list[Group]:
    """Groups the rows of a table or query by an expression."""
    rows = connection.execute(
        f"""SELECT {key} AS name, count(*), count(score), avg(score),
                   quantile_cont(score, {list(QUANTILES)}), {REASONS}
            FROM {source} GROUP BY name"""
    ).fetchall()
    return [
        Group(name, images, scored, mean, tuple(quantiles or ()), most_first(reasons))
        for name, images, scored, mean, quantiles, reasons in rows
    ]


def _lowest(connection: duckdb.DuckDBPyConnection, table: str, overall: Group) -> Group | None:
    if not overall.quantiles:
        return None
    (group,) = _groups(connection, f"(SELECT * FROM {table} WHERE score <= {overall.quantiles[0]!r}::FLOAT)", "''")
    return group


def most_first(counts: dict[str, int] | None) -> dict[str, int]:
    """Sorts counts, the largest first; there are none where nothing was counted."""
    return dict(sorted((counts or {}).items(), key=lambda item: (-item[1], item[0])))


def _folders(connection: duckdb.DuckDBPyConnection, table: str) -> Folders:
    """Groups by folder, at the deepest level at which the groups are still few."""

    def prefix(level: int) -> str:
        return f"array_to_string(string_split(folder, '/')[:{level}], '/')"

    connection.execute(f"CREATE OR REPLACE TEMP TABLE folders AS SELECT DISTINCT folder FROM {table}")
    depth = select_one(connection, "SELECT max(len(string_split(folder, '/'))) FROM folders")[0]
    levels = range(1, min(depth, DEEPEST) + 1)
    counts = select_one(
        connection, f"SELECT {', '.join(f'count(DISTINCT {prefix(level)})' for level in levels)} FROM folders"
    )
    common = max((level for level in levels if counts[level - 1] == 1), default=0)
    level = max((level for level in levels if counts[level - 1] <= MOST_GROUPS), default=1)
    if level == common < levels[-1]:
        level += 1  # One group says nothing; better the largest of many.
    root = select_one(connection, f"SELECT any_value({prefix(common)}) FROM folders")[0]
    largest = f"""SELECT {prefix(level)} AS name FROM {table}
                  GROUP BY name ORDER BY count(*) DESC, name LIMIT {MOST_GROUPS}"""
    source = f"(SELECT name, score, reason FROM {table} LEFT JOIN ({largest}) ON name = {prefix(level)})"
    groups = _groups(connection, source, "name")
    groups.sort(key=lambda group: (group.name is None, math.inf if group.median is None else group.median, group.name))
    return Folders(root, groups, max(0, counts[level - 1] - MOST_GROUPS))


def _sizes(connection: duckdb.DuckDBPyConnection, table: str) -> list[Group]:
    classes = " ".join(f"WHEN pixels < {end:.0f} THEN '{name}'" for end, name in SIZE_CLASSES[:-1])
    source = f"(SELECT score, reason, width::BIGINT * height AS pixels FROM {table} WHERE width IS NOT NULL)"
    groups = _groups(connection, source, f"CASE {classes} ELSE '{SIZE_CLASSES[-1][1]}' END")
    order = [name for _, name in SIZE_CLASSES]
    return sorted(groups, key=lambda group: order.index(str(group.name)))
