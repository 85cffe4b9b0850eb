import numpy as np
import pytest

from grepr_core.reasons.probes import SEVERITIES, Probes


def probes() -> Probes:
    """Each looks at one feature, minus 0.1."""
    return Probes(np.eye(9, dtype=np.float32), np.full(9, -0.1, np.float32))


def test_severities_are_clipped_and_the_worst_is_the_reason():
    features = np.zeros((5, 12), np.float32)  # further features are another encoder's
    features[1, 1], features[1, 3] = 0.7, 0.9
    features[2, 0] = 0.55
    features[3, 7] = 3.0
    features[4, 3], features[4, 8] = 0.8, 0.2
    found = probes().diagnose(features)
    assert found.severities.shape == (5, len(SEVERITIES))
    assert found.severities.dtype == np.float32
    np.testing.assert_allclose(found.severities[1], [0, 0.6, 0, 0.8, 0, 0, 0, 0], atol=1e-6)
    assert found.severities[3].max() == 1
    assert found.not_photo.tolist() == [False, False, False, False, True]
    assert found.reasons == [None, "underexposure", None, "pixelation", "not_photo"]


def test_probes_of_another_version_are_refused():
    with pytest.raises(ValueError, match="reasons need 9 probes"):
        Probes.from_arrays({"weights": np.zeros((12, 8), np.float32), "offsets": np.zeros(8, np.float32)})
