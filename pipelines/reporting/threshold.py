"""How many photographs a threshold keeps, for each that a person may want."""

import math
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np

from pipelines.reporting.statistics import Histogram, decimals_of, round_up

#: Thresholds over the whole scale of a model, and over the scores that there are.
STEPS = 100
FEWEST_STEPS, MOST_STEPS = 30, 400
#: Scores that are held at a time.
ROWS = 100_000


@dataclass(frozen=True)
class Threshold:
    """A score from which on photographs are kept.

    Attributes:
        score: As a person writes it, such as ``0.60``; exact, since counts go by it.
        photos: Number of photographs whose score is at least that.
    """

    score: str
    photos: int


def count_kept(
    connection: duckdb.DuckDBPyConnection, table: str, histogram: Histogram, scale: tuple[float, float] | None
) -> list[Threshold]:
    """Counts what thresholds keep, as ``grepr filter --min-score`` does.

    Args:
        connection: Of the database.
        table: The scores; some are there.
        histogram: Of them, between whose ends the thresholds lie.
        scale: Lowest and highest rating of the model's scale, a hundredth of which is a step; None where unknown.

    Returns:
        Thresholds at even steps, lowest first, that keep some photographs each.
    """
    low, high = float(histogram.edges[0]), float(histogram.edges[-1])
    span = scale[1] - scale[0] if scale else high - low
    # Scores that reach far beyond the scale get wider steps, those that lie close together finer ones.
    step = round_up(min(max(span / STEPS, (high - low) / MOST_STEPS), (high - low) / FEWEST_STEPS))
    decimals = decimals_of(step)
    first, last = math.floor(low / step + 1e-9), math.floor(high / step + 1e-9)
    scores = [f"{number * step:z.{decimals}f}" for number in range(first, last + 1)]
    # Compared as the filter does it: in single precision.
    bounds = np.array(scores, np.float64).astype(np.float32)
    reached = np.zeros(len(bounds) + 1, np.int64)
    reader: Any = connection.sql(f"SELECT score FROM {table} WHERE score IS NOT NULL").to_arrow_reader(ROWS)
    for batch in reader:
        found = np.searchsorted(bounds, batch["score"].to_numpy(), side="right")
        reached += np.bincount(found, minlength=len(reached))
    counts = reached[::-1].cumsum()[-2::-1].tolist()  # the first one counts what reaches no threshold
    return [Threshold(score, photos) for score, photos in zip(scores, counts, strict=True) if photos]


def nearest(thresholds: list[Threshold], score: float) -> int:
    """Gives the index of the threshold that is nearest to a score."""
    return min(range(len(thresholds)), key=lambda i: abs(float(thresholds[i].score) - score))
