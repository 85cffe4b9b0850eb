"""The quality axis of a bundle whose high-level encoder has no prompts: from clean and from unrated photographs."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from grepr_core.decoding.view import AtMost, View
from grepr_core.encoders.inference import optimise_for_inference, resolve_device
from grepr_core.encoders.low_level import LowLevelEncoder
from grepr_core.encoders.semantic import SemanticEncoder
from grepr_core.errors import UserError
from grepr_core.pretraining.distortions import distort
from grepr_core.zero_shot.axis import QualityAxis, fit_axis
from grepr_core.zero_shot.gaussian import DISTANCES, Distance, Gaussian
from grepr_core.zero_shot.scores import low_level_distance, low_level_score
from pipelines.lake.sources import Entry
from pipelines.models.photographs import decoded, listed
from pipelines.telling.words import counted

Pixels = NDArray[np.uint8]

#: Each clean photograph is given these faults of capture and of sharing, those that photographs really have, at this
#: level. All kinds that there are, among them many that hardly occur, tell less: SROCC by 800 ratings .50 against .56.
KINDS: tuple[str, ...] = ("low_light", "motion_blur", "lens_blur", "overexposure", "resized_jpeg")
LEVEL = 3
#: So many unrated photographs tell how features vary; of more, as many are taken, evenly spaced.
MOST_UNRATED = 5000
#: Fewer photographs make an axis of what they show.
LEAST_CLEAN, LEAST_UNRATED = 20, 200
#: Unrated photographs that tell how much the low-level score varies: it takes a second each on a CPU.
SPREAD_OF = 100
#: How much the axis' scores vary beside the low-level ones: of 5,300 photographs the sum had SROCC .587 with their
#: ratings at 1, .592 at 2 and .592 at 3.
SPREAD = 2.0


@dataclass(frozen=True)
class LowLevelScorer:
    """The low-level zero-shot score that an axis goes with.

    Attributes:
        encoder: Of the low-level path.
        pristine: Statistics of pristine patches.
        distance: How an image is compared with them.
    """

    encoder: LowLevelEncoder
    pristine: Gaussian
    distance: Distance


def make_axis(
    encoder: SemanticEncoder, clean: str, unrated: str, view: View, low: LowLevelScorer | None
) -> tuple[QualityAxis, dict[str, int]]:
    """Fits a quality axis. The same photographs give the same axis.

    Args:
        encoder: Of the high-level path.
        clean: Source of clean photographs, which are distorted here.
        unrated: Source of photographs as they come.
        view: How large photographs are seen; clean ones are scaled down like that, but never up.
        low: The low-level zero-shot score, beside which the new one shall vary :data:`SPREAD` times as much; None where
            there is none.

    Returns:
        The axis, and numbers of photographs for the model's card.

    Raises:
        UserError: There are too few photographs, or they do not differ.
    """
    encode = _encode_on_device(encoder)
    lake = _evenly(listed(unrated), MOST_UNRATED)
    as_they_come = [encode(photo) for photo in decoded(lake, view, what="encoding unrated photographs")]
    _require(as_they_come, LEAST_UNRATED, f"--unrated {unrated}")
    good: list[NDArray[np.float32]] = []
    bad: list[NDArray[np.float32]] = []
    # Enlarged, clean photographs would be soft, and no better than others.
    native = AtMost(view.pixels)
    for key, photo in enumerate(decoded(listed(clean), native, what="distorting clean photographs")):
        good.append(encode(photo))
        bad += [encode(distort(photo, kind, LEVEL, seed=key)) for kind in KINDS]
    _require(good, LEAST_CLEAN, f"--pristine {clean}")
    try:
        axis = fit_axis(np.stack(good), np.stack(bad), np.stack(as_they_come), blocks=encoder.feature_blocks)
    except ValueError as error:
        raise UserError(f"--pristine {clean}, --unrated {unrated}: {error}; name other photographs") from error
    if low is not None:
        photographs = decoded(_evenly(lake, SPREAD_OF), view, what="scoring unrated photographs")
        axis = axis.with_spread(SPREAD * _spread(low, photographs))
    return axis, {"pristine_photographs": len(good), "unrated_photographs": len(as_they_come)}


def _evenly(photographs: list[Entry], most: int) -> list[Entry]:
    places = np.linspace(0, len(photographs), min(most, len(photographs)), endpoint=False)
    return [photographs[int(place)] for place in places]


def _encode_on_device(encoder: SemanticEncoder) -> Callable[[Pixels], NDArray[np.float32]]:
    device = resolve_device("auto")
    prepared = optimise_for_inference(encoder, device, torch.float32)

    @torch.inference_mode()
    def encode(rgb: Pixels) -> NDArray[np.float32]:
        pixels = torch.from_numpy(rgb).to(device).permute(2, 0, 1)[None]
        features: NDArray[np.float32] = prepared(pixels / 255)[0].cpu().numpy()
        return features

    return encode


def _require(features: list[NDArray[np.float32]], least: int, named: str) -> None:
    if len(features) < least:
        raise UserError(
            f"{named}: {counted(len(features), 'photograph')} could be read; at least {least} are needed, so add some"
        )


def _spread(low: LowLevelScorer, photographs: Iterable[Pixels]) -> float:
    device = resolve_device("auto")
    prepared = optimise_for_inference(low.encoder, device, torch.float32)
    distances = [
        low_level_distance(
            prepared,
            torch.from_numpy(photo).to(device).permute(2, 0, 1) / 255,
            low.pristine,
            distance=DISTANCES[low.distance],
        )
        for photo in photographs
    ]
    return float(low_level_score(np.array(distances)).std())
