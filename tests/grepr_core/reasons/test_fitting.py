from dataclasses import replace

import numpy as np
import pytest

from grepr_core.reasons.fitting import Examples, fit_probes
from grepr_core.reasons.probes import SEVERITIES


def examples(seed: int = 0) -> Examples:
    """Scenes that each move all features, with faults that move one feature each, and graphics that move another."""
    rng = np.random.default_rng(seed)
    scenes, size = 40, 12
    rows, targets, known, groups = [], [], [], []
    for scene in range(scenes):
        base = rng.normal(0, 0.3, size)
        for fault in [None, *range(len(SEVERITIES))]:
            target = np.zeros(9)
            if fault is not None:
                target[fault] = rng.integers(1, 6) / 5
            rows.append(base + np.pad(4 * target, (0, 3)) + rng.normal(0, 0.05, size))
            targets.append(target)
            known.append(np.ones(9, bool))
            groups.append(scene)
    for graphic in range(20):
        rows.append(rng.normal(0, 1, size) + np.eye(size)[10] * 8)
        targets.append(np.eye(9)[8])
        known.append(np.arange(9) == 8)
        groups.append(scenes + graphic % 5)
    severities = np.array(targets, np.float32)
    clean = severities.sum(axis=1) == 0
    columns = np.arange(9)
    return Examples(np.array(rows, np.float32), severities, np.array(known), columns, np.array(groups), clean, clean)


def test_faults_are_told_from_one_another_and_clean_ones_have_none():
    learned, tried = examples(), examples(seed=1)
    probes = fit_probes(learned, blocks=[6, 6])
    assert probes.weights.shape == (12, 9)
    found = probes.diagnose(tried.features)
    photos = tried.targets[:, -1] == 0
    clean = photos & tried.clean
    assert (found.severities[clean] >= 0.5).mean() < 0.02
    assert np.median(found.severities[clean]) == 0
    for fault in range(len(SEVERITIES)):
        assert np.median(found.severities[tried.targets[:, fault] == 1, fault]) > 0.8
        right = found.severities[photos].argmax(axis=1) == fault
        assert right[tried.targets[photos, fault] >= 0.6].mean() > 0.95
    assert not found.not_photo[photos].any()
    assert found.not_photo[~photos].mean() >= 0.9


def test_what_is_unclear_teaches_nothing():
    learned = examples()
    unclear = replace(learned, known=learned.known.copy())
    unclear.known[::7] = False
    absurd = replace(unclear, targets=learned.targets.copy())
    absurd.targets[::7] = 1
    one, other = (fit_probes(some, blocks=[6, 6]) for some in (unclear, absurd))
    np.testing.assert_array_equal(one.weights, other.weights)
    np.testing.assert_array_equal(one.offsets, other.offsets)


def test_probes_cannot_be_learned_without_graphics():
    learned = examples()
    photos = learned.targets[:, -1] == 0
    rows = ("features", "targets", "known", "groups", "unchanged", "clean")
    without = replace(learned, **{name: getattr(learned, name)[photos] for name in rows})
    with pytest.raises(ValueError, match="no examples of not_photo"):
        fit_probes(without, blocks=[6, 6])
