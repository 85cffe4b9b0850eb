"""Groups of near-copies among rated photographs: bursts, and one scene with several faults.

They must lie on one side of every split, or a model is praised for what it has seen.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from grepr_core.encoders.semantic import SemanticEncoder

#: Mean responses of the last stage: what is shown, whatever its quality.
SHOWN = slice(SemanticEncoder.feature_size - 2560, SemanticEncoder.feature_size - 1280)
#: Cosine from which on two photographs count as one scene. Of 5,700 photographs 15 % are in groups then, the largest
#: one of 20; at .6 there is one of 259.
ALIKE = 0.75


def likeness(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compares what photographs show.

    Args:
        features: (N, 4128 or more), those of EfficientNet-Lite0 first.

    Returns:
        (N, N) cosines of the standardised features; -1 on the diagonal.
    """
    shown = features[:, SHOWN]
    shown = (shown - shown.mean(axis=0)) / (shown.std(axis=0) + 1e-6)
    shown /= np.linalg.norm(shown, axis=1, keepdims=True)
    cosines: NDArray[np.float32] = shown @ shown.T
    np.fill_diagonal(cosines, -1)
    return cosines


def groups_of(cosines: NDArray[np.float32]) -> NDArray[np.int32]:
    """Gives each photograph the number of its group, (N,); one that has no near-copy is a group by itself."""
    groups: NDArray[np.int32] = connected_components(csr_matrix(cosines > ALIKE))[1]
    return groups


def folds_of(groups: NDArray[np.int32], folds: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Gives each photograph a fold, (N,), the same for all of a group."""
    numbers: NDArray[np.int64] = np.random.default_rng(seed).permutation(groups.max() + 1)[groups] % folds
    return numbers
