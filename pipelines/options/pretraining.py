"""The options of ``grepr pretrain``."""

from dataclasses import dataclass
from typing import Annotated, Literal

from grepr_core.encoders.precision import Precision
from pipelines.options.shared import Address, Device, NamesOptions, StoredOptions, check_address
from pipelines.options.shown import (
    ADVANCED,
    ENGINE,
    READING,
    Argument,
    Bundle,
    FileOrUrl,
    Place,
    Seconds,
    Subcommand,
    Value,
)

#: Of grepr_core's distortions and patches, which take long to import; a test holds them together.
MOST_KINDS, MOST_LEVELS, LEAST_SCENE_SIDE = 22, 5, 96
#: Likewise of its encoders: the one that is no CLIP.
EFFICIENTNET_LITE0 = "efficientnet_lite0"


@dataclass(frozen=True, kw_only=True)
class RunOptions(StoredOptions):
    """Where a run of pretraining is, on which cluster, and what it draws from."""

    output: Place
    """The run; the same command again goes on where this one ended."""

    seed: Annotated[int, ADVANCED] = 0
    """Seed of all that is drawn."""

    address: Annotated[Address | None, ENGINE] = None
    """Ray cluster to use: 'auto' is that of this machine, HOST:PORT the address of its head; by default the one that
    runs this command as a job, or else Ray is started here and stopped at the end, as 'local' says."""

    autoscaling: Annotated[bool, ENGINE] = False
    """The cluster adds nodes for the processes asked for, so that more than it has now are not refused. GPU nodes that
    are still to come need --device cuda."""

    def __post_init__(self) -> None:
        """Checks the address.

        Raises:
            ValueError: It cannot be one.
        """
        super().__post_init__()
        check_address(self.address)


@dataclass(frozen=True, kw_only=True)
class PhotosOptions(NamesOptions, RunOptions):
    """Which photographs a stage of pretraining prepares."""

    source: Annotated[str, Argument("SOURCE")]
    """Photographs, unrated: anything that 'grepr manifest' takes, or a manifest."""

    max_pixels: Annotated[int, READING] = 1024 * 1024
    """Scale larger photographs down to this many pixels first, by default a million (1024 x 1024)."""

    workers: Annotated[int | None, ENGINE] = None
    """Processes that prepare; by default one a CPU core, or four a GPU where they label photographs."""

    timeout: Annotated[Seconds, READING] = 60.0
    """Time that reading one photograph may take."""


@dataclass(frozen=True, kw_only=True)
class SceneOptions(PhotosOptions):
    """How scenes are prepared: distorted versions of photographs and their FSIMc."""

    kinds: Annotated[int, ADVANCED] = 4
    """Kinds of distortion a scene, drawn from all there are."""

    levels: Annotated[int, ADVANCED] = 2
    """Levels of each kind, drawn from five."""

    scene_side: Annotated[int | None, ADVANCED] = None
    """Crop longer sides of photographs to this many pixels, 0 leaves photographs whole; by default 384, or 0 with
    --recipe paper."""

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
        if self.scene_side and self.scene_side < LEAST_SCENE_SIDE:
            raise ValueError(f"--scene-side must be 0 or at least {LEAST_SCENE_SIDE}, the side of a patch")


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(RunOptions):
    """How a stage of pretraining is trained; shared by both."""

    recipe: Literal["paper"] | None = None
    """'paper' trains as the authors' code does, as far as options go. Those that are given beside it count, but what
    is either on or off is as it has it."""

    epochs: int = 15
    """Passes through the photographs."""

    batch: int = 8
    """Photographs a step, over all workers."""

    learning_rate: Annotated[float, ADVANCED] = 1e-4
    """Of AdamW, after the warm-up."""

    final_learning_rate: Annotated[float | None, ADVANCED, Value("NUMBER or none")] = 1e-6
    """Where the learning rate ends; it falls along half a cosine; none keeps it constant after the warm-up."""

    warmup_epochs: Annotated[float, ADVANCED] = 0.0
    """Epochs in which the learning rate rises linearly from 0 first."""

    weight_decay: Annotated[float, ADVANCED] = 0.05
    """Of AdamW."""

    precision: Annotated[Precision, ENGINE] = "auto"
    """Arithmetic of the model; auto goes on as the output was begun, or takes bf16 where all machines have it, and is
    fp32 with --recipe paper."""

    device: Annotated[Device, ENGINE] = "auto"
    """Where the model is trained, and scenes are compared; auto takes GPUs where there are any."""

    num_workers: Annotated[int | None, ENGINE] = None
    """Processes that train; by default one a GPU, or, where there is none, 0: this process, with all cores."""

    checkpoint_steps: Annotated[int, ENGINE] = 100
    """Steps between checkpoints; there is one at the end of every epoch too."""

    max_failures: Annotated[int, ENGINE] = 3
    """Give up when workers have died more often than this."""

    temperature: Annotated[float, ADVANCED] = 0.5
    """Divides the cosines in the loss."""

    ratings: FileOrUrl | None = None
    """Rated images to watch the features with: CSV or Parquet with columns image, mos and, optionally, split, of which
    only 'train' is used. They do not affect the training."""

    ratings_images: Place | None = None
    """What the ratings' paths start from."""

    def __post_init__(self) -> None:
        """Checks ranges, and takes from the recipe what is not given.

        Raises:
            ValueError: Names the option that is out of range.
        """
        super().__post_init__()
        if self.recipe and self.precision == "auto":
            object.__setattr__(self, "precision", "fp32")
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
class PretrainLowOptions(SceneOptions, TrainingOptions):
    """Pretrain the low-level encoder on photographs without ratings: prepare scenes, then train.

    Running the same command again goes on where it ended.

    Example: grepr pretrain low ~/Pictures --output low-run/
    """

    micro_batch: Annotated[int | None, ADVANCED] = None
    """Scenes in a forward pass, which share statistics of batch normalisation; bounds the memory. By default 4, or the
    whole batch with --recipe paper."""

    separate_views: Annotated[bool, ADVANCED] = False
    """Normalise anchors and augmented views each by statistics of their own, as the authors' code does; on with
    --recipe paper."""

    grid: Annotated[int, ADVANCED] = 7
    """Fragments along each side of a crop."""

    cell: Annotated[int, ADVANCED] = 32
    """Side of a fragment in pixels."""

    flip_probability: Annotated[float, ADVANCED] = 0.5
    """Of mirroring the augmented view, for each axis."""

    validation_scenes: Annotated[int | None, ADVANCED] = None
    """Scenes held out to measure how often a stronger distortion scores lower; by default a twentieth, at most 64, or
    none with --recipe paper."""

    @property
    def scenes_a_pass(self) -> int:
        """Scenes in a forward pass."""
        return self.micro_batch or (self.batch if self.recipe else 4)

    @property
    def side(self) -> int:
        """Pixels that longer sides of photographs are cropped to, 0 where they are not."""
        return (0 if self.recipe else 384) if self.scene_side is None else self.scene_side

    def __post_init__(self) -> None:
        """Checks ranges, and takes from the recipe what is not given.

        Raises:
            ValueError: Names the option that is out of range.
        """
        super().__post_init__()
        if self.recipe:
            object.__setattr__(self, "separate_views", True)
            if self.validation_scenes is None:
                object.__setattr__(self, "validation_scenes", 0)
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ValueError("--micro-batch must be at least 1")
        for name in ("grid", "cell"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1")
        if not 0 <= self.flip_probability <= 1:
            raise ValueError("--flip-probability must be between 0 and 1")
        if self.validation_scenes is not None and self.validation_scenes < 0:
            raise ValueError("--validation-scenes must not be negative")


@dataclass(frozen=True, kw_only=True)
class PretrainHighOptions(PhotosOptions, TrainingOptions):
    """Fine-tune the high-level encoder on photographs without ratings: CLIP's visual tower, or EfficientNet-Lite0.

    Running the same command again goes on where it ended.

    Example: grepr pretrain high ~/Pictures --output high-run/
    """

    architecture: Annotated[str, Value("ARCHITECTURE")] = "RN50-quickgelu"
    """CLIP model with a ResNet tower, by open_clip's name; or hf-hub:org/name or local-dir:/path. Or
    efficientnet_lite0, which needs --pseudo-labels in place of CLIP's text."""

    pretrained: Annotated[str | None, Value("TAG or FILE")] = "openai"
    """Its weights: a tag of open_clip or a local checkpoint; none with hf-hub: and local-dir:."""

    pseudo_labels: Bundle | None = None
    """Bundle whose zero-shot scores say which photographs of a batch are the best and the worst, for
    efficientnet_lite0, which has no text to ask. It scores whole photographs, once."""

    crop: Annotated[int, ADVANCED] = 224
    """Side in pixels of the square cut out of the middle of a photograph; smaller photographs are enlarged."""

    batch: int = 128
    """Photographs a step, over all workers; they are ranked together."""

    group_size: Annotated[int | None, ADVANCED] = None
    """Photographs in the group of the best and in that of the worst of a batch; by default a 32nd of it each."""

    projection_size: Annotated[int, ADVANCED] = 128
    """Length of the head's output; the head is thrown away after training."""

    frozen_head: Annotated[bool, ADVANCED] = False
    """Leave the head at its random weights, as the authors' code does; on with --recipe paper."""

    batch_norm: Annotated[Literal["eval", "train"] | None, ADVANCED] = None
    """Normalise by the statistics CLIP came with (eval), or by those of each worker's batch, as the authors' code does
    (train); by default eval, or train with --recipe paper. With train, the result depends on the number of workers."""

    positional_embedding: Annotated[bool, ADVANCED] = False
    """Keep CLIP's positional embedding in training, as the authors' code does, for crops of CLIP's own size; on with
    --recipe paper. Scoring drops it in any case."""

    learning_rate: Annotated[float, ADVANCED] = 1e-6
    """Of Adam, after the warm-up."""

    final_learning_rate: Annotated[float | None, ADVANCED, Value("NUMBER or none")] = None
    """Where the learning rate ends, falling along half a cosine; by default it is constant after the warm-up."""

    warmup_epochs: Annotated[float, ADVANCED] = 2.5
    """Epochs in which the learning rate rises linearly from 0 first."""

    weight_decay: Annotated[float, ADVANCED] = 0.0
    """Of AdamW, which without it is Adam."""

    @property
    def images_a_group(self) -> int:
        """Photographs in each of the two groups."""
        return max(2, self.batch // 32) if self.group_size is None else self.group_size

    @property
    def normalisation(self) -> Literal["eval", "train"]:
        """By which statistics batch normalisation works."""
        return self.batch_norm or ("train" if self.recipe else "eval")

    def __post_init__(self) -> None:
        """Checks ranges, and takes from the recipe what is not given.

        Raises:
            ValueError: Names the option that is out of range.
        """
        super().__post_init__()
        if self.architecture == EFFICIENTNET_LITE0:
            if self.recipe or self.positional_embedding:
                raise ValueError(
                    "--recipe paper and --positional-embedding are for CLIP; leave them out, or name a CLIP"
                )
            # Its weights come with a package.
            object.__setattr__(self, "pretrained", None)
        if (self.architecture == EFFICIENTNET_LITE0) != (self.pseudo_labels is not None):
            raise ValueError("--architecture efficientnet_lite0 and --pseudo-labels BUNDLE belong together")
        if self.recipe:
            for name in ("frozen_head", "positional_embedding"):
                object.__setattr__(self, name, True)
        if self.crop < 32:
            raise ValueError("--crop must be at least 32")
        if not 2 <= self.images_a_group <= self.batch // 2:
            raise ValueError("--group-size must be at least 2 and at most half of --batch")
        if self.projection_size < 1:
            raise ValueError("--projection-size must be at least 1")


@dataclass(frozen=True, kw_only=True)
class PretrainOptions:
    """Pretrain an encoder on photographs without ratings.

    Example: grepr pretrain low ~/Pictures --output low-run/
    """

    stage: Annotated[PretrainLowOptions, Subcommand("low")] | Annotated[PretrainHighOptions, Subcommand("high")]
