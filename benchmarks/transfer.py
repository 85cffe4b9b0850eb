"""Whether what was learned from one source of photographs helps with few ratings of another.

BIQ2021 has three subsets, of photographs from different sources. A regressor is fitted on two of them, and few ratings
of the third are drawn: how well do they do alone, without and with the quality axis, and how well does a fit that
starts from that regressor, as ``grepr fit`` does? Near-copies of photographs that the regressor knows are left out, and
those of one another lie on one side of the test. Rows of split 'val' have no part.

Example: python -m benchmarks.transfer photos/
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import tyro
from numpy.typing import NDArray
from tyro.conf import Positional

from benchmarks.build_lite import FOLDS, all_ratings, features_of
from benchmarks.near_copies import folds_of, groups_of, likeness
from grepr_core.regression.metrics import Spread, srocc
from pipelines.models.rated_features import RatedFeatures

LABELS, DRAWS = (20, 50, 100, 200, 400), 40
#: Of five folds of the third subset, labels are drawn from three.
TESTED_FOLDS = 2


def measure(photos: Positional[Path], *, model: str = "grepr-lite") -> None:
    """Prints a table for each subset.

    Args:
        photos: Folder with rated.csv, rated-more.csv and the photographs that they name.
        model: Bundle with the encoder, by name or folder.
    """
    table = all_ratings(photos)
    rated = features_of(model, table, photos)
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
    ways = {
        "few ratings, features of the encoder": encoder,
        "few ratings, with the quality axis": rated,
        "few ratings, starting from the others' regressor": replace(rated, start=start),
    }
    counts = [count for count in LABELS if count <= len(pool)]
    as_it_is = srocc(start.predict(rated.features[test]), rated.mos[test])
    print(f"| SROCC on {len(test)} | {' | '.join(map(str, counts))} |\n|{'---|' * (len(counts) + 1)}")
    print(f"| the others' regressor as it is | {' | '.join([f'{as_it_is:.3f}'] * len(counts))} |")
    for name, way in ways.items():
        cells = [f"{s.median:.3f} ({s.low:.3f}-{s.high:.3f})" for s in (_few(way, pool, test, n) for n in counts)]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _few(rated: RatedFeatures, pool: NDArray[np.intp], test: NDArray[np.intp], labels: int) -> Spread:
    found = []
    for draw in range(DRAWS):
        chosen = np.random.default_rng([0, draw]).permutation(pool)[:labels]
        regressor = rated.regress(rated.features[chosen], rated.mos[chosen])
        found.append(srocc(regressor.predict(rated.features[test]), rated.mos[test]))
    return Spread.of(found)


if __name__ == "__main__":
    tyro.cli(measure)
