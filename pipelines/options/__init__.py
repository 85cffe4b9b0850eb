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
    PrepareOptions,
    PretrainHighOptions,
    PretrainLowOptions,
    PretrainOptions,
    RunOptions,
    TrainingOptions,
)
from pipelines.options.ratings import EvaluateOptions, FitOptions, LabelOptions
from pipelines.options.results import FilterOptions, ReportOptions
from pipelines.options.scoring import DemoOptions, ManifestOptions, ScoreOptions
from pipelines.options.shared import LARGEST_SHARD, ScoringOptions, SourceOptions, StoredOptions

__all__ = [
    "LARGEST_SHARD",
    "DemoOptions",
    "EvaluateOptions",
    "FilterOptions",
    "FitOptions",
    "LabelOptions",
    "ManifestOptions",
    "ModelBuildOptions",
    "ModelImportOptions",
    "ModelOptions",
    "ModelShowOptions",
    "ModelVerifyOptions",
    "PhotosOptions",
    "PrepareOptions",
    "PretrainHighOptions",
    "PretrainLowOptions",
    "PretrainOptions",
    "ReportOptions",
    "RunOptions",
    "ScoreOptions",
    "ScoringOptions",
    "SourceOptions",
    "StoredOptions",
    "SubmitOptions",
    "TrainingOptions",
]
