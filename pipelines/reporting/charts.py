"""What charts are drawn of: bars and lines as SVG that is stretched to its place, marks of an axis as text beside it.

The drawings take their colours from the page, so that they follow its light or dark scheme, and letters keep their size
whatever the width. What tells one thing from another is never colour alone, but its form, its place or a label.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pipelines.reporting.statistics import Histogram, decimals_of, round_up

#: Units of a drawing from left to right and from bottom to top.
WIDTH, HEIGHT = 1000, 400
#: Steps that an axis has at most.
MOST_TICKS_ACROSS, MOST_TICKS_UP = 6, 5
#: Fraction of a bar that is left free beside it.
GAP = 0.12


@dataclass(frozen=True)
class Tick:
    """A mark of an axis: how far along it in percent, and what is written there."""

    place: float
    label: str


@dataclass(frozen=True)
class Chart:
    """A chart without its words.

    Attributes:
        drawing: SVG that fills its place.
        across: Marks of the axis from left to right.
        up: Marks of the axis from bottom to top.
    """

    drawing: Markup
    across: list[Tick]
    up: list[Tick]


def distribution(histogram: Histogram) -> Chart:
    """Draws how scores are distributed.

    Args:
        histogram: Of the scores.

    Returns:
        Bars.
    """
    top = max(1, int(histogram.counts.max()))
    step = max(1, round_up(top / MOST_TICKS_UP))
    bars = _bars([count / top for count in histogram.counts.tolist()], "bar")
    return Chart(_svg(bars), _across(histogram), _up(step, top, lambda value: f"{value:,.0f}"))


def drift(before: Histogram, now: Histogram) -> Chart:
    """Draws two distributions over one another, as fractions of each: bars for then, a line for now.

    Args:
        before: Of the other run.
        now: Of this one, with the same bars.

    Returns:
        Bars and a line.
    """
    old, new = (
        [count / max(1, one.counts.sum() + one.below + one.above) for count in one.counts.tolist()]
        for one in (before, now)
    )
    top = max(*old, *new, 1e-9)
    step = round_up(100 * top / MOST_TICKS_UP)
    line = _outline([share / top for share in new])
    decimals = 0 if step >= 1 else 1
    return Chart(
        _svg(_bars([share / top for share in old], "old") + line),
        _across(before),
        _up(step, 100 * top, lambda value: f"{value:.{decimals}f} %"),
    )


def _bars(heights: Sequence[float], name: str) -> Markup:
    """Draws bars of heights from 0 to 1; the least that is not zero can still be seen."""
    wide = WIDTH / len(heights)
    path = "".join(
        f"M{(i + GAP / 2) * wide:.1f} {HEIGHT}v{-max(2.0, height * HEIGHT):.1f}h{(1 - GAP) * wide:.1f}V{HEIGHT}z"
        for i, height in enumerate(heights)
        if height
    )
    return Markup('<path class="{}" d="{}"/>').format(name, path)


def _outline(heights: Sequence[float]) -> Markup:
    wide = WIDTH / len(heights)
    path = f"M0 {HEIGHT}" + "".join(f"V{HEIGHT * (1 - height):.1f}h{wide:.2f}" for height in heights) + f"V{HEIGHT}"
    return Markup('<path class="new" d="{}"/>').format(path)


def _svg(content: Markup) -> Markup:
    return Markup('<svg viewBox="0 0 {} {}" preserveAspectRatio="none" aria-hidden="true">{}</svg>').format(
        WIDTH, HEIGHT, content
    )


def _across(histogram: Histogram) -> list[Tick]:
    low, high = float(histogram.edges[0]), float(histogram.edges[-1])
    step = round_up((high - low) / MOST_TICKS_ACROSS)
    decimals = decimals_of(step)
    numbers = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    return [
        Tick(
            100 * (number * step - low) / (high - low), f"{number * step:z.{decimals}f}".replace("-", "\N{MINUS SIGN}")
        )
        for number in numbers
    ]


def _up(step: float, top: float, write: Callable[[float], str]) -> list[Tick]:
    return [Tick(100 * number * step / top, write(number * step)) for number in range(int(top / step + 1e-9) + 1)]
