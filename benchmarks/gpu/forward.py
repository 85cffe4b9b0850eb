"""The forward pass alone, on photographs that lie decoded on the GPU, beside what the card can do at most."""

from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.limit import L4, Rates, layers_of, least_seconds, measured_rates
from benchmarks.gpu.report import Row
from benchmarks.gpu.steps import TYPES, NotHere, Setting, Step
from grepr_core.decoding.images import Photo, decode
from grepr_core.encoders.precision import Precision
from grepr_core.scoring.networks import Networks

BATCHES = (32, 1, 8, 64)
#: Of :class:`Networks`: as PyTorch has it; activations and sums within convolutions; as scored, replayed as well.
WAYS = {
    "replayed": {"fused": True, "replayed": True},
    "fused": {"fused": True, "replayed": False},
    "plain": {"fused": False, "replayed": False},
}
TABLE, RATES_TABLE, L4_TABLE = "forward pass", "rates", "an L4, by calculation"


class Forward:
    """The measurements.

    Args:
        setting: What is measured on.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._batches = (2, 1) if setting.quick else BATCHES
        self._rates: dict[Precision, Rates] = {}

    def first_steps(self) -> list[Step]:
        """Gives what all other speeds are compared with."""
        first, *others = self._setting.precisions
        return [
            *(Step(RATES_TABLE, p, 4, lambda given, p=p: [self.rates(p, given)]) for p in (first, *others)),
            *(self._step(first, batch, way) for batch in self._batches for way in WAYS),
            Step(L4_TABLE, first, 0.5, lambda _: self.on_l4(first), least=0),
        ]

    def more_steps(self) -> list[Step]:
        """Gives the other precision."""
        return [
            self._step(precision, batch, way)
            for precision in self._setting.precisions[1:]
            for batch in self._batches
            for way in WAYS
        ]

    def rates(self, precision: Precision, seconds: float) -> Row:
        """Measures what the card does with matrices and with memory."""
        rates = self._rates[precision] = measured_rates(self._setting, TYPES[precision], seconds)
        return {"precision": precision, "TFLOP/s": rates.operations / 1e12, "GB/s": rates.bytes / 1e9}

    def speed(self, precision: Precision, batch: int, way: str, seconds: float) -> Row:
        """Times one way of computing it."""
        setting = self._setting
        if precision not in self._rates:
            raise NotHere("there was no time for the rates of the card")
        images = self._images(batch)
        if setting.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(setting.device)
        networks = self._networks(precision, way)
        took = setting.seconds_of(lambda: networks.encode(images), seconds)
        layers = layers_of(setting.bundle, TYPES[precision], (batch, *images.shape[2:]))
        at_least = least_seconds(layers, self._rates[precision])
        speed = setting.measured[f"{precision} {way} {batch}"] = batch / took
        best = setting.measured.get(f"forward {precision}", 0.0)
        setting.measured[f"forward {precision}"] = max(best, speed)
        share = setting.measured.get(f"share {precision}", 0.0)
        setting.measured[f"share {precision}"] = max(share, at_least / took)
        return {
            "precision": precision,
            "way": way,
            "batch": batch,
            "images/s": speed,
            "limit, images/s": batch / at_least,
            "of the limit": at_least / took,
            "GMACs an image": sum(layer.operations for layer in layers) / batch / 2e9,
            "MB an image": sum(layer.bytes for layer in layers) / batch / 1e6,
            "GiB": torch.cuda.max_memory_allocated(setting.device) / 2**30 if setting.on_gpu else None,
        }

    def on_l4(self, precision: Precision) -> Iterator[Row]:
        """Reckons what an L4 would do, if it reached as much of its limit as this card does of its own."""
        if precision != "bf16" and self._setting.on_gpu:
            return
        if (share := self._setting.measured.get(f"share {precision}")) is None:
            raise NotHere("there was no time for this card's own")
        for batch in self._batches:
            layers = layers_of(self._setting.bundle, TYPES["bf16"], (batch, 512, 512))
            limit = batch / least_seconds(layers, L4)
            yield {"batch": batch, "limit, images/s": limit, "of the limit here": share, "images/s": limit * share}

    def _step(self, precision: Precision, batch: int, way: str) -> Step:
        name = f"{precision}, {way}, batches of {batch}"
        return Step(TABLE, name, 2, lambda given: [self.speed(precision, batch, way, given)])

    @cache  # noqa: B019 - of one object, as long as the program
    def _networks(self, precision: Precision, way: str) -> Networks:
        setting = self._setting
        torch.backends.cudnn.allow_tf32 = False  # as the scorer has it
        return Networks(setting.bundle, setting.device, TYPES[precision], zero_shot=False, features=True, **WAYS[way])

    def _images(self, batch: int) -> Tensor:
        contents = next(iter(self._setting.contents.values()))
        decoded = (decode(content, view=self._setting.view) for content in contents)
        photos = [photo.rgb for photo in decoded if isinstance(photo, Photo)]
        # A folder's photographs may be of several sizes; those of the first one's are taken, over and over.
        alike = [rgb for rgb in photos if rgb.shape == photos[0].shape]
        stacked = np.stack([alike[i % len(alike)] for i in range(batch)])
        return torch.from_numpy(stacked).to(self._setting.device).permute(0, 3, 1, 2)
