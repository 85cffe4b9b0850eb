"""Photographs that are made, so that a machine needs none: like real ones in what costs time and in what is scored."""

import itertools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Size = tuple[int, int]

SQUARE = "512 x 512"
FLICKR = "long side 500 to 1024"
LARGE = "12 MP"
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".avif", ".heic", ".tif", ".tiff"}


def make_photographs(folder: Path, *, quick: bool, seed: int = 0) -> dict[str, list[Path]]:
    """Writes photographs of three kinds as JPEG files.

    Args:
        folder: Where to, a folder a kind.
        quick: Whether few and small ones will do.
        seed: Decides them all.

    Returns:
        Their paths, by kind.
    """
    random = np.random.default_rng(seed)
    canvases = make_canvas((1500, 1125) if quick else (5200, 3900), random)
    count, large, camera = (4, 1, (1200, 900)) if quick else (192, 32, (4000, 3000))
    sizes = {
        SQUARE: [(512, 512)] * count,
        FLICKR: [flickr_size(random) for _ in range(count)],
        LARGE: [camera if i % 3 else (camera[1], camera[0]) for i in range(large)],
    }
    kinds: dict[str, list[Path]] = {}
    with ThreadPoolExecutor() as pool:
        for kind, wanted in sizes.items():
            within = folder / kind.replace(" ", "-")
            within.mkdir(parents=True)
            kinds[kind] = [within / f"{i:04d}.jpg" for i in range(len(wanted))]
            seeds = random.integers(2**32, size=len(wanted)).tolist()
            list(pool.map(_writer(canvases), kinds[kind], wanted, seeds))
    return kinds


def find_photographs(folder: Path, count: int) -> dict[str, list[Path]]:
    """Gives the first photographs of a folder, as one kind."""
    found = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES)
    return {folder.name: list(itertools.islice(found, count))}


def flickr_size(random: np.random.Generator) -> Size:
    """Draws width and height: a long side of 500, 640 or 1,024 pixels; cameras' aspects, and a part cropped at will."""
    long = int(random.choice((500, 640, 1024), p=(0.3, 0.3, 0.4)))
    aspect = random.uniform(1, 2.6) if random.random() < 0.25 else random.choice((3 / 2, 4 / 3, 16 / 9, 1.0, 5 / 4))
    short = round(long / aspect)
    return (short, long) if random.random() < 0.3 else (long, short)


def make_canvas(size: Size, random: np.random.Generator) -> list[NDArray[np.uint8]]:
    """Makes what photographs are cut from: noise of equal strength in every octave, coloured, and shapes with edges.

    Amplitudes that fall as 1/f are what photographs have, at any scale; so a crop of any size looks like one.

    Args:
        size: Width and height.
        random: Decides it.

    Returns:
        Twice (H, W, 3) uint8, with little and with much of the noise.
    """
    shapes = Image.new("RGB", size, (110, 120, 130))
    draw = ImageDraw.Draw(shapes)
    for i in range(400):
        x, y = (int(random.integers(side)) for side in size)
        radius = max(6, round(size[0] / (4 + i / 2)))
        colour = tuple(random.integers(50, 206, 3).tolist())
        draw.regular_polygon((x, y, radius), int(random.integers(3, 9)), int(random.integers(360)), fill=colour)
    light, warm, green = (_octaves(size, random) for _ in range(3))
    channels = (light + 0.4 * warm, light - 0.1 * warm + 0.3 * green, light - 0.5 * warm)
    noise = np.stack(channels, axis=2)
    return [np.clip(np.asarray(shapes) + strength * noise, 0, 255).astype(np.uint8) for strength in (1.5, 16)]


def _octaves(size: Size, random: np.random.Generator) -> NDArray[np.float32]:
    total = np.zeros(size[::-1], np.float32)
    for octave in range(int(math.log2(min(size))) - 1):
        width, height = (max(2, side >> octave) for side in size)
        noise = Image.fromarray(random.standard_normal((height, width), np.float32))
        total += np.asarray(noise.resize(size, Image.Resampling.BICUBIC))
    return total


def _writer(canvases: list[NDArray[np.uint8]]) -> Callable[[Path, Size, int], None]:
    """Gives what cuts a photograph, at times turns it, blurs it, flattens it or compresses it hard, and writes it."""

    def write(path: Path, size: Size, seed: int) -> None:
        random = np.random.default_rng(seed)
        width, height = size
        tall = height > canvases[0].shape[0]
        turned = [canvas.transpose(1, 0, 2) if tall else canvas for canvas in canvases]
        top, left = (int(random.integers(turned[0].shape[axis] - size[1 - axis] + 1)) for axis in (0, 1))
        smooth, rough = (Image.fromarray(canvas[top : top + height, left : left + width]) for canvas in turned)
        image = Image.blend(smooth, rough, random.uniform(0, 1))
        if random.random() < 0.5:
            image = image.filter(ImageFilter.GaussianBlur(random.exponential(2.5)))
        if random.random() < 0.5:
            share, level = random.uniform(0.2, 1.8), random.uniform(20, 200)
            image = image.point(lambda value: value * share + level * (1 - share))
        quality = int(random.integers(4, 60)) if random.random() < 0.3 else 90
        image.save(path, "JPEG", quality=quality, subsampling="4:2:0")

    return write
