"""The options of ``grepr label``, ``fit`` and ``evaluate``, which work with ratings."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pipelines.options.shared import NamesOptions, ScoringOptions
from pipelines.options.shown import ADVANCED, Argument, File, Fraction, Place, Value, Without

#: Choosing photos to rate takes memory that grows with the square of their number.
MOST_POOL = 10_000


@dataclass(frozen=True, kw_only=True)
class LabelOptions(NamesOptions, ScoringOptions):
    """Rate the photos that teach a model most, on a page in the browser, for 'grepr fit'.

    The page is served to this machine alone, unless --host says otherwise. The same command again goes on where it
    ended.

    Example: grepr label scores/ --count 50 --output ratings.csv
    """

    source: Annotated[str, Argument("SCORES")]
    """Output of 'grepr score', best with --features; or a manifest, or anything that 'grepr manifest' takes."""

    output: File = "ratings.csv"
    """Table of ratings to write, on this machine; beside it every rating is kept in a journal, .events.jsonl."""

    count: int = 50
    """Photos to rate; once they are rated, a larger number adds the next best."""

    repeats: Annotated[Fraction, ADVANCED] = 0.1
    """Fraction of them that is shown a second time, to measure how consistent a rater is."""

    pool: Annotated[int, ADVANCED] = 2000
    """Choose among so many photos, a random sample where there are more; without the model's features in SCORES they
    are scored first."""

    seed: Annotated[int, ADVANCED] = 0
    """Seed of the sample."""

    host: Annotated[str, Value("ADDRESS")] = "127.0.0.1"
    """Address of this machine to serve the page at; 0.0.0.0 for all that it has, so that a phone in the same network
    can rate. Whoever has the link sees the photos; it holds a secret, which changes with every start."""

    port: int = 0
    """Port of the page; by default any that is free."""

    def __post_init__(self) -> None:
        """Checks ranges.

        Raises:
            ValueError: Names the option that is out of range.
        """
        super().__post_init__()
        if not 1 <= self.count <= self.pool <= MOST_POOL:
            raise ValueError(f"--count must be at least 1, and --pool between it and {MOST_POOL:,}")
        if not 0 <= self.repeats <= 0.5:
            raise ValueError("--repeats must be between 0 and 0.5")
        if not 0 <= self.port < 2**16:
            raise ValueError("--port must be between 0 and 65535")
        if self.seed < 0:
            raise ValueError("--seed must not be negative")


@dataclass(frozen=True, kw_only=True)
class FitOptions(ScoringOptions):
    """Fit the regressor of a model bundle on rated images, and write a new bundle.

    --model is the bundle to start from, one that these ratings did not go into.

    Example: grepr fit ratings.csv --images ~/Pictures --output my-model/
    """

    ratings: Annotated[str, Argument("RATINGS")]
    """CSV or Parquet with columns image (path below --images, or URI), mos and, where known, std (standard deviation of
    the ratings of an image) and count (their number; without, std is that of mos itself), by which ratings are weighed.
    Where there is a column split, only its rows 'train' are used. Images inside of tar or Parquet files are told by
    member, offset and size, as 'grepr label' writes them."""

    images: Place
    """What the ratings' paths start from."""

    output: Place
    """The new bundle."""

    name: Annotated[str | None, Value("NAME")] = None
    """Of the new bundle; by default the last part of --output."""

    from_scratch: bool = False
    """Learn from these ratings alone. By default a fit starts from the regression of --model, where it has one: the
    fewer the ratings, the more it helps."""

    json: bool = False
    """Print JSON instead of sentences."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(ScoringOptions):
    """Measure how well a model bundle's features predict ratings from few labels.

    Example: grepr evaluate ratings.csv --images ~/Pictures --labels 50,100,200
    """

    ratings: Annotated[str, Argument("RATINGS")]
    """CSV or Parquet with columns image, mos and, where known, std and count, as 'grepr fit' takes them. Where there is
    a column split, labels are drawn from 'train' and all other rows are the test set; without, every draw holds out a
    random fifth for the test."""

    images: Place
    """What the ratings' paths start from."""

    labels: Annotated[str | None, Value("NUMBERS")] = None
    """Of labels, with commas between; by default 50, 100 and 200, as far as there are training images."""

    splits: int = 10
    """Random draws of labels; medians over them are printed."""

    protocol: Annotated[Literal["grepr", "paper"], ADVANCED] = "grepr"
    """What is fitted on the labels of a draw: grepr, what 'grepr fit --from-scratch' fits; paper, what the method's
    authors name, a ridge regression (alpha 0.1, 1, 10 or 100) and an SVR, on features as they are. Needs pip install
    'grepr[paper]'."""

    zero_shot: Annotated[bool, Without("Leave out the low-level zero-shot score, which costs more than all else.")] = (
        True
    )
    """Measure the low-level zero-shot score too, which costs more than all else."""

    seed: Annotated[int, ADVANCED] = 0
    """Seed of the draws."""

    json: bool = False
    """Print JSON instead of a table."""
