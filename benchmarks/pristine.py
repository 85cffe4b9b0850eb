"""How many photographs ``grepr model build --pristine`` needs, and which.

Of each source so many photographs are drawn, several times; the low-level zero-shot score of rated photographs is
measured by the statistics of their patches. The rated photographs are cut into patches only once.

Example: python -m benchmarks.pristine rated.csv --images rated/ --pristine pristine/ --pristine others/
"""

import argparse

import numpy as np
import torch
from numpy.typing import NDArray

from grepr_core.bundles.bundle import Bundle, load_bundle
from grepr_core.decoding.view import AtMost
from grepr_core.encoders.low_level import LowLevelEncoder
from grepr_core.regression.metrics import srocc
from grepr_core.zero_shot.gaussian import DISTANCES, Gaussian, GaussianAccumulator, patch_statistics
from grepr_core.zero_shot.patches import patch_batches, select_pristine_patches
from pipelines.lake.sources import Listing
from pipelines.models.photographs import decoded
from pipelines.models.rated_features import rated_images, read_ratings, train_rows

Pixels = NDArray[np.uint8]
COUNTS = (10, 25, 50, 100, 200)


def statistics_of(features: list[NDArray[np.float32]]) -> Gaussian:
    found = GaussianAccumulator()
    for patches in features:
        found.update(patches)
    return found.gaussian()


def to_tensor(photo: Pixels) -> torch.Tensor:
    return torch.from_numpy(photo).permute(2, 0, 1).float() / 255


def pristine_features(source: str, encoder: LowLevelEncoder, bundle: Bundle) -> list[NDArray[np.float32]]:
    """Features of the patches that ``grepr model build`` takes of each photograph."""
    photographs = decoded(list(Listing(source)), AtMost(bundle.view.pixels), what="encoding pristine photographs")
    with torch.inference_mode():
        patches = (select_pristine_patches(to_tensor(photo)) for photo in photographs)
        return [encoder(batch).numpy() for batch in patches if len(batch)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ratings", help="table with columns image and mos; where it has a split, train is left out")
    parser.add_argument("--images", required=True)
    parser.add_argument("--pristine", required=True, action="append", help="source of clean photographs; several times")
    parser.add_argument("--model", default="grepr-lite")
    parser.add_argument("--rated", type=int, default=200, help="rated photographs, drawn at random")
    parser.add_argument("--draws", type=int, default=10)
    options = parser.parse_args()
    bundle = load_bundle(options.model)
    encoder = bundle.low
    assert encoder is not None
    ratings = read_ratings(options.ratings, options.images)
    train = train_rows(ratings)
    rows = np.arange(len(ratings)) if train is None else np.flatnonzero(~train)
    rows = np.random.default_rng(0).permutation(rows)[: options.rated]
    entries, mos = np.array(rated_images(ratings, options.images), object)[rows], ratings["mos"].to_numpy()[rows]
    rated = [
        patch_statistics(encoder, patch_batches(to_tensor(photo)))
        for photo in decoded(entries.tolist(), bundle.view, what="encoding rated photographs")
    ]
    print(f"SROCC of score_low on {len(rated)} photographs: median of {options.draws} draws, in brackets all of them\n")
    print(f"| pristine | photographs | patches | {' | '.join(DISTANCES)} |\n|---|---|---|{'---|' * len(DISTANCES)}")
    for source in options.pristine:
        features = pristine_features(source, encoder, bundle)
        for count in sorted({min(count, len(features)) for count in COUNTS}):
            rng = np.random.default_rng(count)
            draws = [[features[i] for i in rng.permutation(len(features))[:count]] for _ in range(options.draws)]
            cells = []
            for distance in DISTANCES.values():
                found = [srocc(np.array([-distance(r, statistics_of(draw)) for r in rated]), mos) for draw in draws]
                cells.append(f"{np.median(found):.3f} ({min(found):.3f}-{max(found):.3f})")
            patches = np.median([sum(map(len, draw)) for draw in draws])
            print(f"| {source} | {count} | {patches:.0f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
