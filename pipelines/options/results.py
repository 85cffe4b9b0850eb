"""The options of ``grepr filter`` and ``report``, which work on scores."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from pipelines.options.shared import LARGEST_SHARD, MOST_BITS, NEAR_BITS, Address, StoredOptions, check_address
from pipelines.options.shown import (
    ADVANCED,
    ENGINE,
    READING,
    Argument,
    Column,
    FileOrUrl,
    Fraction,
    Place,
    Seconds,
    Sql,
    Value,
    Without,
)

#: Options of ``grepr filter`` that say which images are selected.
SELECTED_BY = ("min_score", "max_score", "min_interval_lower", "where", "top_fraction", "top", "per", "distinct")


@dataclass(frozen=True, kw_only=True)
class FilterOptions(StoredOptions):
    """Select images by their scores.

    Of the images that meet all conditions, --top-fraction and --top keep the best. Images without a score are never
    selected; they are listed in failed.parquet.

    Example: grepr filter scores/ --output best/ --top-fraction 0.1 --format webdataset
    """

    scores: Annotated[str, Argument("SCORES")]
    """Folder or URL that 'grepr score' or 'grepr filter' wrote to."""

    output: Place
    """The selection; the same command again goes on where this one ended."""

    min_score: float | None = None
    """Select scores from here on."""

    max_score: float | None = None
    """Select scores up to here."""

    top_fraction: Fraction | None = None
    """Select this fraction of the images, rounded up, those with the highest scores."""

    top: int | None = None
    """Select so many images, those with the highest scores."""

    per: Annotated[str | None, Value("COLUMN or SQL")] = None
    """Select the top within each group of equal values of this column or SQL expression, such as 'camera' or
    'width >= height'."""

    distinct: Annotated[int | None, Value("BITS", bare=str(NEAR_BITS))] = None
    """Of near-copies (bursts, crops, copies in other sizes or formats) select the best alone, and list the others in
    OUT/duplicates.parquet: of photos whose phash differs in so many of 64 bits at most, 0 to 10, or 6 where no number
    is given. It is done before the top is taken, with --per within each group."""

    where: Sql | None = None
    """Condition in DuckDB's SQL over the columns of the scores and of --metadata, such as "width >= 1024 and licence =
    'CC0'"."""

    metadata: FileOrUrl | None = None
    """CSV, TSV, JSON or Parquet with a row an image, joined by its column image_id, or else by that of URIs (uri, url,
    path, image, file_name or the like; relative to the table's folder) and, where there is one, member."""

    column: Column | None = None
    """The column of --metadata to join by: image_id's or the one of URIs; by default it is told by its name."""

    min_interval_lower: float | None = None
    """Select images whose prediction interval lies above this: those that are surely that good."""

    format: Literal["parquet", "txt", "webdataset", "copy"] = "parquet"
    """What to make beside the rows of the selection, which always go to OUT/scores: nothing more; a list of URIs, the
    best first, OUT/uris.txt; tar files with each image and its scores as JSON, OUT/tars; or copies of the images,
    OUT/images."""

    shard_size: Annotated[int, ADVANCED] = LARGEST_SHARD
    """Images in a Parquet or tar file."""

    unfinished: Annotated[bool, ADVANCED] = False
    """Take scores that 'grepr score' has not finished, as far as they are there."""

    overwrite: bool = False
    """Replace a selection made otherwise."""

    workers: Annotated[int | None, ENGINE] = None
    """Processes that write tar files or copies; by default one a CPU core."""

    address: Annotated[Address | None, ENGINE] = None
    """Ray cluster to write tar files or copies with: 'auto' is that of this machine, HOST:PORT the address of its head;
    by default the one that runs this command as a job, or else Ray is started here and stopped at the end, as 'local'
    says."""

    timeout: Annotated[Seconds, READING] = 60.0
    """Time that reading one image may take before it is left out."""

    max_failed_fraction: Annotated[Fraction, ADVANCED] = 0.05
    """Exit with 3 if a larger fraction of the selected images could not be written."""

    @property
    def wants_images(self) -> bool:
        """Tells whether the images themselves are written."""
        return self.format in ("webdataset", "copy")

    def __post_init__(self) -> None:
        """Checks ranges, and that the options go together.

        Raises:
            ValueError: Names the option that is missing, out of place or out of range.
        """
        super().__post_init__()
        check_address(self.address)
        self._check_criteria()
        if self.top_fraction is not None and not 0 < self.top_fraction <= 1:
            raise ValueError("--top-fraction must be above 0 and at most 1")
        for name in ("top", "shard_size", "workers"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1")
        if self.timeout <= 0:
            raise ValueError("--timeout must be positive")
        if not 0 <= self.max_failed_fraction <= 1:
            raise ValueError("--max-failed-fraction must be between 0 and 1")

    def _check_criteria(self) -> None:
        ends = {"--min-score": self.min_score, "--max-score": self.max_score}
        criteria = (*ends.values(), self.top_fraction, self.top, self.where, self.min_interval_lower, self.distinct)
        if all(value is None for value in criteria):
            raise ValueError(
                "nothing to select by; give --min-score, --max-score, --top-fraction, --top, --where, --distinct or "
                "--min-interval-lower"
            )
        for name, value in {**ends, "--min-interval-lower": self.min_interval_lower}.items():
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number")
        if self.min_score is not None and self.max_score is not None and self.min_score > self.max_score:
            raise ValueError("--min-score is above --max-score")
        if self.top_fraction is not None and self.top is not None:
            raise ValueError("--top-fraction and --top exclude each other")
        ranked = self.top_fraction is not None or self.top is not None
        if ranked and (self.min_score is not None or self.max_score is not None):
            raise ValueError(
                "--min-score or --max-score, and --top-fraction or --top, exclude each other: a threshold says how "
                "good the images are, a top how many; to combine them, put the threshold into --where: 'score >= 0.5'"
            )
        if self.distinct is not None and not 0 <= self.distinct <= MOST_BITS:
            raise ValueError(f"--distinct must be between 0 and {MOST_BITS}")
        if self.per is not None and not ranked and self.distinct is None:
            raise ValueError("--per goes with --top-fraction, --top or --distinct")
        if self.metadata is not None and self.where is None and self.per is None:
            raise ValueError("--metadata is for --where and --per; give one that uses it, or leave it out")
        if self.column is not None and self.metadata is None:
            raise ValueError("--column is of --metadata; give that too, or leave it out")


@dataclass(frozen=True, kw_only=True)
class ReportOptions(StoredOptions):
    """Make one HTML file that shows what the scores come to, complete in itself.

    Example: grepr report scores/
    """

    scores: Annotated[str, Argument("SCORES")]
    """Folder or URL that 'grepr score' or 'grepr filter' wrote to; it need not be finished."""

    output: FileOrUrl | None = None
    """What to write, or a folder for report.html; by default report.html in SCORES."""

    compare: Place | None = None
    """Output of another 'grepr score', such as last night's: tells what has changed since."""

    title: Annotated[str | None, Value("TEXT")] = None
    """Of the page; by default it names the source."""

    thumbnails: Annotated[bool, Without("Show no copies of photos; by default some are read, 240 at most.")] = True
    """Show copies of some photos, 240 at most, which are read for it."""
