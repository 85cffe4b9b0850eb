"""Which photos to rate: those that ``grepr label`` chooses, beside as many at random and other ways to choose.

Every draw takes a random half of the rated training photographs for the lake; photos are chosen from it, the regressor
is fitted on their ratings and tested on the photographs of the other split. The predicted quality that a choice may use
is of a regressor fitted on other photographs, the other half of the training ones, never on ratings of the lake. All
ways see the same draws.

Example: python -m benchmarks.label_choice rated.csv --images rated/
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grepr_core.bundles.bundle import load_bundle
from grepr_core.regression.active_learning import choose
from grepr_core.regression.metrics import Spread, srocc
from grepr_core.regression.regressor import standardisation
from pipelines.models.rated_features import RatedFeatures, rated_features, read_ratings
from pipelines.options import EvaluateOptions

#: Ratings that the weak prediction of quality is fitted on.
FEW = 50


@dataclass(frozen=True)
class Lake:
    """What is known of the photos of a draw before any of them is rated."""

    features: NDArray[np.float32]
    blocks: tuple[int, ...]
    variances: tuple[float, ...]
    quality: NDArray[np.float64]
    weak_quality: NDArray[np.float64]
    rng: np.random.Generator

    def standardised(self) -> NDArray[np.float64]:
        x = self.features.astype(np.float64)
        mean, scale = standardisation(x, np.full(len(x), 1 / len(x)), blocks=self.blocks, variances=self.variances)
        return (x - mean) / scale


def at_random(lake: Lake, count: int) -> NDArray[np.intp]:
    return lake.rng.permutation(len(lake.features))[:count]


def spread_over_quality(lake: Lake, count: int) -> NDArray[np.intp]:
    parts = np.array_split(np.argsort(lake.quality), count)
    return np.array([lake.rng.choice(part) for part in parts])


def farthest_first(lake: Lake, count: int) -> NDArray[np.intp]:
    x = lake.standardised()
    chosen = [int(np.square(x).sum(axis=1).argmin())]
    distance = np.square(x - x[chosen[0]]).sum(axis=1)
    while len(chosen) < count:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.square(x - x[chosen[-1]]).sum(axis=1))
    return np.array(chosen)


def nearest_to_centres(lake: Lake, count: int, rounds: int = 25) -> NDArray[np.intp]:
    """k-means, begun as k-means++, and the photo nearest to each centre."""
    x = lake.standardised()
    centres = x[[int(lake.rng.integers(len(x)))]]
    while len(centres) < count:
        weights = _distances(x, centres).min(axis=1)
        centres = np.vstack([centres, x[lake.rng.choice(len(x), p=weights / weights.sum())]])
    for _ in range(rounds):
        nearest = _distances(x, centres).argmin(axis=1)
        centres = np.stack([x[nearest == i].mean(axis=0) if (nearest == i).any() else c for i, c in enumerate(centres)])
    distance = _distances(x, centres)
    chosen: list[int] = []
    for i in range(count):
        distance[chosen] = np.inf
        chosen.append(int(distance[:, i].argmin()))
    return np.array(chosen)


def _distances(x: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    squares = np.square(x).sum(axis=1)[:, None] - 2 * x @ centres.T + np.square(centres).sum(axis=1)
    return np.maximum(squares, 0)


def by_design(quality: Callable[[Lake], NDArray[np.float64] | None]) -> Callable[[Lake, int], NDArray[np.intp]]:
    return lambda lake, count: choose(
        lake.features, count, blocks=lake.blocks, variances=lake.variances, quality=quality(lake)
    )


WAYS: dict[str, Callable[[Lake, int], NDArray[np.intp]]] = {
    "at random": at_random,
    "spread over predicted quality": spread_over_quality,
    "farthest first": farthest_first,
    "nearest to k-means centres": nearest_to_centres,
    "grepr label, no prediction of quality": by_design(lambda lake: None),
    "grepr label, quality predicted at random": by_design(lambda lake: lake.rng.permutation(lake.quality)),
    f"grepr label, quality predicted by {FEW} ratings": by_design(lambda lake: lake.weak_quality),
    "grepr label": by_design(lambda lake: lake.quality),
}


def measure(rated: RatedFeatures, counts: list[int], draws: int, tuning: bool) -> dict[tuple[int, str], list[float]]:
    """SROCC by number of labels and way, one for each draw."""
    assert rated.train is not None
    results: dict[tuple[int, str], list[float]] = {(count, way): [] for count in counts for way in WAYS}
    for draw in range(draws):
        order = np.random.default_rng([1, draw]).permutation(np.flatnonzero(rated.train))
        lake_rows, others = np.array_split(order, 2)
        test = np.flatnonzero(~rated.train)
        if tuning:
            others, test = np.array_split(others, 2)
        x, y = rated.features, rated.mos
        quality = rated.regress(x[others], y[others]).predict(x[lake_rows])
        weak = rated.regress(x[others[:FEW]], y[others[:FEW]]).predict(x[lake_rows])
        for (count, way), found in results.items():
            rng = np.random.default_rng([2, draw])
            lake = Lake(x[lake_rows], rated.blocks, rated.block_variances, quality, weak, rng)
            chosen = lake_rows[WAYS[way](lake, count)]
            predicted = rated.regress(x[chosen], y[chosen]).predict(x[test])
            found.append(srocc(predicted, y[test]))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ratings", help="table with columns image, mos and split (train, and any other)")
    parser.add_argument("--images", required=True)
    parser.add_argument("--model", default="grepr-lite")
    parser.add_argument("--labels", default="25,50,100")
    parser.add_argument("--draws", type=int, default=40)
    parser.add_argument("--tuning", action="store_true", help="test on a quarter of the training photographs instead")
    options = parser.parse_args()
    evaluate = EvaluateOptions(ratings=options.ratings, images=options.images, model=options.model, zero_shot=False)
    ratings = read_ratings(options.ratings, options.images)
    rated = rated_features(ratings, options.images, load_bundle(options.model), evaluate)
    counts = [int(count) for count in options.labels.split(",")]
    results = measure(rated, counts, options.draws, options.tuning)
    print(f"{options.draws} draws: median SROCC, in brackets their middle half, draws better than at random\n")
    print(f"| chosen | {' | '.join(f'{count} labels' for count in counts)} |\n|---|{'---|' * len(counts)}")
    for way in WAYS:
        cells = []
        for count in counts:
            values, random = results[count, way], results[count, "at random"]
            spread, won = Spread.of(values), sum(a > b for a, b in zip(values, random, strict=True))
            won_text = "" if way == "at random" else f", {won}"
            cells.append(f"{spread.median:.3f} ({spread.low:.3f}-{spread.high:.3f}){won_text}")
        print(f"| {way} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
