import numpy as np
import pytest

from grepr_core.reasons.probes import SEVERITIES, Probes


def probes() -> Probes:
    """Each looks at one feature, minus 0.1; those of colour casts at two, of which the larger counts."""
    columns = np.array([0, 1, 2, 3, 4, 5, 6, 6, 7, 8])
    weights = np.eye(9, dtype=np.float32)[:, columns]
    weights[6, 7] = -1
    return Probes(weights, np.full(10, -0.1, np.float32), columns)


def test_severities_are_clipped_and_the_worst_is_the_reason():
    features = np.zeros((7, 12), np.float32)  # further features are another encoder's
    features[1, 1], features[1, 3] = 0.7, 0.9
    features[2, 0] = 0.45
    features[3, 7] = 3.0
    features[4, 3], features[4, 8] = 0.8, 0.2
    features[5, 6], features[6, 6] = 0.9, -0.7
    found = probes().diagnose(features)
    assert found.severities.shape == (7, len(SEVERITIES))
    assert found.severities.dtype == np.float32
    np.testing.assert_allclose(found.severities[1], [0, 0.6, 0, 0.8, 0, 0, 0, 0], atol=1e-6)
    assert found.severities[3].max() == 1
    assert found.not_photo.tolist() == [False, False, False, False, True, False, False]
    assert found.reasons == [None, "underexposure", None, "pixelation", "not_photo", "color_cast", "color_cast"]
    np.testing.assert_allclose(found.severities[5:, 6], [0.8, 0.6], atol=1e-6)


def test_probes_of_another_version_are_refused():
    arrays = probes().to_arrays()
    with pytest.raises(ValueError, match="reasons need probes for 8 severities and the flag"):
        Probes.from_arrays({**arrays, "columns": np.arange(10)})
