"""What the bundle that ships says of a photograph that nothing was learned from, and of what is none."""

import numpy as np
import pytest
import skimage.data
from PIL import Image

from grepr_core.bundles.bundle import load_bundle
from grepr_core.pretraining.distortions import distort
from grepr_core.scoring.scorer import Scorer
from tests.lake import jpeg


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer(load_bundle("grepr-lite"), device="cpu", precision="fp32", zero_shot=False)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("lens_blur", "blur"),
        ("gaussian_noise", "noise"),
        ("jpeg", "compression"),
        ("low_light", "underexposure"),
        ("overexposure", "overexposure"),
        ("haze", "low_contrast"),
        ("oversaturation", None),
        ("pixelation", "pixelation"),
    ],
)
def test_a_gross_fault_is_the_reason(scorer: Scorer, kind: str, reason: str):
    faulty = distort(skimage.data.astronaut(), kind, 5, seed=0)
    (found,) = scorer.score([jpeg(Image.fromarray(faulty), quality=95)])
    assert (found.reason, found.not_photo) == (reason, False)


def test_a_clean_photograph_has_no_reason_and_a_blank_picture_is_none(scorer: Scorer):
    noise = np.random.default_rng(0).integers(0, 256, (400, 600, 3), np.uint8)
    pictures = [skimage.data.astronaut(), np.full((400, 600, 3), 255, np.uint8), noise]
    clean, *others = scorer.score([jpeg(Image.fromarray(picture), quality=95) for picture in pictures])
    assert (clean.reason, clean.not_photo) == (None, False)
    assert max(clean.severities.values()) < 0.2
    assert [other.reason for other in others] == ["not_photo", "not_photo"]
