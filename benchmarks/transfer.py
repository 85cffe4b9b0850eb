"""Whether what was learned from one source of photographs helps with few ratings of another.

BIQ2021 has three subsets, of photographs from different sources. A regressor is fitted on two of them, and few ratings
of the third are drawn: how well do they do alone, without and with the quality axis, and how well does a fit that
starts from that regressor, as ``grepr fit`` does? Near-copies of photographs that the regressor knows are left out, and
those of one another lie on one side of the test. Rows of split 'val' have no part. Photographs to rate are drawn at
random, or chosen out of 400 as ``grepr label`` does.

Example: python -m benchmarks.transfer photos/
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import command_line
from benchmarks.build_lite import FOLDS, all_ratings, features_of_rated
from benchmarks.near_copies import folds_of, groups_of, likeness
from grepr_core.regression.active_learning import choose
from grepr_core.regression.metrics import Spread, srocc
from grepr_core.regression.regressor import Regressor
from pipelines.models.rated_features import RatedFeatures

LABELS, DRAWS = (20, 50, 100, 200, 400), 40
#: Photographs that those to rate are chosen from; where all of them are rated, there is no choice.
LAKE = max(LABELS)
#: Of five folds of the third subset, labels are drawn from three.
TESTED_FOLDS = 2


def measure(photos: Path, *, model: str = "grepr-lite") -> None:
    """Prints a table for each subset.

    Args:
        photos: Folder with rated.csv, rated-more.csv and the photographs that they name.
        model: Bundle with the encoder, by name or folder.
    """
    table = all_ratings(photos)
    rated = features_of_rated(model, table, photos)
    assert rated.train is not None
    subsets = table["image"].str.extract(r"(ss\d\d)[^/]*$", expand=False).to_numpy()
    groups = groups_of(likeness(rated.features))
    folds = folds_of(groups, FOLDS)
    for subset in np.unique(subsets).tolist():
        others = np.flatnonzero(rated.train & (subsets != subset))
        own = np.flatnonzero(rated.train & (subsets == subset) & ~np.isin(groups, groups[others]))
        tested = folds[own] < TESTED_FOLDS
        print(f"\n{subset}, {len(own)} photographs, by {len(others)} of the others\n", flush=True)
        _print(rated, others, own[~tested], own[tested])


def _print(rated: RatedFeatures, others: NDArray[np.intp], pool: NDArray[np.intp], test: NDArray[np.intp]) -> None:
    start = rated.regress(rated.features[others], rated.mos[others])
    encoder = replace(
        rated, features=rated.features[:, :-1], blocks=rated.blocks[:-1], block_variances=rated.block_variances[:-1]
    )
    started = replace(rated, start=start)
    drawn = [np.random.default_rng([0, draw]).permutation(pool)[:LAKE] for draw in range(DRAWS)]
    chosen = [_chosen(rated, lake, start) for lake in drawn]
    ways = {
        "few ratings, features of the encoder": (encoder, drawn),
        "few ratings, with the quality axis": (rated, drawn),
        "few ratings, starting from the others' regressor": (started, drawn),
        "chosen photographs, with the quality axis": (rated, chosen),
        "chosen photographs, starting from the others' regressor": (started, chosen),
    }
    as_it_is = srocc(start.predict(rated.features[test]), rated.mos[test])
    print(f"| SROCC on {len(test)} | {' | '.join(map(str, LABELS))} |\n|{'---|' * (len(LABELS) + 1)}")
    print(f"| the others' regressor as it is | {' | '.join([f'{as_it_is:.3f}'] * len(LABELS))} |")
    for name, (way, orders) in ways.items():
        spreads = [_few(way, [order[:n] for order in orders], test) for n in LABELS if n <= len(orders[0])]
        print(f"| {name} | {' | '.join(f'{s.median:.3f} ({s.low:.3f}-{s.high:.3f})' for s in spreads)} |", flush=True)


def _chosen(rated: RatedFeatures, lake: NDArray[np.intp], start: Regressor) -> NDArray[np.intp]:
    """Gives the photographs of a lake that teach most, best first; all sizes below its own are its beginnings."""
    features = rated.features[lake]
    quality = start.predict(features)
    most = max(n for n in LABELS if n < LAKE)
    return lake[choose(features, most, blocks=rated.blocks, variances=rated.block_variances, quality=quality)]


def _few(rated: RatedFeatures, draws: Sequence[NDArray[np.intp]], test: NDArray[np.intp]) -> Spread:
    found = []
    for rows in draws:
        regressor = rated.regress(rated.features[rows], rated.mos[rows])
        found.append(srocc(regressor.predict(rated.features[test]), rated.mos[test]))
    return Spread.of(found)


if __name__ == "__main__":
    command_line.run(measure)
