"""The photos that all ways of a comparison score: a folder of copies, or made ones."""

import shutil
from itertools import islice
from pathlib import Path

import skimage.data
from PIL import Image

from pipelines.lake.sources import Listing


def lay_out_photos(folder: Path, source: str | None, count: int) -> list[Path]:
    """Fills a folder with photos under names that sort and do not repeat.

    Reading them once to copy them also puts them into the system's cache, from which every way then reads alike.

    Args:
        folder: Where to, made here.
        source: Local folder or glob whose first photos are copied; None makes photos of 512 x 512.
        count: How many at most.

    Returns:
        Their paths in order.
    """
    folder.mkdir()
    if source is not None:
        for i, entry in enumerate(islice(Listing(source), count)):
            shutil.copyfile(entry.uri, folder / f"{i:05d}{Path(entry.uri).suffix.lower()}")
    else:
        photo = Image.fromarray(skimage.data.astronaut())
        for i in range(count):
            turned = photo.rotate(i, resample=Image.Resampling.BICUBIC)
            turned.save(folder / f"{i:05d}.jpg", quality=90)
    return sorted(folder.iterdir())
