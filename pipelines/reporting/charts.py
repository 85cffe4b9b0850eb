"""Charts as SVG that takes its colours from the page, so that they follow its light or dark scheme.

Matplotlib knows nothing of a page's colours: it draws with stand-ins, which are then replaced by CSS variables. What
tells one thing from another is never colour alone, but hatching, line style, place or a label.
"""

import io
import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipelines.reporting.statistics import Histogram, Tenth

# That it looks through the machine's fonts once is of no interest to anyone.
logging.getLogger("matplotlib").setLevel(logging.ERROR)

#: Stand-ins for the page's colours; no colours that anybody would draw with.
INK, MUTED, LINE, ACCENT, SOFT = "#010203", "#020304", "#030405", "#040506", "#050607"
_VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", ACCENT: "accent", SOFT: "soft"}
_SETTINGS: dict[Any, object] = {
    "svg.fonttype": "none",
    "font.size": 12,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid.axis": "y",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.use_mathtext": False,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.left": False,
    "hatch.linewidth": 1.2,
    "patch.linewidth": 1,
    "legend.frameon": False,
}
#: Widths of a chart in points: for a phone, whose narrow screen would else shrink the letters, and for the rest.
NARROW, WIDE = 340, 820
POINTS_PER_INCH = 72


def distribution(histogram: Histogram, tenths: Sequence[Tenth], median: float, label: str) -> Markup:
    """Draws how scores are distributed, and below, on the same axis, how sure those of each tenth are.

    Args:
        histogram: Of the scores.
        tenths: With prediction intervals; without them, or none, the lower part is left out.
        median: Of the scores.
        label: What the chart shows, for who cannot see it.

    Returns:
        HTML with a narrow and a wide drawing.
    """
    sure = [(tenth.mean, *tenth.interval) for tenth in tenths if tenth.interval is not None]

    def draw(figure: Figure) -> None:
        if sure:
            top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        else:
            top = bottom = figure.subplots()
        _bars(top, histogram)
        top.axvline(median, color=INK, linewidth=1.5)
        top.annotate(
            f"median {median:.2f}",
            (median, 1),
            xytext=(4, 2),
            textcoords="offset points",
            xycoords=("data", "axes fraction"),
            annotation_clip=False,
        )
        top.set_ylabel("photos")
        if sure:
            _intervals(bottom, sure)
        bottom.set_xlabel("score (higher is better)")

    return _both(draw, 400 if sure else 260, label)


def _bars(axes: Axes, histogram: Histogram) -> None:
    axes.bar(
        histogram.edges[:-1],
        histogram.counts,
        np.diff(histogram.edges),
        align="edge",
        color=ACCENT,
        edgecolor=SOFT,
        linewidth=0.8,
    )
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _intervals(axes: Axes, tenths: Sequence[tuple[float, float, float]]) -> None:
    rows = np.arange(1, len(tenths) + 1)
    means, lower, upper = np.transpose(tenths)
    axes.hlines(rows, lower, upper, color=MUTED, linewidth=2)
    axes.plot(lower, rows, "|", upper, rows, "|", color=MUTED, markersize=7, markeredgewidth=2)
    axes.plot(means, rows, "o", color=ACCENT, markersize=6, markeredgecolor=SOFT)
    axes.set_yticks([1, len(tenths)], ["lowest", "highest"])
    axes.set_ylabel("tenth")
    axes.set_ylim(0.3, len(tenths) + 0.7)
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")


def drift(before: Histogram, now: Histogram, label: str) -> Markup:
    """Draws two distributions over one another, as fractions of each: hatched bars for then, a line for now.

    Args:
        before: Of the other run.
        now: Of this one, with the same bars.
        label: What the chart shows, for who cannot see it.

    Returns:
        HTML with a narrow and a wide drawing.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        shares = [100 * h.counts / max(1, h.counts.sum() + h.below + h.above) for h in (before, now)]
        axes.stairs(shares[0], before.edges, fill=True, facecolor="none", edgecolor=MUTED, hatch="////", label="before")
        axes.stairs(shares[1], now.edges, color=ACCENT, linewidth=2.5, label="now")
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set_ylabel("% of the photos")
        axes.set_xlabel("score (higher is better)")
        axes.legend(loc="upper left")

    return _both(draw, 280, label)


def _both(draw: Callable[[Figure], None], height: int, label: str) -> Markup:
    drawing = Markup('<div class="chart {}" role="img" aria-label="{}">{}</div>')
    widths = {"narrow": NARROW, "wide": WIDE}
    return Markup("").join(drawing.format(name, label, _svg(draw, width, height)) for name, width in widths.items())


def _svg(draw: Callable[[Figure], None], width: int, height: int) -> Markup:
    # Two drawings of one page must not share names: what one of them hides would be missing in the other.
    salt = f"{draw.__qualname__} {width}"
    with mpl.rc_context({**_SETTINGS, "svg.hashsalt": salt}):
        figure = Figure((width / POINTS_PER_INCH, height / POINTS_PER_INCH), POINTS_PER_INCH, layout="constrained")
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format")))
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", svg)
    svg = re.sub(r"font-family: [^;\"]*;?", "", svg)
    for colour, name in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{name})")
    return Markup(svg)  # noqa: S704 - matplotlib's, of numbers and fixed words
