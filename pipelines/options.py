"""The options of every command, from which the command line is made. Imports nothing heavy, so help is instant."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg, subcommand

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16"]


def _json_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


StorageOptions = Annotated[
    Mapping[str, Any],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="JSON",
        instance_from_str=lambda texts: _json_object(texts[0]),
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [json.dumps(value)],
    ),
]


#: Images in a shard once there are many.
LARGEST_SHARD = 1000
#: Of grepr_core.distortions and grepr_core.zero_shot, which take long to import; a test holds them together.
MOST_KINDS, MOST_LEVELS, LEAST_SCENE_SIDE = 22, 5, 96


@dataclass(frozen=True, kw_only=True)
class StoredOptions:
    """How files are reached."""

    storage_options: StorageOptions = field(default_factory=dict)
    """Options for the file system, as fsspec takes them."""

    def __post_init__(self) -> None:
        """Has nothing to check; what inherits has."""


@dataclass(frozen=True, kw_only=True)
class SourceOptions(StoredOptions):
    """How a source is listed."""

    all_files: bool = False
    """Take every file of a folder for an image, whatever its name."""

    shard_size: int = LARGEST_SHARD
    """Images in a shard, the unit of retry and of output. The first shards are smaller."""

    def __post_init__(self) -> None:
        """Checks ranges.

        Raises:
            ValueError: Names the option that is out of range.
        """
        super().__post_init__()
        if self.shard_size < 1:
            raise ValueError("--shard-size must be at least 1")


@dataclass(frozen=True, kw_only=True)
class ManifestOptions(SourceOptions):
    """List the images of a folder, glob or URL into a manifest.

    Example: grepr manifest ~/Pictures manifest/
    """

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """A folder, a glob such as 'photos/**/*.jpg' (in quotes), or a URL such as s3://bucket/prefix."""

    manifest: Annotated[Positional[str], arg(metavar="MANIFEST")]
    """Folder or URL to write to."""


@dataclass(frozen=True, kw_only=True)
class ScoringOptions(StoredOptions):
    """How images are scored; shared by all commands that score."""

    model: str = "grepr-lite"
    """Model bundle: the name of one that ships with grepr, a folder or a URL."""

    device: Device = "auto"
    """Where the model runs; auto takes GPUs where there are any."""

    precision: Precision = "auto"
    """Arithmetic of the model; auto takes bf16 where the hardware has it."""

    workers: int | None = None
    """Processes; by default one a GPU, or else one a CPU core."""

    address: str | None = None
    """Ray cluster to use, such as 'auto' or ray://head:10001; by default Ray is started here and stopped at the end."""

    max_pixels: int | None = None
    """Scale larger images down to this many pixels; by default what the model was made for."""

    max_image_pixels: int = 250_000_000
    """Refuse images of more pixels (decompression bombs) as too_large."""

    max_image_bytes: int = 512 * 2**20
    """Refuse larger files as too_large."""

    min_side: int = 32
    """Refuse images with a shorter side as too_small."""

    timeout: float = 60.0
    """Seconds that reading one image may take before it counts as timeout."""

    max_failed_fraction: float = 0.05
    """Exit with 3 if a larger fraction of the images could not be scored."""

    def __post_init__(self) -> None:
        """Checks ranges.

        Raises:
            ValueError: Names the option that is out of range.
        """
        super().__post_init__()
        for name in ("max_image_pixels", "max_image_bytes", "min_side"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1")
        if self.workers is not None and self.workers < 1:
            raise ValueError("--workers must be at least 1")
        if self.max_pixels is not None and self.max_pixels < self.min_side**2:
            raise ValueError(f"--max-pixels must be at least the square of --min-side, {self.min_side**2}")
        if self.timeout <= 0:
            raise ValueError("--timeout must be positive")
        if not 0 <= self.max_failed_fraction <= 1:
            raise ValueError("--max-failed-fraction must be between 0 and 1")


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

    retry_failed: bool = False
    """Redo the images that failed for reasons that may have passed: missing, denied, timeout, crashed."""


@dataclass(frozen=True, kw_only=True)
class FitOptions(ScoringOptions):
    """Fit the regressor of a model bundle on rated images, and write a new bundle.

    Example: grepr fit ratings.csv --images ~/Pictures --output my-model/
    """

    ratings: Annotated[Positional[str], arg(metavar="RATINGS")]
    """CSV or Parquet with columns image (path below --images, or URI), mos and, where known, std (standard deviation of
    the ratings of an image) and count (their number; without, std is that of mos itself), by which ratings are weighed.
    Where there is a column split, only its rows 'train' are used."""

    images: str
    """Folder or URL that the ratings' paths start from."""

    output: str
    """Folder or URL of the new bundle."""

    name: str | None = None
    """Name of the new bundle; by default the last part of --output."""

    json: bool = False
    """Print JSON instead of sentences."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(ScoringOptions):
    """Measure how well a model bundle's features predict ratings from few labels.

    Example: grepr evaluate ratings.csv --images ~/Pictures --labels 50,100,200
    """

    ratings: Annotated[Positional[str], arg(metavar="RATINGS")]
    """CSV or Parquet with columns image, mos and, where known, std and count, as 'grepr fit' takes them. Where there is
    a column split, labels are drawn from 'train' and all other rows are the test set; without, every draw holds out a
    random fifth for the test."""

    images: str
    """Folder or URL that the ratings' paths start from."""

    labels: str = "50,100,200"
    """Numbers of labels, with commas between."""

    splits: int = 10
    """Random draws of labels; medians over them are printed."""

    seed: int = 0
    """Seed of the draws."""

    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True, kw_only=True)
class PrepareOptions(StoredOptions):
    """How scenes are prepared: distorted versions of photographs and their FSIMc."""

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """Photographs, unrated: anything that 'grepr manifest' takes, or a manifest."""

    output: str
    """Folder or URL of the run."""

    all_files: bool = False
    """Take every file of a folder for an image, whatever its name."""

    kinds: int = 4
    """Kinds of distortion a scene, drawn from all there are."""

    levels: int = 2
    """Levels of each kind, drawn from five."""

    scene_side: int = 384
    """Crop longer sides of photographs to this many pixels."""

    max_pixels: int = 1024 * 1024
    """Scale larger photographs down to this many pixels first."""

    seed: int = 0
    """Seed of all that is drawn."""

    workers: int | None = None
    """Processes that prepare; by default one a CPU core."""

    address: str | None = None
    """Ray cluster to use, such as 'auto' or ray://head:10001; by default Ray is started here and stopped at the end."""

    timeout: float = 60.0
    """Seconds that reading one photograph may take."""

    def __post_init__(self) -> None:
        """Checks ranges.

        Raises:
            ValueError: Names the option that is out of range.
        """
        super().__post_init__()
        if not 1 <= self.kinds <= MOST_KINDS:
            raise ValueError(f"--kinds must be between 1 and {MOST_KINDS}")
        if not 1 <= self.levels <= MOST_LEVELS:
            raise ValueError(f"--levels must be between 1 and {MOST_LEVELS}")
        if self.scene_side < LEAST_SCENE_SIDE:
            raise ValueError(f"--scene-side must be at least {LEAST_SCENE_SIDE}, the side of a patch")


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Make a small lake of sample photos and their distorted versions, and score it. Needs no network.

    Example: grepr demo demo/
    """

    output: Annotated[Positional[str], arg(metavar="OUT")]
    """Folder to write to."""


@dataclass(frozen=True, kw_only=True)
class ModelShowOptions:
    """Print the model card of a bundle.

    Example: grepr model show grepr-lite
    """

    bundle: Annotated[Positional[str], arg(metavar="BUNDLE")]
    """A name, folder or URL."""

    json: bool = False
    """Print the bundle's config.json."""


@dataclass(frozen=True, kw_only=True)
class ModelVerifyOptions:
    """Check a bundle's files against their checksums, and that it loads.

    Example: grepr model verify my-model/
    """

    bundle: Annotated[Positional[str], arg(metavar="BUNDLE")]
    """A name, folder or URL."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Look at a model bundle: show, verify.

    Example: grepr model show grepr-lite
    """

    action: Annotated[ModelShowOptions, subcommand("show")] | Annotated[ModelVerifyOptions, subcommand("verify")]
