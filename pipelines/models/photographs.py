"""Reading the photographs that a model is made of."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from grepr_core.decoding.images import Failure, Limits, decode
from grepr_core.decoding.view import View
from pipelines.lake.fetch import Fetcher
from pipelines.lake.sources import Entry, Listing
from pipelines.telling.activity import activity
from pipelines.telling.progress import Progress
from pipelines.telling.words import counted

log = logging.getLogger(__name__)

TIMEOUT = 60.0


def listed(source: str) -> list[Entry]:
    """Lists photographs, and tells so."""
    listing = Listing(source)
    with activity(f"listing {source}", lambda: f"{counted(listing.found, 'image')} found"):
        return list(listing)


def decoded(photographs: Sequence[Entry], view: View, *, what: str) -> Iterator[NDArray[np.uint8]]:
    """Reads and decodes photographs, and shows how far it is; those that cannot be read are named in the log.

    Args:
        photographs: Which.
        view: How large they are seen.
        what: Is done with them, for the display.

    Yields:
        (H, W, 3) sRGB of each that can be read, in order.
    """
    log.info("%s: %s", what, counted(len(photographs), "photo"))
    fetcher = Fetcher(limits=Limits(), timeout=TIMEOUT)
    failures: list[str] = []
    with closing(Progress(len(photographs), what=what, unit="photo")) as shown:
        for photo, (content, _) in zip(photographs, fetcher.read(photographs), strict=True):
            image = content if isinstance(content, Failure) else decode(content, view=view)
            if isinstance(image, Failure):
                failures.append(f"{photo.uri}: {image.error}")
            else:
                yield image.rgb
            shown.update(1, int(isinstance(image, Failure)))
    for failure in failures:
        log.warning("%s; left out", failure)
