"""Decoding of JPEGs to what the shipped bundle sees, beside grepr's way before: Pillow's reduced scales and Lanczos.

Photos are those of a folder, enlarged, with noise of single pixels. Both ways take turns at all of them, on one thread;
its CPU time counts, so that other load disturbs less.

Example: python -m benchmarks.decoding photos/ --photos 8 --rounds 5
"""

import argparse
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.side_by_side import Row, Run, table, take_turns
from grepr_core.bundles.bundle import load_bundle
from grepr_core.decoding.images import Photo, decode
from grepr_core.decoding.view import View
from pipelines.lake.sources.entry import IMAGE_SUFFIXES

#: Width and height, and how they are encoded.
KINDS: dict[str, tuple[tuple[int, int], dict[str, object]]] = {
    "512 x 512": ((512, 512), {}),
    "2 megapixels": ((1632, 1224), {}),
    "12 megapixels": ((4032, 3024), {}),
    "12 megapixels, 4:4:4": ((4032, 3024), {"subsampling": 0}),
    "12 megapixels, progressive": ((4032, 3024), {"progressive": True}),
}
#: As it was: at least twice the final width and height.
MARGIN = 2


def make(path: Path, size: tuple[int, int], options: dict[str, object]) -> bytes:
    photo = Image.open(path).convert("RGB").resize(size, Image.Resampling.BICUBIC)
    noise = np.random.default_rng(0).normal(0, 3, (size[1], size[0], 1)).astype(np.float32)
    buffer = io.BytesIO()
    Image.fromarray((np.asarray(photo) + noise).clip(0, 255).astype(np.uint8)).save(
        buffer, "JPEG", quality=90, **options
    )
    return buffer.getvalue()


def by_pillow(encoded: bytes, view: View) -> None:
    image = Image.open(io.BytesIO(encoded))
    seen = view.size(*image.size)
    drafted = image.draft(None, (MARGIN * seen[0], MARGIN * seen[1]))
    box = drafted[1] if drafted else None
    scaled = image if image.size == seen else image.resize(seen, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
    np.asarray(scaled.convert("RGB"))


def by_grepr(encoded: bytes, view: View) -> None:
    assert isinstance(decode(encoded, view=view), Photo)


def way(contents: Sequence[bytes], run: Callable[[bytes, View], None], view: View) -> Callable[[], Run]:
    def turn() -> Run:
        began = time.thread_time()
        for content in contents:
            run(content, view)
        return Run(len(contents) / (time.thread_time() - began))

    return turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--photos", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    view = load_bundle("grepr-lite").view
    paths = [path for path in sorted(options.folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES][
        : options.photos
    ]
    ways = {}
    for kind, (size, encoding) in KINDS.items():
        contents = [make(path, size, encoding) for path in paths]
        ways[f"grepr, {kind}"] = way(contents, by_grepr, view)
        ways[f"Pillow, {kind}"] = way(contents, by_pillow, view)
    runs = take_turns(ways, options.rounds)
    print(table([Row(kind, f"grepr, {kind}", f"Pillow, {kind}") for kind in KINDS], runs))


if __name__ == "__main__":
    main()
