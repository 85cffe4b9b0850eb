"""The linear probe: how well ridge regression on an encoder's features predicts ratings, while it is pretrained."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grepr_core.decoding.images import Failure, Limits, decode
from grepr_core.decoding.view import AtMost
from grepr_core.errors import UserError
from grepr_core.regression.metrics import few_label_protocol
from grepr_core.regression.regressor import fit_ridge
from grepr_core.web.access import for_reading
from pipelines.lake.fetch import Fetcher
from pipelines.lake.sources import Entry
from pipelines.models.rated_features import TRAIN, image_uri, read_ratings
from pipelines.telling.words import counted

log = logging.getLogger(__name__)

FEWEST_RATINGS = 20
#: Larger images are scaled down to this many pixels.
MAX_PIXELS = 512 * 512
DRAWS = 10
TIMEOUT = 60.0


@dataclass(frozen=True)
class LinearProbe:
    """Rated images to probe features with. Pickles by address.

    Attributes:
        uris: Of the images.
        mos: Their mean opinion scores.
        storage_options: For fsspec.
    """

    uris: tuple[str, ...]
    mos: tuple[float, ...]
    storage_options: dict[str, Any] = field(default_factory=dict)

    def srocc(self, encode: Callable[[Tensor], Tensor], device: torch.device) -> float | None:
        """Cross-validates ridge regression on an encoder's features.

        Args:
            encode: Turns (1, 3, H, W) float32 RGB in [0, 1] into features (1, D); in evaluation mode.
            device: Where it runs.

        Returns:
            Median SROCC of 10 draws, each tested on a fifth of the images; None where too few could be read, or where
            features tell nothing.
        """
        features, mos, failures = [], [], []
        fetcher = Fetcher(limits=Limits(), timeout=TIMEOUT, storage_options=self.storage_options)
        with torch.inference_mode():
            images = fetcher.read([Entry(uri) for uri in self.uris])
            for uri, rating, (content, _) in zip(self.uris, self.mos, images, strict=True):
                photo = content if isinstance(content, Failure) else decode(content, view=AtMost(MAX_PIXELS))
                if isinstance(photo, Failure):
                    failures.append(f"{uri}: {photo.error}")
                    continue
                pixels = torch.from_numpy(photo.rgb).to(device).permute(2, 0, 1)[None].float() / 255
                features.append(encode(pixels)[0].cpu().numpy())
                mos.append(rating)
        if failures:
            log.warning("%s left out as unreadable, such as %s", counted(len(failures), "rated image"), failures[0])
        if len(mos) < FEWEST_RATINGS:
            return None
        try:
            (result,) = few_label_protocol(
                np.stack(features),
                np.array(mos),
                label_counts=[len(mos) * 4 // 5],
                splits=DRAWS,
                fit=lambda x, y: fit_ridge(x, y).predict,
            )
        except ValueError as error:
            log.warning("linear probe: %s", error)
            return None
        return result.srocc.median


def open_probe(ratings: str | None, images: str | None, storage_options: dict[str, Any]) -> LinearProbe | None:
    """Reads the ratings of a linear probe.

    Args:
        ratings: CSV or Parquet, path or URL; where it has a split, only ``train`` is used.
        images: Folder or URL that its paths start from.
        storage_options: For fsspec.

    Returns:
        The probe; None where there are no ratings.

    Raises:
        UserError: The ratings cannot be used, or are too few, or the first image is not there.
    """
    if ratings is None or images is None:
        return None
    table = read_ratings(ratings, images, storage_options=storage_options)
    storage_options = for_reading(storage_options, images)
    if "split" in table:
        table = table[table["split"] == TRAIN]
    if len(table) < FEWEST_RATINGS:
        raise UserError(
            f"{ratings}: {counted(len(table), 'rating')} to probe with; at least {FEWEST_RATINGS} are needed"
        )
    uris = tuple(image_uri(images, image) for image in table["image"])
    fetcher = Fetcher(limits=Limits(), timeout=TIMEOUT, storage_options=storage_options)
    (first,) = fetcher.read([Entry(uris[0])])
    if isinstance(first.content, Failure):
        raise UserError(f"{uris[0]}: {first.content.error}; check --ratings-images")
    return LinearProbe(uris, tuple(table["mos"].tolist()), storage_options)
