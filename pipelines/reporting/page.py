"""The page: one HTML file that loads nothing, made from a template in which everything is escaped."""

import json
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipelines.reporting.comparison import Comparison
from pipelines.reporting.statistics import Statistics
from pipelines.reporting.thumbnails import Thumbnail
from pipelines.scoring.run_record import RunRecord


@dataclass(frozen=True)
class Step:
    """Time of one step of scoring, in seconds of one process, and its fraction of all."""

    name: str
    seconds: float
    share: float


@dataclass(frozen=True)
class Report:
    """What the page tells.

    Attributes:
        title: Of the page.
        source: What was scored.
        version: Of grepr.
        statistics: Of the scores.
        thumbnails: By ``image_id``.
        with_thumbnails: Whether there are to be any.
        run: The record of the run; None where it is not finished.
        expected: Number of photos of an unfinished run, where known; None where it is finished.
        model_name: Name of the bundle, where known.
        card: Its model card; None where it cannot be had.
        scale: Lowest and highest rating of the model's scale, where known.
        intervals: What prediction intervals are, in words; None where that is not known.
        notes: Warnings, in sentences.
        distribution_chart: Histogram of the scores; None without any.
        steps: Time by step, longest first.
        comparison: With another run, where there is one.
        compared_with: Where that is.
        other_model: Whether it was scored by another model; then the first sentence says so.
        drift: The difference in sentences.
        drift_chart: Histograms of both.
    """

    title: str
    source: str
    version: str
    statistics: Statistics
    thumbnails: Mapping[str, Thumbnail]
    with_thumbnails: bool
    run: RunRecord | None
    expected: int | None
    model_name: str | None
    card: Mapping[str, Any] | None
    scale: tuple[float, float] | None
    intervals: str | None
    notes: list[str]
    distribution_chart: Markup | None
    steps: list[Step] = field(default_factory=list)
    comparison: Comparison | None = None
    compared_with: str = ""
    other_model: bool = False
    drift: list[str] = field(default_factory=list)
    drift_chart: Markup | None = None

    @property
    def axis(self) -> tuple[float, float]:
        """Ends of the scale that all groups are drawn on."""
        assert self.statistics.histogram is not None
        edges = self.statistics.histogram.edges
        return float(edges[0]), float(edges[-1])


def render(report: Report) -> str:
    """Makes the page.

    Args:
        report: What it tells.

    Returns:
        HTML.
    """
    environment = Environment(
        loader=PackageLoader("pipelines.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        # Whatever is put into the page, but for what is HTML already.
        finalize=lambda value: visible(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def place(score: float) -> float:
        low, high = report.axis
        return round(100 * min(max((score - low) / (high - low), 0), 1), 2)

    environment.filters |= {
        "bytes": format_bytes,
        "change": format_change,
        "date": format_date,
        "duration": format_duration,
        "below": below,
        "label": label,
        "number": format_number,
        "ordinal": ordinal,
        "percent": format_percent,
        "place": place,
        "plain": plain,
        "quantity": format_quantity,
        "score": format_score,
        "shorten": shorten,
        "words": words,
    }
    return environment.get_template("report.html").render(report=report).lstrip()


def visible(text: str) -> str:
    """Replaces characters that are not seen but act (line ends, controls, marks of direction) by their numbers."""
    if text.isascii() and text.isprintable():  # nearly all are, and some are pictures of 30 kB
        return text
    return "".join(
        f"⟨U+{ord(c):04X}⟩" if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp", "Cs") else c for c in text
    )


def shorten(text: str, most: int) -> str:
    """Leaves out the middle of a long text: of a path both ends tell something, the last one more."""
    text = visible(text)
    if len(text) <= most:
        return text
    head = (most - 1) // 3
    return f"{text[:head]}…{text[head + 1 - most :]}"


def below(folder: str, root: str) -> str:
    """Gives a folder's path below another."""
    return folder.removeprefix(root).removeprefix("/") or "(not in a folder of its own)"


def label(name: str) -> str:
    """Turns the name of a status or of a field into words."""
    if name.isdigit():
        return f"{name} labels"
    said = words(name)
    return said.upper() if said in ("srocc", "plcc", "mos") else said[:1].upper() + said[1:]


def words(name: str) -> str:
    """Turns the name of a column into words."""
    return name.replace("_", " ")


def plain(value: object) -> str:
    """Says a value of JSON."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def ordinal(number: int) -> str:
    """Says which one of up to twenty."""
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number, 'th') }"


def format_number(number: int) -> str:
    """Writes a count with its thousands apart."""
    return f"{number:,}"


def format_score(score: float) -> str:
    """Writes a score to two decimals, without a sign before zero."""
    return f"{score:z.2f}".replace("-", "\N{MINUS SIGN}")


def format_change(change: float) -> str:
    """Writes a difference of scores with its sign; one of less than half a thousandth is none."""
    return f"{change:+.3f}".replace("-", "\N{MINUS SIGN}") if abs(change) >= 0.0005 else "0"


def format_percent(fraction: float) -> str:
    """Writes a fraction as a percentage; neither all nor nothing where it is not."""
    if 0 < fraction < 0.001:
        return "< 0.1 %"
    if 0.999 < fraction < 1:
        return "> 99.9 %"
    return f"{100 * fraction:.1f} %".replace(".0 %", " %")


def format_quantity(value: float) -> str:
    """Writes a rate with three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def format_bytes(size: int) -> str:
    """Writes a size in the largest unit that leaves a whole part."""
    power = min(int(math.log10(size) // 3), 5) if size else 0
    return f"{format_quantity(size / 1000**power)} {('bytes', 'kB', 'MB', 'GB', 'TB', 'PB')[power]}"


def format_duration(seconds: float) -> str:
    """Writes a time in the unit a person would take."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def format_date(iso: str) -> str:
    """Writes a moment in UTC."""
    return datetime.fromisoformat(iso).strftime("%-d %B %Y, %H:%M UTC")
