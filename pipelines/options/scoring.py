"""The options of ``grepr manifest``, ``score``, ``nightly`` and ``demo``."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pipelines.options.shared import Duration, ScoringOptions, SourceOptions
from pipelines.options.shown import ADVANCED, Argument, Place

FeaturesDtype = Literal["float16", "float32"]


@dataclass(frozen=True, kw_only=True)
class ManifestOptions(SourceOptions):
    """List the images of a source into a manifest.

    Example: grepr manifest ~/Pictures manifest/
    """

    source: Annotated[str, Argument("SOURCE")]
    """A folder, a glob such as 'photos/**/*.jpg' (in quotes), or a URL such as s3://bucket/prefix; tar archives or
    Parquet files with images, by file or glob; a table of URIs, .csv, .tsv, .txt, .json, .jsonl or .parquet; or the
    manifest.json of an S3 Inventory."""

    manifest: Annotated[str, Argument("MANIFEST")]
    """Folder or URL to write to."""


@dataclass(frozen=True, kw_only=True)
class LakeOptions(SourceOptions, ScoringOptions):
    """How a whole source is scored."""

    source: Annotated[str, Argument("SOURCE")]
    """A folder, a glob in quotes, or a URL such as s3://bucket/prefix; also tar archives, Parquet files, tables of URIs
    and more, as 'grepr manifest --help' tells; or a manifest."""

    features: bool = False
    """Also write the features, so that a regressor can be fitted on them."""

    features_dtype: Annotated[FeaturesDtype, ADVANCED] = "float16"
    """What --features are rounded to. float32 keeps all that the model gives, takes twice the room, and is what every
    reader of Parquet knows."""

    retry_failed: bool = False
    """Redo the images that failed for reasons that may have passed: missing, denied, timeout, crashed."""

    @property
    def written_features(self) -> FeaturesDtype | None:
        """What features are written as; None where they are not."""
        return self.features_dtype if self.features else None

    def __post_init__(self) -> None:
        """Checks what does not go together.

        Raises:
            ValueError: Names the options.
        """
        super().__post_init__()
        if self.features_dtype != "float16" and not self.features:
            raise ValueError("--features-dtype is for --features; give both, or leave it out")


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(LakeOptions):
    """Score every image of a source. Running the same command again resumes, and redoes only what is missing.

    Example: grepr score ~/Pictures scores/
    """

    output: Annotated[str, Argument("OUT")]
    """Folder or URL for the scores."""

    since: Place | None = None
    """Output of an earlier, finished run: rows of images whose ETag (or time and size) is the same are taken over from
    it, so that only new and changed images cost anything."""

    update: bool = False
    """Bring a finished output up to date in place: list the source anew, score what is new or has changed, take over
    the other rows, drop those of images that are gone. Until all is done, the output stays as it was."""

    plan: bool = False
    """Score nothing but a sample, and print how fast that was and what the whole takes."""

    within: Duration = 10 * 3600.0
    """With --plan: time that all images are to be scored in, by default 10h."""

    def __post_init__(self) -> None:
        """Checks what does not go together.

        Raises:
            ValueError: Names the options.
        """
        super().__post_init__()
        if self.update and self.since is not None:
            raise ValueError("--update takes over the output's own rows; leave --since out, or name another output")
        if self.update and self.plan:
            raise ValueError("--plan scores nothing but a sample; leave --update out")
        if self.update and self.retry_failed:
            raise ValueError("--update retries what failed in passing by itself; leave --retry-failed out")


@dataclass(frozen=True, kw_only=True)
class NightlyOptions(LakeOptions):
    """Score a source into a folder a night, named by its date; what has not changed is taken over from the last night.

    A night that was not finished is finished first. Started again in the same night, it goes on where it ended. Its
    date is that of the noon before (UTC).

    Example: grepr nightly s3://lake/ s3://scores/nightly
    """

    scores: Annotated[str, Argument("SCORES")]
    """Folder or URL that holds a folder a night."""


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Make a small lake of sample photos and their distorted versions, score it and write a report. Needs no network.

    Example: grepr demo demo/
    """

    output: Annotated[str, Argument("OUT")]
    """Folder to write to."""
