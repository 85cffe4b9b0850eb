"""How many bits of the perceptual hash differ between near-copies, and between other photographs.

Copies are made of some photographs and decoded as for scoring. Bursts and other photographs are told apart by what
EfficientNet-Lite0 sees (benchmarks/near_copies.py): pairs of a cosine above .75, and of one below .5, among which
are still scenes of which one photograph is blurred or dark.

Example: python -m benchmarks.hash_bits photos/rated photos/unrated photos/more
"""

import argparse
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from tqdm import tqdm

from benchmarks.near_copies import ALIKE, likeness
from grepr_core.bundles.bundle import load_bundle
from grepr_core.decoding.images import Limits, Photo, decode
from grepr_core.decoding.perceptual_hash import perceptual_hash
from grepr_core.scoring.scorer import Scorer

#: Hamming distances that are printed; of pictures that are not plain they are even, since half of all bits are set.
DISTANCES = (0, 2, 4, 6, 8, 10, 12)
OTHERS = 0.5


def saved(image: Image.Image, kind: str = "JPEG", quality: int = 90) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, quality=quality)
    return file.getvalue()


def crop(image: Image.Image, part: float, side: int) -> Image.Image:
    """Cuts a part of width and height off: of all sides (0), or of the left and upper one (1)."""
    width, height = image.size
    left, upper = (round(part * size / (1 if side else 2)) for size in (width, height))
    right, lower = (0, 0) if side else (left, upper)
    return image.crop((left, upper, width - right, height - lower))


def resized(image: Image.Image, factor: float) -> Image.Image:
    factor = max(factor, Limits().min_side / min(image.size))
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS)


Change = Callable[[Image.Image], bytes]
CHANGES: dict[str, list[Change]] = {
    "JPEG of quality 90, 70": [lambda p, q=q: saved(p, quality=q) for q in (90, 70)],
    "JPEG of quality 50, 30": [lambda p, q=q: saved(p, quality=q) for q in (50, 30)],
    "WebP of quality 80, 50": [lambda p, q=q: saved(p, "WEBP", q) for q in (80, 50)],
    "scaled to 0.75, 0.5": [lambda p, f=f: saved(resized(p, f)) for f in (0.75, 0.5)],
    "scaled to 0.25, 0.1": [lambda p, f=f: saved(resized(p, f)) for f in (0.25, 0.1)],
    "2 % cropped": [lambda p, s=s: saved(crop(p, 0.02, s)) for s in (0, 1)],
    "5 % cropped": [lambda p, s=s: saved(crop(p, 0.05, s)) for s in (0, 1)],
    "10 % cropped": [lambda p, s=s: saved(crop(p, 0.1, s)) for s in (0, 1)],
    "brightness x 0.8, x 1.2": [lambda p, f=f: saved(ImageEnhance.Brightness(p).enhance(f)) for f in (0.8, 1.2)],
    "contrast x 0.8, x 1.2": [lambda p, f=f: saved(ImageEnhance.Contrast(p).enhance(f)) for f in (0.8, 1.2)],
    "colour x 0, x 1.4": [lambda p, f=f: saved(ImageEnhance.Color(p).enhance(f)) for f in (0, 1.4)],
    "mirrored": [lambda p: saved(ImageOps.mirror(p))],
}


def bits(hashes: list[str]) -> NDArray[np.uint64]:
    return np.array([int(text, 16) for text in hashes], np.uint64)


def print_row(what: str, distances: NDArray[np.uint8], *, share: bool = True) -> None:
    counts = [(distances <= most).sum() for most in DISTANCES]
    cells = [f"{100 * count / len(distances):.1f} %" if share else f"{count:,}" for count in counts]
    print(f"| {what} | {len(distances):,} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--copied", type=int, default=300, help="photographs that copies are made of")
    parser.add_argument("--cache", type=Path, help="file for the features of all of them")
    options = parser.parse_args()
    files = [file for folder in options.folders for file in sorted(folder.rglob("*.[jp][pn]g"))]
    bundle = load_bundle("grepr-lite")

    def phash(encoded: bytes) -> str:
        image = decode(encoded, view=bundle.view)
        assert isinstance(image, Photo)
        return perceptual_hash(image.rgb)

    def contents() -> Iterator[bytes]:
        yield from (file.read_bytes() for file in tqdm(files, disable=None))

    print(f"| pairs | number | {' | '.join(f'within {most}' for most in DISTANCES)} |")
    print(f"|---|{'---|' * (len(DISTANCES) + 1)}")
    chosen = [files[i].read_bytes() for i in np.linspace(0, len(files) - 1, options.copied).astype(int)]
    own = bits([phash(content) for content in chosen])
    photographs = [ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB") for content in chosen]
    for what, changes in CHANGES.items():
        copies = np.stack([bits([phash(change(photograph)) for photograph in photographs]) for change in changes])
        print_row(what, np.bitwise_count(copies ^ own).ravel())
    if options.cache and options.cache.exists():
        held = np.load(options.cache)
        features, hashes = held["features"], held["hashes"]
    else:
        rows = Scorer(bundle, zero_shot=False).score(contents())
        features, hashes = np.array([row.features for row in rows]), bits([row.phash or "" for row in rows])
        if options.cache:
            np.savez(options.cache, features=features, hashes=hashes)
    first, second = np.triu_indices(len(files), 1)
    cosines, distances = likeness(features)[first, second], np.bitwise_count(hashes[first] ^ hashes[second])
    for lower, upper in ((0.95, 1.01), (0.85, 0.95), (ALIKE, 0.85)):
        alike = (cosines > lower) & (cosines <= upper)
        print_row(f"cosine {lower} to {min(upper, 1)}", distances[alike])
    print_row(f"cosine below {OTHERS}", distances[cosines < OTHERS], share=False)


if __name__ == "__main__":
    main()
