"""The page: one HTML file that loads nothing, made from a template in which everything is escaped."""

import base64
import hashlib
import json
import math
import posixpath
import re
import shlex
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipelines.reporting.charts import Chart
from pipelines.reporting.comparison import Comparison
from pipelines.reporting.copies import Copies
from pipelines.reporting.failures import FailedImage
from pipelines.reporting.statistics import Statistics
from pipelines.reporting.threshold import Threshold
from pipelines.reporting.thumbnails import Thumbnail
from pipelines.scoring.run_record import RunRecord


@dataclass(frozen=True)
class Step:
    """Time of one step of scoring, in seconds of one process, and its fraction of all."""

    name: str
    seconds: float
    share: float


@dataclass(frozen=True)
class Selection:
    """What is told of an output of ``grepr filter``.

    Attributes:
        scores: What was selected from.
        images: Number of rows there; None where the selection is not finished.
        criteria: The options that it was made by, as they are written.
    """

    scores: str
    images: int | None
    criteria: str


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
        run: The record of the run; None where it is not finished, or a selection.
        selection: What is told of a selection; None of a run.
        finished: When either was, in UTC; None where it is not.
        expected: Number of photos of an unfinished run, where known; None where it is finished.
        model_name: Name of the bundle, where known.
        card: Its model card; None where it cannot be had.
        scale: Lowest and highest rating of the model's scale, where known.
        intervals: What prediction intervals are, in words; None where that is not known.
        notes: Warnings, in sentences.
        distribution: Histogram of the scores; None without any.
        thresholds: What each keeps; empty without any score.
        chosen: Index of the one that the page begins with.
        filter: The command that a threshold is put behind.
        copies: Near-copies; None where no photograph has a hash.
        failures: Images without a score, as far as the page holds them.
        failures_query: That finds them all.
        page: Number of photographs on one page of the worst or the best.
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
    selection: Selection | None
    finished: str | None
    expected: int | None
    model_name: str | None
    card: Mapping[str, Any] | None
    scale: tuple[float, float] | None
    intervals: str | None
    notes: list[str]
    distribution: Chart | None
    thresholds: list[Threshold]
    chosen: int
    filter: str
    copies: Copies | None
    failures: list[FailedImage]
    failures_query: str
    page: int
    steps: list[Step] = field(default_factory=list)
    comparison: Comparison | None = None
    compared_with: str = ""
    other_model: bool = False
    drift: list[str] = field(default_factory=list)
    drift_chart: Chart | None = None

    @property
    def axis(self) -> tuple[float, float]:
        """Ends of the scale that all groups are drawn on."""
        assert self.statistics.histogram is not None
        edges = self.statistics.histogram.edges
        return float(edges[0]), float(edges[-1])

    @property
    def aspect(self) -> float:
        """Width by height of the place of a photograph: that of most of them, but not too long or high for the rest."""
        aspects = [shown.width / shown.height for shown in (*self.statistics.worst, *self.statistics.best)]
        return round(min(max(median(aspects), 1.0), 1.5), 2) if aspects else 1.0


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
        "base": posixpath.basename,
        "below": below,
        "breakable": breakable,
        "label": label,
        "minus": with_minus,
        "number": format_number,
        "percent": format_percent,
        "place": place,
        "plain": plain,
        "quantity": format_quantity,
        "score": format_score,
        "shorten": shorten,
        "words": words,
    }
    # As it stands in the page, since the page allows no other: nothing that a name could smuggle in is ever run.
    script = environment.get_template("report.js").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = environment.get_template("report.html")
    return template.render(report=report, script=Markup(script), script_hash=f"sha256-{digest}").lstrip()  # noqa: S704


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


def breakable(text: str) -> Markup:
    """Lets a line end behind what parts the words of a name, so that it need not end within one."""
    return Markup("<wbr>").join(re.split(r"(?<=[/_.\-])(?=.)", text))


def quote(text: str) -> str:
    """Quotes a text for a shell; characters that are not seen but act, by their numbers, as bash and zsh read them."""
    if visible(text) == text:
        return shlex.quote(text)
    return "$'" + "".join(_in_quotes(character) for character in text) + "'"


def _in_quotes(character: str) -> str:
    if character in "\\'":
        return "\\" + character
    if visible(character) == character:
        return character
    try:
        return "".join(f"\\x{byte:02x}" for byte in character.encode(errors="surrogateescape"))
    except UnicodeEncodeError:
        return "?"


def below(path: str, root: str) -> str:
    """Gives a path below that of a folder; of the folder itself nothing, and all of it where the folder is none."""
    return path if not root else path.removeprefix(root).removeprefix("/")


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


def format_number(number: int) -> str:
    """Writes a count with its thousands apart."""
    return f"{number:,}"


def format_score(score: float) -> str:
    """Writes a score to two decimals, without a sign before zero."""
    return with_minus(f"{score:z.2f}")


def with_minus(number: str) -> str:
    """Gives a number with a minus for a hyphen."""
    return number.replace("-", "\N{MINUS SIGN}")


def format_change(change: float) -> str:
    """Writes a difference of scores with its sign; one of less than half a thousandth is none."""
    return with_minus(f"{change:+.3f}") if abs(change) >= 0.0005 else "0"


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
