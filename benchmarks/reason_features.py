"""Features of what reasons are learned from and tried on, kept in a file, since they take most of the time."""

import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks import graphics
from benchmarks.faults import Faults, version
from grepr_core.bundles.bundle import Bundle
from grepr_core.decoding.resize import resize
from grepr_core.encoders.inference import optimise_for_inference
from grepr_core.encoders.semantic import SemanticEncoder

log = logging.getLogger(__name__)

#: New features between two savings.
SAVED_EVERY = 250


@dataclass(frozen=True, slots=True)
class Picture:
    """A photograph, a faulty version of one, or a graphic.

    Attributes:
        source: Path of the photograph, or the kind of graphic.
        faults: Of the version.
        seed: Of a graphic; None of a photograph.
    """

    source: str
    faults: Faults = ()
    seed: int | None = None

    @property
    def fault_seed(self) -> int:
        """Decides all that is drawn for the faults, the same for all versions of a photograph."""
        return zlib.crc32(self.source.encode())

    @property
    def key(self) -> str:
        """Which one it is."""
        return "|".join([self.source, *(f"{kind} {level}" for kind, level in self.faults), str(self.seed or 0)])

    def pixels(self, photos: Path) -> NDArray[np.uint8]:
        """Reads or makes it: (H, W, 3) sRGB."""
        if self.seed is not None:
            return graphics.draw(self.source, self.seed)
        with Image.open(photos / self.source) as photo:
            pixels = np.array(photo.convert("RGB"))
        return version(pixels, self.faults, seed=self.fault_seed) if self.faults else pixels


def features_of(pictures: Sequence[Picture], photos: Path, bundle: Bundle, cache: Path | None) -> NDArray[np.float32]:
    """Encodes pictures as the bundle sees them.

    Args:
        pictures: N of them.
        photos: Folder that the photographs' paths start from.
        bundle: Its high-level encoder is EfficientNet-Lite0.
        cache: File of features, written as they are made; what it holds is not made again.

    Returns:
        (N, 4128) float32.
    """
    assert isinstance(bundle.high, SemanticEncoder), "reasons are read off EfficientNet-Lite0's features"
    encoder = optimise_for_inference(bundle.high, torch.device("cpu"), torch.float32)
    known: dict[str, NDArray[np.float32]] = {}
    if cache is not None and cache.exists():
        with np.load(cache) as kept:
            known = dict(zip(kept["keys"].tolist(), kept["features"], strict=True))
    missing = list({picture.key: picture for picture in pictures if picture.key not in known}.values())
    for made, picture in enumerate(missing, 1):
        pixels = picture.pixels(photos)
        seen = resize(pixels, *bundle.view.size(pixels.shape[1], pixels.shape[0]))
        with torch.inference_mode():
            image = torch.tensor(seen).permute(2, 0, 1)[None].float() / 255
            known[picture.key] = encoder(image)[0].numpy().copy()
        if cache is not None and (made % SAVED_EVERY == 0 or made == len(missing)):
            np.savez(cache, keys=np.array(list(known)), features=np.array(list(known.values())))
            log.info("%d of %d pictures encoded", made, len(missing))
    return np.array([known[picture.key] for picture in pictures])
