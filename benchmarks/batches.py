"""How many images a GPU is given at a time, by what sizes a lake has: a simulation of the very grouping.

Sizes are drawn, not taken from lakes: cameras' formats and their portraits, and a part that was cropped at will
(Flickr), a long side of 640 (COCO), any aspect and any number of pixels (a crawl of the web). Before grepr had a
lattice, photos were only scaled down, so that every aspect was a size of its own.

Images wait for others of their own shard alone. Were those of the next one let in, the small first shards would fill
batches too; but they are 63,000 images of however large a lake, a batch of 8 runs at 0.88 of the speed of one of 32 (on
an H100), and a process that dies would leave two shards under suspicion, whose images are then scored one by one.

Example: python -m benchmarks.batches
"""

import argparse
import math
from collections.abc import Iterator

import numpy as np

from grepr_core.bundles.bundle_files import PIXELS
from grepr_core.decoding.batches import WAITING_BATCHES, group_by_shape
from grepr_core.decoding.view import AtMost, Lattice, View
from grepr_core.scoring.scorer import GPU_BATCH_PIXELS
from pipelines.lake.manifest import shard_sizes
from pipelines.options import LARGEST_SHARD

Size = tuple[int, int]

CAMERA_ASPECTS = (3 / 2, 4 / 3, 16 / 9, 1.0, 5 / 4)


def flickr(random: np.random.Generator) -> Size:
    """1,024 pixels on the long side; a quarter portraits, a quarter cropped at will."""
    cropped = random.random() < 0.25
    aspect = random.uniform(1, 2.2) if cropped else random.choice(CAMERA_ASPECTS, p=(0.45, 0.35, 0.08, 0.07, 0.05))
    long, short = 1024, round(1024 / aspect) + int(random.integers(-2, 3))
    return (short, long) if random.random() < 0.25 else (long, short)


def coco(random: np.random.Generator) -> Size:
    """640 pixels on the long side, most by 480 or some 427."""
    short = int(random.choice((480, 427, 426, 428, 425, 424), p=(0.45, 0.3, 0.1, 0.05, 0.05, 0.05)))
    if random.random() < 0.3:
        short = int(random.integers(320, 641))
    return (short, 640) if random.random() < 0.28 else (640, short)


def crawl(random: np.random.Generator) -> Size:
    """Any aspect, log-normal about the square, and any number of pixels."""
    aspect = math.exp(random.normal(0.15, 0.45))
    pixels = math.exp(random.normal(math.log(300_000), 1.1))
    return max(32, round(math.sqrt(pixels * aspect))), max(32, round(math.sqrt(pixels / aspect)))


LAKES = {"Flickr": flickr, "COCO": coco, "web crawl": crawl}
VIEWS: dict[str, View] = {"scaled down to the area": AtMost(PIXELS), "lattice": Lattice.of_area(PIXELS)}


def shards(images: int) -> Iterator[int]:
    """Gives the sizes of shards that hold so many images in all."""
    for size in shard_sizes(LARGEST_SHARD):
        if images <= 0:
            return
        yield min(size, images)
        images -= size


def mean_batch(sizes: list[Size], view: View, lengths: list[int]) -> tuple[float, float]:
    """Groups images shard by shard.

    Args:
        sizes: Widths and heights of the images.
        view: How large they are seen.
        lengths: Of the shards; images wait for others of their own shard alone.

    Returns:
        Images in a batch on average, and the most that were decoded at a time, in MiB.
    """
    batches, waiting, most, first = 0, 0, 0, 0

    def taken(shard: list[Size]) -> Iterator[Size]:
        nonlocal waiting, most
        for size in shard:
            waiting += size[0] * size[1]
            most = max(most, waiting)
            yield size

    for length in lengths:
        shard = [view.size(*size) for size in sizes[first : first + length]]
        first += length
        for group in group_by_shape(
            taken(shard), shape=lambda size: size, pixels=lambda size: size[0] * size[1], budget=GPU_BATCH_PIXELS
        ):
            batches += 1
            waiting -= sum(width * height for width, height in group)
    return len(sizes) / batches, 3 * most / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    full = [LARGEST_SHARD] * (options.images // LARGEST_SHARD)
    first = list(shards(options.images))
    print(f"{options.images:,} images a lake; {WAITING_BATCHES} batches may wait\n")
    shards_of = f"shards of {LARGEST_SHARD:,} | first shards, of {first[0]} to {max(first)}"
    print(f"| lake | view | sizes | mean batch, {shards_of} | MiB |")
    print("|---|---|---|---|---|---|")
    for lake, draw in LAKES.items():
        random = np.random.default_rng(options.seed)
        sizes = [draw(random) for _ in range(options.images)]
        for name, view in VIEWS.items():
            kinds = len({view.size(*size) for size in sizes})
            batch, mebibytes = mean_batch(sizes, view, full)
            small, _ = mean_batch(sizes, view, first)
            print(f"| {lake} | {name} | {kinds:,} | {batch:.1f} | {small:.1f} | {mebibytes:.0f} |")


if __name__ == "__main__":
    main()
