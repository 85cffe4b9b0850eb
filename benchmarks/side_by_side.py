"""Ways to do one job that take turns within one run, and the table of their ratios."""

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Run:
    """One turn of a way.

    Attributes:
        images_per_second: Its speed.
        scores: By the photo's name, where they mean something.
    """

    images_per_second: float
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A row of the table, which gives the speed of a way divided by that of another.

    Attributes:
        title: What is compared.
        way: Name of the way above the line.
        other: Name of the way below it.
        aim: For the ratio, in words.
    """

    title: str
    way: str
    other: str
    aim: str = "-"


def take_turns(ways: Mapping[str, Callable[[], Run]], rounds: int) -> dict[str, list[Run]]:
    """Runs every way once a round, forwards and backwards in turn, so that none always follows the same other.

    Args:
        ways: By name.
        rounds: How many.

    Returns:
        The runs of each way, one a round.
    """
    runs: dict[str, list[Run]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            began = time.perf_counter()
            runs[name].append(ways[name]())
            speed, seconds = runs[name][-1].images_per_second, time.perf_counter() - began
            print(f"round {number + 1}: {name}: {speed:.2f} images/s ({seconds:.0f} s)", file=sys.stderr, flush=True)
    return runs


def table(rows: Sequence[Row], runs: Mapping[str, Sequence[Run]]) -> str:
    """Makes the table: medians over rounds of speeds and of the ratio within a round, and the ratio's range."""
    lines = ["| compared | images/s | the other's | ratio (range) | aim |", "|---|---|---|---|---|"]
    for row in rows:
        speeds, others = ([run.images_per_second for run in runs[name]] for name in (row.way, row.other))
        ratios = [a / b for a, b in zip(speeds, others, strict=True)]
        lines.append(
            f"| {row.title} | {statistics.median(speeds):.2f} | {statistics.median(others):.2f} "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) | {row.aim} |"
        )
    return "\n".join(lines)


def largest_difference(one: Run, other: Run) -> float:
    """Compares scores, of which both runs must have the same.

    Raises:
        ValueError: They scored different photos.
    """
    if one.scores.keys() != other.scores.keys():
        raise ValueError("two ways scored different photos")
    return max(abs(score - other.scores[name]) for name, score in one.scores.items())
