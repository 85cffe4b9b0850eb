"""The options of every command, from which the command line is made. Imports nothing heavy, so help is instant."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg, subcommand

from grepr_core.precision import Precision

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _duration(text: str) -> float:
    number, unit = text[:-1], text[-1:]
    if unit not in _SECONDS:
        raise ValueError(f"{text!r} is no duration such as 90s, 45m, 10h or 2d")
    return float(number) * _SECONDS[unit]


Duration = Annotated[
    float,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="DURATION",
        instance_from_str=lambda texts: _duration(texts[0]),
        is_instance=lambda value: isinstance(value, float),
        str_from_instance=lambda value: [f"{value / 3600:g}h"],
    ),
]
Device = Literal["auto", "cpu", "cuda"]


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
#: Choosing photos to rate takes memory that grows with the square of their number.
MOST_POOL = 10_000
#: Of grepr_core.distortions and grepr_core.zero_shot, which take long to import; a test holds them together.
MOST_KINDS, MOST_LEVELS, LEAST_SCENE_SIDE = 22, 5, 96


@dataclass(frozen=True, kw_only=True)
class StoredOptions:
    """How files are reached."""

    storage_options: StorageOptions = field(default_factory=dict)
    """Credentials and endpoints as fsspec takes them, such as '{"anon": true}'; else those of the environment count."""

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
    """Ray cluster to use, such as 'auto' or ray://head:10001; by default the one that runs this command as a job, or
    else Ray is started here and stopped at the end."""

    autoscaling: bool = False
    """The cluster adds nodes for the processes asked for, so that more than it has now are not refused. GPU nodes that
    are still to come need --device cuda."""

    zero_shot: bool = False
    """Give the low-level zero-shot score too where the score does not depend on it; it costs more than all else."""

    max_pixels: int | None = None
    """Scale larger images down to this many pixels; by default what the model was made for."""

    gpu_decode: bool = False
    """Decode JPEGs on the GPU. Its pixels differ a little from those of the CPU, and scores likewise; what it cannot
    decode alike (CMYK, colour profiles, other formats, damaged files) is decoded on the CPU still."""

    max_image_pixels: int = 250_000_000
    """Refuse images of more pixels (decompression bombs) as too_large."""

    max_image_bytes: int = 512 * 2**20
    """Refuse larger files as too_large."""

    min_side: int = 32
    """Refuse images with a shorter side as too_small."""

    timeout: float = 60.0
    """Seconds that reading one image may take before it counts as timeout."""

    hang_timeout: float = 300.0
    """Seconds that decoding and scoring one image may take before it counts as timeout, and its process is replaced."""

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
        if self.gpu_decode and self.device == "cpu":
            raise ValueError("--gpu-decode needs a GPU; leave it or --device cpu out")
        for name in ("timeout", "hang_timeout"):
            if getattr(self, name) <= 0:
                raise ValueError(f"--{name.replace('_', '-')} must be positive")
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
class FilterOptions(StoredOptions):
    """Select images by their scores.

    Of the images that meet all conditions, --top-fraction and --top keep the best. Images without a score are never
    selected; they are listed in failed.parquet.

    Example: grepr filter scores/ --output best/ --top-fraction 0.1 --format webdataset
    """

    scores: Annotated[Positional[str], arg(metavar="SCORES")]
    """Folder or URL that 'grepr score' or 'grepr filter' wrote to."""

    output: str
    """Folder or URL of the selection; the same command again goes on where this one ended."""

    min_score: float | None = None
    """Select scores from here on."""

    max_score: float | None = None
    """Select scores up to here."""

    top_fraction: float | None = None
    """Select this fraction of the images, rounded up, those with the highest scores."""

    top: int | None = None
    """Select so many images, those with the highest scores."""

    per: str | None = None
    """Select the top within each group of equal values of this column or SQL expression, such as 'camera' or
    'width >= height'."""

    where: str | None = None
    """Condition in DuckDB's SQL over the columns of the scores and of --metadata, such as "width >= 1024 and licence =
    'CC0'"."""

    metadata: str | None = None
    """CSV, TSV or Parquet with a row an image, joined by its column image_id, or else by that of URIs (uri, url, path,
    image or file_name; relative to the table's folder) and, where there is one, member."""

    min_interval_lower: float | None = None
    """Select images whose prediction interval lies above this: those that are surely that good."""

    format: Literal["parquet", "txt", "webdataset", "copy"] = "parquet"
    """What to make beside the rows of the selection, which always go to OUT/scores: nothing more; a list of URIs,
    OUT/uris.txt; tar files with each image and its scores as JSON, OUT/tars; or copies of the images, OUT/images."""

    shard_size: int = LARGEST_SHARD
    """Images in a Parquet or tar file."""

    unfinished: bool = False
    """Take scores that 'grepr score' has not finished, as far as they are there."""

    overwrite: bool = False
    """Replace a selection made otherwise."""

    workers: int | None = None
    """Processes that write tar files or copies; by default one a CPU core."""

    address: str | None = None
    """Ray cluster to write tar files or copies with, such as 'auto' or ray://head:10001; by default Ray is started here
    and stopped at the end."""

    timeout: float = 60.0
    """Seconds that reading one image may take before it is left out."""

    max_failed_fraction: float = 0.05
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
        criteria = (*ends.values(), self.top_fraction, self.top, self.where, self.min_interval_lower)
        if all(value is None for value in criteria):
            raise ValueError(
                "nothing to select by; give --min-score, --max-score, --top-fraction, --top, --where or "
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
        if self.per is not None and not ranked:
            raise ValueError("--per goes with --top-fraction or --top")
        if self.metadata is not None and self.where is None and self.per is None:
            raise ValueError("--metadata is for --where and --per; give one that uses it, or leave it out")


@dataclass(frozen=True, kw_only=True)
class FitOptions(ScoringOptions):
    """Fit the regressor of a model bundle on rated images, and write a new bundle.

    Example: grepr fit ratings.csv --images ~/Pictures --output my-model/
    """

    ratings: Annotated[Positional[str], arg(metavar="RATINGS")]
    """CSV or Parquet with columns image (path below --images, or URI), mos and, where known, std (standard deviation of
    the ratings of an image) and count (their number; without, std is that of mos itself), by which ratings are weighed.
    Where there is a column split, only its rows 'train' are used. Images inside of tar or Parquet files are told by
    member, offset and size, as 'grepr label' writes them."""

    images: str
    """Folder or URL that the ratings' paths start from."""

    output: str
    """Folder or URL of the new bundle."""

    name: str | None = None
    """Name of the new bundle; by default the last part of --output."""

    json: bool = False
    """Print JSON instead of sentences."""


@dataclass(frozen=True, kw_only=True)
class LabelOptions(ScoringOptions):
    """Rate the photos that teach a model most, on a page in the browser, for 'grepr fit'.

    The page is served to this machine alone. The same command again goes on where it ended.

    Example: grepr label scores/ --count 50 --output ratings.csv
    """

    source: Annotated[Positional[str], arg(metavar="SCORES")]
    """Output of 'grepr score', best with --features; or a manifest, or anything that 'grepr manifest' takes."""

    output: str = "ratings.csv"
    """Table of ratings to write, on this machine; beside it every rating is kept in a journal, .events.jsonl."""

    count: int = 50
    """Photos to rate; once they are rated, a larger number adds the next best."""

    repeats: float = 0.1
    """Fraction of them that is shown a second time, to measure how consistent a rater is."""

    pool: int = 2000
    """Choose among so many photos, a random sample where there are more; without the model's features in SCORES they
    are scored first."""

    seed: int = 0
    """Seed of the sample."""

    port: int = 0
    """Port of the page; by default any that is free."""

    all_files: bool = False
    """Take every file of a folder for an image, whatever its name."""

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

    zero_shot: bool = True
    """Measure the low-level zero-shot score too, which costs more than all else."""

    seed: int = 0
    """Seed of the draws."""

    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True, kw_only=True)
class ReportOptions(StoredOptions):
    """Make one HTML file that shows what the scores come to, complete in itself.

    Example: grepr report scores/ --output report.html
    """

    scores: Annotated[Positional[str], arg(metavar="SCORES")]
    """Folder or URL that 'grepr score' wrote to; the run need not be finished."""

    output: str
    """File or URL to write, such as report.html."""

    compare: str | None = None
    """Output of another 'grepr score', such as last night's: tells what has changed since."""

    title: str | None = None
    """Of the page; by default it names the source."""

    thumbnails: bool = True
    """Show small copies of some photos, 60 at most, which are read for it."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(StoredOptions):
    """Where a run of pretraining is, on which cluster, and what it draws from."""

    output: str
    """Folder or URL of the run; the same command again goes on where this one ended."""

    seed: int = 0
    """Seed of all that is drawn."""

    address: str | None = None
    """Ray cluster to use, such as 'auto' or ray://head:10001; by default the one that runs this command as a job, or
    else Ray is started here and stopped at the end."""

    autoscaling: bool = False
    """The cluster adds nodes for the processes asked for, so that more than it has now are not refused. GPU nodes that
    are still to come need --device cuda."""


@dataclass(frozen=True, kw_only=True)
class PhotosOptions(RunOptions):
    """Which photographs a stage of pretraining prepares."""

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """Photographs, unrated: anything that 'grepr manifest' takes, or a manifest."""

    all_files: bool = False
    """Take every file of a folder for an image, whatever its name."""

    max_pixels: int = 1024 * 1024
    """Scale larger photographs down to this many pixels first."""

    workers: int | None = None
    """Processes that prepare; by default one a CPU core."""

    timeout: float = 60.0
    """Seconds that reading one photograph may take."""


@dataclass(frozen=True, kw_only=True)
class PrepareOptions(PhotosOptions):
    """How scenes are prepared: distorted versions of photographs and their FSIMc."""

    kinds: int = 4
    """Kinds of distortion a scene, drawn from all there are."""

    levels: int = 2
    """Levels of each kind, drawn from five."""

    scene_side: int = 384
    """Crop longer sides of photographs to this many pixels."""

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
class TrainingOptions(RunOptions):
    """How a stage of pretraining is trained; shared by both."""

    epochs: int = 15
    """Passes through the photographs."""

    batch: int = 8
    """Photographs a step, over all workers."""

    learning_rate: float = 1e-4
    """Of AdamW, after the warm-up."""

    final_learning_rate: float | None = 1e-6
    """Where the learning rate ends; it falls along half a cosine. None keeps it constant after the warm-up."""

    warmup_epochs: float = 0.0
    """Epochs in which the learning rate rises linearly from 0 first."""

    weight_decay: float = 0.05
    """Of AdamW."""

    precision: Precision = "auto"
    """Arithmetic of the model; auto takes bf16 where the hardware has it."""

    device: Device = "auto"
    """Where the model is trained; auto takes GPUs where there are any."""

    num_workers: int | None = None
    """Processes that train; by default one a GPU, or, where there is none, 0: this process, with all cores."""

    checkpoint_steps: int = 100
    """Steps between checkpoints; there is one at the end of every epoch too."""

    max_failures: int = 3
    """Give up when workers have died more often than this."""

    temperature: float = 0.5
    """Divides the cosines in the loss."""

    ratings: str | None = None
    """Rated images to watch the features with: CSV or Parquet with columns image, mos and, optionally, split, of which
    only 'train' is used. They do not affect the training."""

    ratings_images: str | None = None
    """Folder or URL that the ratings' paths start from."""

    def __post_init__(self) -> None:
        """Checks ranges.

        Raises:
            ValueError: Names the option that is out of range.
        """
        super().__post_init__()
        for name in ("epochs", "batch", "checkpoint_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1")
        for name in ("final_learning_rate", "warmup_epochs", "weight_decay", "max_failures", "seed"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"--{name.replace('_', '-')} must not be negative")
        if self.learning_rate <= 0:
            raise ValueError("--learning-rate must be positive")
        if self.num_workers is not None and self.num_workers < 0:
            raise ValueError("--num-workers must not be negative")
        if self.temperature <= 0:
            raise ValueError("--temperature must be positive")
        if (self.ratings is None) != (self.ratings_images is None):
            raise ValueError("--ratings and --ratings-images belong together")


@dataclass(frozen=True, kw_only=True)
class PretrainLowOptions(PrepareOptions, TrainingOptions):
    """Pretrain the low-level encoder on photographs without ratings: prepare scenes, then train.

    Running the same command again goes on where it ended.

    Example: grepr pretrain low ~/Pictures --output low-run/
    """

    micro_batch: int = 4
    """Scenes in a forward pass, which share statistics of batch normalisation; bounds the memory."""

    grid: int = 7
    """Fragments along each side of a crop."""

    cell: int = 32
    """Side of a fragment in pixels."""

    flip_probability: float = 0.5
    """Of mirroring the augmented view, for each axis."""

    validation_scenes: int | None = None
    """Scenes held out to measure how often a stronger distortion scores lower; by default a twentieth, at most 64."""

    def __post_init__(self) -> None:
        """Checks ranges.

        Raises:
            ValueError: Names the option that is out of range.
        """
        super().__post_init__()
        for name in ("micro_batch", "grid", "cell"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1")
        if not 0 <= self.flip_probability <= 1:
            raise ValueError("--flip-probability must be between 0 and 1")
        if self.validation_scenes is not None and self.validation_scenes < 0:
            raise ValueError("--validation-scenes must not be negative")


@dataclass(frozen=True, kw_only=True)
class PretrainHighOptions(PhotosOptions, TrainingOptions):
    """Fine-tune CLIP's visual tower on photographs without ratings.

    Running the same command again goes on where it ended.

    Example: grepr pretrain high ~/Pictures --output high-run/
    """

    architecture: str = "RN50-quickgelu"
    """CLIP model with a ResNet tower, by open_clip's name; or hf-hub:org/name or local-dir:/path."""

    pretrained: str | None = "openai"
    """Its weights: a tag of open_clip or a local checkpoint; None with hf-hub: and local-dir:."""

    crop: int = 224
    """Side in pixels of the square cut out of the middle of a photograph; smaller photographs are enlarged."""

    batch: int = 128
    """Photographs a step, over all workers; they are ranked together."""

    group_size: int | None = None
    """Photographs in the group of the best and in that of the worst of a batch; by default a 32nd of it each."""

    projection_size: int = 128
    """Length of the head's output; the head is thrown away after training."""

    frozen_head: bool = False
    """Leave the head at its random weights, as the authors' code does."""

    batch_norm: Literal["eval", "train"] = "eval"
    """Normalise by the statistics CLIP came with, or by those of each worker's batch, as the authors' code does. With
    train, the result depends on the number of workers."""

    learning_rate: float = 1e-6
    """Of Adam, after the warm-up."""

    final_learning_rate: float | None = None
    """Where the learning rate ends, falling along half a cosine; by default it is constant after the warm-up."""

    warmup_epochs: float = 2.5
    """Epochs in which the learning rate rises linearly from 0 first."""

    weight_decay: float = 0.0
    """Of AdamW, which without it is Adam."""

    @property
    def images_a_group(self) -> int:
        """Photographs in each of the two groups."""
        return max(2, self.batch // 32) if self.group_size is None else self.group_size

    def __post_init__(self) -> None:
        """Checks ranges.

        Raises:
            ValueError: Names the option that is out of range.
        """
        super().__post_init__()
        if self.crop < 32:
            raise ValueError("--crop must be at least 32")
        if not 2 <= self.images_a_group <= self.batch // 2:
            raise ValueError("--group-size must be at least 2 and at most half of --batch")
        if self.projection_size < 1:
            raise ValueError("--projection-size must be at least 1")


@dataclass(frozen=True, kw_only=True)
class PretrainOptions:
    """Pretrain an encoder on photographs without ratings: low, high.

    Example: grepr pretrain low ~/Pictures --output low-run/
    """

    stage: Annotated[PretrainLowOptions, subcommand("low")] | Annotated[PretrainHighOptions, subcommand("high")]


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Make a small lake of sample photos and their distorted versions, score it and write a report. Needs no network.

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
class ModelBuildOptions:
    """Put encoders together into a bundle.

    Without CLIP and without pristine statistics it has no score before 'grepr fit' has fitted one.

    Example: grepr model build --low grepr-lite --high open_clip:RN50-quickgelu --pretrained openai --output grepr-clip
    """

    low: str | None = None
    """Low-level encoder: a folder of 'grepr pretrain low', or a bundle, whose pristine statistics are taken as well."""

    high: str | None = None
    """High-level encoder: open_clip:ARCHITECTURE, efficientnet_lite0, folder of 'grepr pretrain high', or a bundle."""

    pretrained: str | None = None
    """Weights for open_clip:ARCHITECTURE: a tag such as openai, or a local checkpoint."""

    pristine: str | None = None
    """Folder of clean, sharp photographs that the low-level zero-shot score compares with; replaces the statistics that
    a bundle named by --low has."""

    max_pixels: int | None = None
    """Scale larger images down to this many pixels; by default what the bundle that an encoder is taken from says,
    --low before --high, or else 1024 x 1024."""

    distance: Literal["corrected", "mvg"] | None = None
    """How the low-level zero-shot score compares with pristine patches: without the bias of few patches (corrected), or
    as published (mvg); by default what the bundle named by --low says, or else corrected."""

    low_features: Literal["head", "stages", "first_stage"] | None = None
    """What the regressor sees of the low-level encoder: the output of its head, as published, or statistics of all
    stages, or of the first; by default what the bundle named by --low says, or else the head."""

    half: bool = False
    """Store the weights in half precision."""

    output: str
    """Folder or URL of the new bundle."""

    name: str | None = None
    """Name of the new bundle; by default the last part of --output."""

    def __post_init__(self) -> None:
        """Checks that the options go together.

        Raises:
            ValueError: Names the option that is missing, out of place or out of range.
        """
        if self.low is None and self.high is None:
            raise ValueError("--low, --high or both must be given")
        if self.pristine is not None and self.low is None:
            raise ValueError("--pristine is for the low-level encoder; name one with --low")
        if self.pretrained is not None and not (self.high or "").startswith("open_clip:"):
            raise ValueError("--pretrained goes with --high open_clip:ARCHITECTURE")
        if self.max_pixels is not None and self.max_pixels < 32**2:
            raise ValueError("--max-pixels must be at least 1024")


@dataclass(frozen=True, kw_only=True)
class ModelImportOptions:
    """Import the files that the authors of GRepQ published, as a bundle that scores by their formulas.

    Example: grepr model import --low low_level_model_weights.tar --high high_level_model_weights.pth --pristine
    pristine_patches.hdf5 --output official
    """

    low: str | None = None
    """Their low-level checkpoint, low_level_model_weights.tar; goes with --pristine."""

    high: str | None = None
    """Their high-level checkpoint, high_level_model_weights.pth. It lacks the text encoder: see --pretrained."""

    pristine: str | None = None
    """Their pristine patches, an HDF5 file with the dataset 'data'."""

    clip: str = "RN50-quickgelu"
    """open_clip's name of the CLIP model that --high was trained from."""

    pretrained: str | None = None
    """Weights of that CLIP model, of which the text encoder is used: a tag of open_clip, which is downloaded, or a
    local checkpoint such as OpenAI's RN50.pt. By default openai."""

    output: str
    """Folder or URL of the new bundle."""

    def __post_init__(self) -> None:
        """Checks that the options go together.

        Raises:
            ValueError: Names the option that is missing.
        """
        if self.low is None and self.high is None:
            raise ValueError("--low (with --pristine), --high or all three must be given")
        if (self.low is None) != (self.pristine is None):
            raise ValueError("--low and --pristine go together: the distance is one to pristine patches")


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Look at a model bundle or make one: show, verify, build, import.

    Example: grepr model show grepr-lite
    """

    action: (
        Annotated[ModelShowOptions, subcommand("show")]
        | Annotated[ModelVerifyOptions, subcommand("verify")]
        | Annotated[ModelBuildOptions, subcommand("build")]
        | Annotated[ModelImportOptions, subcommand("import")]
    )


@dataclass(frozen=True, kw_only=True)
class SubmitOptions:
    """Run a command as a job on a Ray cluster, with this version of grepr.

    The same command under another id goes on where it ended. Without a command, --submission-id and --follow follow a
    job that was submitted before.

    Example: grepr submit --address http://head:8265 --follow -- score s3://lake/ s3://scores/monday
    """

    command: Annotated[Positional[tuple[str, ...]], arg(metavar="-- COMMAND")] = ()
    """What the job runs, with its options, after two dashes."""

    address: str
    """URL of the cluster's job server, such as http://head:8265. The cluster's token is taken from RAY_AUTH_TOKEN, the
    file that RAY_AUTH_TOKEN_PATH names, or ~/.ray/auth_token."""

    runtime_env: str | None = None
    """YAML or JSON file with Ray's runtime environment of the job, such as 'env_vars' and 'pip'."""

    env: str = ""
    """Names of environment variables, with commas between, that the job gets from here; no others are handed over."""

    submission_id: str | None = None
    """Name of the job on the cluster; a second job of the same name is refused."""

    follow: bool = False
    """Show the job's log until it ends, and end with its exit code."""

    def __post_init__(self) -> None:
        """Checks that the options go together.

        Raises:
            ValueError: Names the option that is missing or cannot be used.
        """
        if not self.address.startswith(("http://", "https://")):
            raise ValueError("--address must be the URL of the job server, such as http://head:8265")
        if self.submission_id is not None and not re.fullmatch(r"[\w.-]+", self.submission_id):
            raise ValueError("--submission-id must be of letters, digits, '.', '_' and '-'")
        if not self.command and not (self.submission_id and self.follow):
            raise ValueError("a command must follow '--'; or --submission-id and --follow, to follow an earlier job")
