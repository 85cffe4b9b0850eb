"""The options of every command, from which the command line is made. Imports nothing heavy, so help is instant."""

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
from pipelines.options.results import FilterOptions, ReportOptions
from pipelines.options.scoring import DemoOptions, LakeOptions, ManifestOptions, NightlyOptions, ScoreOptions
from pipelines.options.shared import LARGEST_SHARD, ScoringOptions, SourceOptions, StoredOptions

__all__ = [
    "LARGEST_SHARD",
    "DemoOptions",
    "EvaluateOptions",
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
]
