"""``grepr model import`` and ``build``: encoders and pristine statistics, put together into a bundle."""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from grepr_core.bundles.bundle import Bundle, load_bundle, save_bundle
from grepr_core.bundles.bundle_files import EFFICIENTNET_LITE0, OPEN_CLIP, built_in_bundles, check_vacant
from grepr_core.bundles.published_checkpoints import (
    PristinePatches,
    load_published_high_level,
    load_published_low_level,
    published_bundle,
)
from grepr_core.decoding.view import AtMost, Lattice, View
from grepr_core.encoders.high_level import HighLevelEncoder, brings_weights
from grepr_core.encoders.inference import optimise_for_inference, resolve_device
from grepr_core.encoders.low_level import LowLevelEncoder
from grepr_core.encoders.semantic import SemanticEncoder, encoder_from_state, load_semantic_encoder
from grepr_core.errors import UserError
from grepr_core.storage import Folder
from grepr_core.zero_shot.gaussian import Distance, Gaussian, patch_statistics
from grepr_core.zero_shot.patches import select_pristine_patches
from pipelines.models.clip import load_clip
from pipelines.models.photographs import decoded, listed
from pipelines.models.quality_axis import LowLevelScorer, make_axis
from pipelines.options import ModelBuildOptions, ModelImportOptions
from pipelines.running.run_files import HIGH_CONFIG_FILE, HIGH_WEIGHTS_FILE, LOW_WEIGHTS_FILE, RUN_FILE
from pipelines.telling.progress import Progress
from pipelines.telling.words import counted

log = logging.getLogger(__name__)

Parsed = TypeVar("Parsed")
EncoderT = TypeVar("EncoderT", bound=nn.Module)

#: Weights that the published high-level encoder was trained from.
PUBLISHED_CLIP = "openai"
#: Fewer pristine patches for each feature tell too little of how the features vary together.
LEAST_PATCHES_A_FEATURE = 2


def import_published(options: ModelImportOptions) -> Bundle:
    """Makes the bundle ``official`` from the files that the authors published.

    Args:
        options: Of the command.

    Returns:
        The bundle as saved.

    Raises:
        UserError: A file is not what it should be, CLIP's text encoder cannot be had, or the output holds a bundle.
    """
    check_vacant(options.output)
    low, pristine, high = None, None, None
    files = {"low": options.low, "pristine": options.pristine, "high": options.high}
    if options.high is not None:
        weights = options.pretrained or (None if brings_weights(options.clip) else PUBLISHED_CLIP)
        high = load_published_high_level(options.high, _open_clip(options.clip, weights))
    if options.low is not None and options.pristine is not None:
        low = load_published_low_level(options.low)
        patches = PristinePatches(options.pristine)
        with closing(Progress(len(patches), what="encoding pristine patches", unit="patch")) as shown:
            pristine = _statistics(low, _counted(patches, shown))
    bundle = published_bundle(low, pristine, high, {role: path for role, path in files.items() if path is not None})
    return save_bundle(bundle, options.output)


def _counted(batches: Iterable[Tensor], shown: Progress) -> Iterator[Tensor]:
    for batch in batches:
        yield batch
        shown.update(len(batch), 0)


def build(options: ModelBuildOptions) -> Bundle:
    """Puts encoders together into a bundle.

    Args:
        options: Of the command.

    Returns:
        The bundle as saved.

    Raises:
        UserError: A part cannot be had, there are too few pristine patches, or the output holds a bundle already.
    """
    check_vacant(options.output)
    low = _low_part(options.low) if options.low is not None else None
    if low is not None and options.low_features is not None:
        low.encoder.frame_features = options.low_features
    elif low is not None and low.encoder.frame_features == "none" and options.low != options.high:
        # They add nothing to those of that bundle's own high-level encoder; beside another they may.
        low.encoder.frame_features = "head"
    if low is not None and options.high is None and not low.encoder.feature_blocks:
        raise UserError(f"--low {options.low}: without its features, name --high too, or give --low-features head")
    high = _high_part(options.high, options.pretrained) if options.high is not None else None
    bundles = [part.bundle for part in (low, high) if part is not None and part.bundle is not None]
    view = bundles[0].view if bundles else Bundle.view
    if options.max_pixels is not None:
        view = Lattice.of_area(options.max_pixels)
    card: dict[str, Any] = {"description": "put together by grepr model build"}
    card |= {f"{path}_level": part.origin for path, part in (("low", low), ("high", high)) if part is not None}
    pristine: Gaussian | None = None
    distance: Distance = options.distance or Bundle.distance
    if low is not None and options.pristine is not None:
        pristine, photographs = _pristine_statistics(low.encoder, options.pristine, view)
        card["pristine_photographs"] = photographs
    elif low is not None and low.bundle is not None and low.bundle.pristine is not None:
        pristine, distance = low.bundle.pristine, options.distance or low.bundle.distance
    axis = high.bundle.axis if high is not None and high.bundle is not None else None
    if axis is not None and options.unrated is None and (options.pristine or options.low not in (None, options.high)):
        log.warning(
            "the quality axis of %s was scaled beside another low-level score; --unrated scales anew", options.high
        )
    if options.unrated is not None:
        assert high is not None
        assert options.pristine is not None
        if not isinstance(high.encoder, SemanticEncoder):
            raise UserError(f"--high {options.high}: CLIP's prompts give its zero-shot score; leave --unrated out")
        scorer = LowLevelScorer(low.encoder, pristine, distance) if low is not None and pristine is not None else None
        axis, counts = make_axis(high.encoder, options.pristine, options.unrated, view, scorer)
        card["quality_axis_from"] = counts
    bundle = Bundle(
        options.name or Path(options.output).name,
        high=high.encoder if high is not None else None,
        low=low.encoder if low is not None else None,
        pristine=pristine,
        distance=distance,
        # Of an encoder that comes with its probes; they were learned from its features.
        reasons=high.bundle.reasons if high is not None and high.bundle is not None else None,
        half_weights=options.half,
        axis=axis,
        view=view,
        card=card,
    )
    # Each zero-shot score lies in (0, 1).
    bundle = replace(bundle, scale=(0.0, float(max(1, bundle.has_score_low + bundle.has_score_high))))
    if not bundle.has_score:
        log.info(
            "the model has features but no way from them to a score yet; fit one with 'grepr fit RATINGS.csv "
            "--images FOLDER --model %s --output BUNDLE'%s",
            options.output,
            ", or build it with --pristine" if low is not None else ", or build it with --pristine and --unrated",
        )
    return save_bundle(bundle, options.output)


@dataclass(frozen=True)
class _Part(Generic[EncoderT]):
    """An encoder, the bundle it was taken from if it was, and where it is from as JSON's types."""

    encoder: EncoderT
    bundle: Bundle | None
    origin: Mapping[str, Any]


def _low_part(source: str) -> _Part[LowLevelEncoder]:
    run = _run_folder(source, LOW_WEIGHTS_FILE)
    if run is not None:
        encoder = LowLevelEncoder()
        tensors = _parsed(source, LOW_WEIGHTS_FILE, lambda: load_tensors(run.read(LOW_WEIGHTS_FILE)))
        _parsed(source, LOW_WEIGHTS_FILE, lambda: encoder.load_state_dict(tensors, strict=True))
        return _Part(encoder.eval(), None, {"from": "grepr pretrain low", **_how_trained(run)})
    bundle = _bundle(source, "low", LOW_WEIGHTS_FILE)
    if bundle.low is None:
        raise UserError(f"--low {source}: this model has no low-level encoder")
    return _Part(bundle.low, bundle, _from_bundle(bundle))


def _how_trained(run: Folder) -> dict[str, Any]:
    """Gives the settings and the last epoch of a run that has ended, for the model's card."""
    if not run.exists(RUN_FILE):
        return {}
    record = run.read_json(RUN_FILE)
    return {"settings": record["settings"], "last_epoch": record["epochs"][-1]}


def _high_part(source: str, pretrained: str | None) -> _Part[HighLevelEncoder | SemanticEncoder]:
    if source == EFFICIENTNET_LITE0:
        return _Part(load_semantic_encoder(), None, {"from": "EfficientNet-Lite0, ImageNet"})
    kind, _, architecture = source.partition(":")
    if kind == OPEN_CLIP:
        clip = _open_clip(architecture, pretrained)
        weights = {"pretrained": Path(pretrained).name} if pretrained else {}
        return _Part(clip, None, {"from": "open_clip", "architecture": clip.architecture, **weights})
    run = _run_folder(source, HIGH_WEIGHTS_FILE)
    if run is not None:
        config = _parsed(source, HIGH_CONFIG_FILE, lambda: run.read_json(HIGH_CONFIG_FILE))
        tensors = _parsed(source, HIGH_WEIGHTS_FILE, lambda: load_tensors(run.read(HIGH_WEIGHTS_FILE)))
        encoder = _parsed(source, HIGH_WEIGHTS_FILE, lambda: encoder_from_state(config, tensors))
        return _Part(encoder, None, {"from": "grepr pretrain high", "architecture": encoder.architecture})
    bundle = _bundle(source, "high", HIGH_WEIGHTS_FILE)
    if bundle.high is None:
        raise UserError(f"--high {source}: this model has no high-level encoder")
    return _Part(bundle.high, bundle, _from_bundle(bundle))


def _run_folder(source: str, file: str) -> Folder | None:
    """Gives the folder of a pretraining run, None where there is none; a name of a built-in bundle comes first."""
    folder = Folder(source)
    return folder if source not in built_in_bundles() and folder.exists(file) else None


def _bundle(source: str, option: str, run_file: str) -> Bundle:
    try:
        return load_bundle(source)
    except UserError as error:
        raise UserError(
            f"--{option} {error} (nor is it a folder of 'grepr pretrain {option}': it holds no {run_file})"
        ) from error


def _from_bundle(bundle: Bundle) -> dict[str, str]:
    return {"from": bundle.name, "model_id": bundle.model_id}


def _parsed(source: str, file: str, parse: Callable[[], Parsed]) -> Parsed:
    try:
        return parse()
    except FileNotFoundError as error:
        raise UserError(f"{source}: {file} is missing; has the run ended?") from error
    except (RuntimeError, SafetensorError, TypeError, ValueError) as error:
        raise UserError(f"{source}: {file} does not fit this version of grepr: {error}") from error


def _open_clip(architecture: str, pretrained: str | None) -> HighLevelEncoder:
    return load_clip(architecture, pretrained, named=f"CLIP {architecture} with --pretrained {pretrained}")


def _statistics(encoder: LowLevelEncoder, batches: Iterable[Tensor]) -> Gaussian:
    device = resolve_device("auto")
    prepared = optimise_for_inference(encoder, device, torch.float32)
    return patch_statistics(lambda patches: prepared(patches.to(device)), batches)


def _pristine_statistics(encoder: LowLevelEncoder, source: str, view: View) -> tuple[Gaussian, int]:
    """Gives the statistics of the patches of pristine photographs, and the number of those that could be read."""
    least = LEAST_PATCHES_A_FEATURE * encoder.feature_size
    count = 0

    def patches() -> Iterator[Tensor]:
        nonlocal count
        # Scaled down as an image that is scored would be, but never up, by which they would lose their sharpness.
        for photo in decoded(listed(source), AtMost(view.pixels), what="encoding pristine photographs"):
            count += 1
            yield select_pristine_patches(torch.from_numpy(photo).permute(2, 0, 1).float() / 255)

    batches = (batch for batch in patches() if len(batch))
    first = next(batches, None)
    statistics = _statistics(encoder, itertools.chain([first], batches)) if first is not None else None
    found = statistics.count if statistics is not None else 0
    if statistics is None or found < least:
        patches_found = counted(found, "sharp and colourful patch", "sharp and colourful patches")
        raise UserError(
            f"--pristine {source}: {counted(count, 'photograph')} gave {patches_found}; at least {least} are "
            "needed, so add photographs"
        )
    return statistics, count
