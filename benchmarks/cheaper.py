"""Cheaper forward passes on the CPU, and what they lose: smaller views, OpenVINO's float32 and int8.

They are those of both encoders, of which grepr-lite has the first stage of the low-level one for this no longer.

For each way: CPU time of decoding and encoding a photo on one thread, all ways in turn at every photo; and SROCC on the
photographs whose split is not 'train', of a regressor refitted on the way's features of the others, with its difference
from both encoders at 512 x 512 (95 % intervals of a paired bootstrap over the photographs). The ways of OpenVINO, which
grepr does not need, appear where 'pip install openvino nncf' has installed them.

Example: python -m benchmarks.cheaper rated.csv --images rated/
"""

import importlib
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks import command_line
from grepr_core.bundles.bundle import load_bundle
from grepr_core.decoding.images import Failure, decode
from grepr_core.decoding.view import View
from grepr_core.encoders.inference import optimise_for_inference
from grepr_core.encoders.low_level import STAGE_BLOCKS, LowLevelEncoder
from grepr_core.encoders.semantic import SemanticEncoder
from grepr_core.regression.metrics import srocc
from grepr_core.regression.regressor import fit_ridge
from pipelines.lake.sources import uri_to_path
from pipelines.models.rated_features import image_uri, read_ratings, train_rows

SHIPPED = "both, 512"
SIDES = (448, 416, 384)
#: Of the photographs fitted on, what int8's ranges are taken from.
CALIBRATION = 40
RESAMPLES = 2000

Encode = Callable[[bytes], NDArray[np.float32]]


class Encoders(nn.Module):
    """Both encoders, for photographs that may be seen at two sizes; or the high-level one alone."""

    def __init__(self, high: nn.Module, low: nn.Module | None) -> None:
        super().__init__()
        self.high, self.low = high, low

    def forward(self, image: Tensor, smaller: Tensor | None = None) -> Tensor:
        """Gives (1, D) features of (1, 3, H, W) RGB in [0, 1], the low level's of the smaller one where given."""
        features: Tensor = self.high(image)
        if self.low is None:
            return features
        return torch.cat([features, self.low.encode_frames(image if smaller is None else smaller)], dim=1)


def measure(ratings: str, *, images: str, photos: int = 1200) -> None:
    """Prints the table.

    Args:
        ratings: CSV with columns image, mos and split.
        images: Local folder that the ratings' paths start from.
        photos: So many, evenly spread.
    """
    torch.set_num_threads(1)
    table = read_ratings(ratings, images)
    table = table.iloc[np.linspace(0, len(table), min(photos, len(table)), endpoint=False).astype(int)]
    is_train = train_rows(table)
    assert is_train is not None, "the ratings need a column split"
    paths = [Path(uri_to_path(image_uri(images, image))) for image in table["image"]]
    ways = dict(_ways([path for path, train in zip(paths, is_train, strict=True) if train]))
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    features: dict[str, list[NDArray[np.float32]]] = {name: [] for name in ways}
    for path in paths:
        content = path.read_bytes()
        for name, encode in ways.items():
            began = time.process_time()
            features[name].append(encode(content))
            seconds[name].append(time.process_time() - began)
    _print(seconds, {name: np.stack(rows) for name, rows in features.items()}, table, is_train)


@torch.inference_mode()
def _encoded(encoders: nn.Module, content: bytes, view: View, smaller: View | None) -> NDArray[np.float32]:
    inputs = [_pixels(content, view)] + ([_pixels(content, smaller)] if smaller is not None else [])
    features: NDArray[np.float32] = encoders(*inputs)[0].numpy()
    return features


def _pixels(content: bytes, view: View) -> Tensor:
    photo = decode(content, view=view)
    assert not isinstance(photo, Failure), photo.error
    return torch.from_numpy(photo.rgb).permute(2, 0, 1)[None].float().div_(255)


def _ways(train: list[Path]) -> Iterator[tuple[str, Encode]]:
    bundle = load_bundle("grepr-lite")
    assert bundle.high is not None
    assert bundle.low is not None
    first_stage = LowLevelEncoder(frame_features="first_stage").eval()
    first_stage.load_state_dict(bundle.low.state_dict())
    high, low = (
        optimise_for_inference(part, torch.device("cpu"), torch.float32) for part in (bundle.high, first_stage)
    )
    encoders, alone, view = Encoders(high, low), Encoders(high, None), bundle.view
    yield SHIPPED, lambda content: _encoded(encoders, content, view, None)
    yield "no low level, 512", lambda content: _encoded(alone, content, view, None)
    for side in SIDES:
        small = view.at(side * side)
        yield f"both at {side}", lambda content, small=small: _encoded(encoders, content, small, None)
        yield f"low level at {side}", lambda content, small=small: _encoded(encoders, content, view, small)
    if importlib.util.find_spec("openvino") and importlib.util.find_spec("nncf"):
        yield from _openvino_ways(Encoders(bundle.high, first_stage).eval(), view, train)


def _openvino_ways(encoders: nn.Module, view: View, train: list[Path]) -> Iterator[tuple[str, Encode]]:
    openvino, nncf = importlib.import_module("openvino"), importlib.import_module("nncf")
    with torch.no_grad():
        # Traced at one size, as zeros are padded alike at every side that is a multiple of 32.
        model = openvino.convert_model(encoders, example_input=torch.rand(1, 3, 512, 512))
    options = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}

    def way(model: Any) -> Encode:
        @cache
        def compiled(shape: tuple[int, ...]) -> Callable[[list[NDArray[np.float32]]], Any]:
            sized = model.clone()
            sized.reshape(list(shape))
            network: Callable[[list[NDArray[np.float32]]], Any] = openvino.Core().compile_model(sized, "CPU", options)
            return network

        def encode(content: bytes) -> NDArray[np.float32]:
            pixels = np.ascontiguousarray(_pixels(content, view).numpy())
            features: NDArray[np.float32] = compiled(pixels.shape)([pixels])[0][0].copy()
            return features

        return encode

    yield "OpenVINO, fp32", way(model)
    chosen = train[:: max(1, len(train) // CALIBRATION)]
    inputs = [np.ascontiguousarray(_pixels(path.read_bytes(), view).numpy()) for path in chosen]
    options_of_nncf = {"subset_size": len(inputs), "preset": nncf.QuantizationPreset.MIXED}
    yield "OpenVINO, int8", way(nncf.quantize(model, nncf.Dataset(inputs), **options_of_nncf))


def _print(
    seconds: dict[str, list[float]],
    features: dict[str, NDArray[np.float32]],
    table: pd.DataFrame,
    is_train: NDArray[np.bool_],
) -> None:
    mos = table["mos"].to_numpy()
    held_out = mos[~is_train]
    draws = np.random.default_rng(0).integers(len(held_out), size=(RESAMPLES, len(held_out)))
    predicted = {
        name: fit_ridge(rows[is_train], mos[is_train], blocks=_blocks(rows.shape[1])).predict(rows[~is_train])
        for name, rows in features.items()
    }
    first = predicted[SHIPPED]
    print("| way | ms a photo | times as fast | SROCC | difference |\n|---|---|---|---|---|")
    for name, prediction in predicted.items():
        lost = [srocc(prediction[draw], held_out[draw]) - srocc(first[draw], held_out[draw]) for draw in draws]
        low, high = np.percentile(lost, [2.5, 97.5])
        rank = srocc(prediction, held_out)
        faster = [a / b for a, b in zip(seconds[SHIPPED], seconds[name], strict=True)]
        quarter, half, three = np.percentile(faster, [25, 50, 75])
        print(
            f"| {name} | {1000 * statistics.median(seconds[name]):.0f} | {half:.2f} ({quarter:.2f}-{three:.2f}) "
            f"| {rank:.4f} | {rank - srocc(first, held_out):+.4f} ({low:+.4f} to {high:+.4f}) |"
        )


def _blocks(size: int) -> tuple[int, ...]:
    """Gives the blocks of features of both levels, or of as many of the first as come to a size."""
    blocks = (*SemanticEncoder.feature_blocks, STAGE_BLOCKS[0])
    return blocks[: int(np.searchsorted(np.cumsum(blocks), size)) + 1]


if __name__ == "__main__":
    command_line.run(measure)
