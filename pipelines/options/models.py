"""The options of ``grepr model``."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pipelines.options.shown import ADVANCED, Argument, Bundle, FileOrUrl, Place, Subcommand, Value


@dataclass(frozen=True, kw_only=True)
class ModelShowOptions:
    """Print the model card of a bundle.

    Example: grepr model show grepr-lite
    """

    bundle: Annotated[str, Argument("BUNDLE")]
    """Name of one that ships with grepr, folder or URL."""

    json: bool = False
    """Print the bundle's config.json."""


@dataclass(frozen=True, kw_only=True)
class ModelVerifyOptions:
    """Check a bundle's files against their checksums, and that it loads.

    Example: grepr model verify my-model/
    """

    bundle: Annotated[str, Argument("BUNDLE")]
    """Name of one that ships with grepr, folder or URL."""


@dataclass(frozen=True, kw_only=True)
class ModelBuildOptions:
    """Put encoders together into a bundle.

    Without CLIP and without photographs to compare with it has no score before 'grepr fit' has fitted one.

    Example: grepr model build --low grepr-lite --high open_clip:RN50-quickgelu --pretrained openai --output grepr-clip
    """

    low: Bundle | None = None
    """Low-level encoder: a folder of 'grepr pretrain low', or a bundle, whose pristine statistics are taken as well."""

    high: Annotated[str | None, Value("ENCODER")] = None
    """High-level encoder: open_clip:ARCHITECTURE, efficientnet_lite0, folder of 'grepr pretrain high', or a bundle."""

    pretrained: Annotated[str | None, Value("TAG or FILE")] = None
    """Weights for open_clip:ARCHITECTURE: a tag such as openai, or a local checkpoint."""

    pristine: Place | None = None
    """Folder of clean, sharp photographs that the low-level zero-shot score compares with; replaces the statistics that
    a bundle named by --low has. With --unrated, the high-level one as well."""

    unrated: Place | None = None
    """Photographs as they come, of any source, for a high-level zero-shot score without CLIP: where an image lies
    between the --pristine ones and distorted versions of them, measured by how unrated photographs differ."""

    max_pixels: Annotated[int | None, ADVANCED] = None
    """See every photo at about this many pixels, scaled up or down; by default as the bundle that an encoder is taken
    from, --low before --high, or else 512 x 512."""

    distance: Annotated[Literal["corrected", "mvg"] | None, ADVANCED] = None
    """How the low-level zero-shot score compares with pristine patches: without the bias of few patches (corrected), or
    as published (mvg); by default what the bundle named by --low says, or else corrected."""

    low_features: Annotated[Literal["head", "stages", "first_stage", "none"] | None, ADVANCED] = None
    """What the regressor sees of the low-level encoder: the output of its head, as published, or statistics of all
    stages, or of the first; with none it is there for the zero-shot score only, and costs nothing without --zero-shot.
    By default what the bundle named by --low says, or else the head, also where it says none and --high is another."""

    half: Annotated[bool, ADVANCED] = False
    """Store the weights in half precision."""

    output: Place
    """The new bundle."""

    name: Annotated[str | None, Value("NAME")] = None
    """Of the new bundle; by default the last part of --output."""

    def __post_init__(self) -> None:
        """Checks that the options go together.

        Raises:
            ValueError: Names the option that is missing, out of place or out of range.
        """
        if self.low is None and self.high is None:
            raise ValueError("--low, --high or both must be given")
        if self.pristine is not None and self.low is None and self.unrated is None:
            raise ValueError("--pristine is for the low-level encoder; name one with --low, or give --unrated as well")
        if self.unrated is not None and (self.pristine is None or self.high is None):
            raise ValueError("--unrated goes with --high and --pristine")
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

    low: FileOrUrl | None = None
    """Their low-level checkpoint, low_level_model_weights.tar; goes with --pristine."""

    high: FileOrUrl | None = None
    """Their high-level checkpoint, high_level_model_weights.pth. It lacks the text encoder: see --pretrained."""

    pristine: FileOrUrl | None = None
    """Their pristine patches, an HDF5 file with the dataset 'data'."""

    clip: Annotated[str, Value("ARCHITECTURE")] = "RN50-quickgelu"
    """open_clip's name of the CLIP model that --high was trained from."""

    pretrained: Annotated[str | None, Value("TAG or FILE")] = None
    """Weights of that CLIP model, of which the text encoder is used: a tag of open_clip, which is downloaded, or a
    local checkpoint such as OpenAI's RN50.pt. By default openai."""

    output: Place
    """The new bundle."""

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
    """Look at a model bundle, or make one.

    Example: grepr model show grepr-lite
    """

    action: (
        Annotated[ModelShowOptions, Subcommand("show")]
        | Annotated[ModelVerifyOptions, Subcommand("verify")]
        | Annotated[ModelBuildOptions, Subcommand("build")]
        | Annotated[ModelImportOptions, Subcommand("import")]
    )
