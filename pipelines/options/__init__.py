"""Options: those of every command, from which the command line is made.

In come the words of a command line, or arguments of Python. Out goes a frozen dataclass a command, of which every value
is in range; nothing heavy is imported for it, so help is instant.
"""

from pipelines.options.jobs import SubmitOptions
from pipelines.options.models import (
    ModelBuildOptions,
    ModelImportOptions,
    ModelOptions,
    ModelShowOptions,
    ModelVerifyOptions,
)
from pipelines.options.pretraining import (
    PhotosOptions,
    PretrainHighOptions,
    PretrainLowOptions,
    PretrainOptions,
    RunOptions,
    SceneOptions,
    TrainingOptions,
)
from pipelines.options.ratings import EvaluateOptions, FitOptions, LabelOptions
from pipelines.options.results import SELECTED_BY, FilterOptions, ReportOptions
from pipelines.options.scoring import (
    DemoOptions,
    FeaturesDtype,
    LakeOptions,
    ManifestOptions,
    NightlyOptions,
    ScoreOptions,
)
from pipelines.options.shared import (
    HAND_OVER,
    LARGEST_SHARD,
    MOST_BITS,
    NEAR_BITS,
    ScoringOptions,
    SourceOptions,
    StoredOptions,
    check_address,
)

__all__ = [
    "HAND_OVER",
    "LARGEST_SHARD",
    "MOST_BITS",
    "NEAR_BITS",
    "SELECTED_BY",
    "DemoOptions",
    "EvaluateOptions",
    "FeaturesDtype",
    "FilterOptions",
    "FitOptions",
    "LabelOptions",
    "LakeOptions",
    "ManifestOptions",
    "ModelBuildOptions",
    "ModelImportOptions",
    "ModelOptions",
    "ModelShowOptions",
    "ModelVerifyOptions",
    "NightlyOptions",
    "PhotosOptions",
    "PretrainHighOptions",
    "PretrainLowOptions",
    "PretrainOptions",
    "ReportOptions",
    "RunOptions",
    "SceneOptions",
    "ScoreOptions",
    "ScoringOptions",
    "SourceOptions",
    "StoredOptions",
    "SubmitOptions",
    "TrainingOptions",
    "check_address",
]
