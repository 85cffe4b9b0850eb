"""The options of ``grepr manifest``, ``score`` and ``demo``."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from pipelines.options.shared import Duration, ScoringOptions, SourceOptions


@dataclass(frozen=True, kw_only=True)
class ManifestOptions(SourceOptions):
    """List the images of a source into a manifest.

    Example: grepr manifest ~/Pictures manifest/
    """

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """A folder, a glob such as 'photos/**/*.jpg' (in quotes), or a URL such as s3://bucket/prefix; tar archives or
    Parquet files with images, by file or glob; a .csv, .tsv, .txt or .parquet table of URIs; or the manifest.json of an
    S3 Inventory."""

    manifest: Annotated[Positional[str], arg(metavar="MANIFEST")]
    """Folder or URL to write to."""


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(SourceOptions, ScoringOptions):
    """Score every image of a source. Running the same command again resumes, and redoes only what is missing.

    Example: grepr score ~/Pictures scores/
    """

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """Anything that 'grepr manifest' takes, or a manifest."""

    output: Annotated[Positional[str], arg(metavar="OUT")]
    """Folder or URL for the scores."""

    features: bool = False
    """Also write the features, so that a regressor can be fitted on them."""

    since: str | None = None
    """Output of an earlier, finished run: rows of images whose ETag (or time and size) is the same are taken over from
    it, so that only new and changed images cost anything."""

    plan: bool = False
    """Score nothing but a sample, and print how fast that was and what the whole takes."""

    within: Duration = 10 * 3600.0
    """With --plan: time that all images are to be scored in, such as 10h."""

    retry_failed: bool = False
    """Redo the images that failed for reasons that may have passed: missing, denied, timeout, crashed."""


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Make a small lake of sample photos and their distorted versions, score it and write a report. Needs no network.

    Example: grepr demo demo/
    """

    output: Annotated[Positional[str], arg(metavar="OUT")]
    """Folder to write to."""
