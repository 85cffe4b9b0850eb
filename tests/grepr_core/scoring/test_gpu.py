"""A CUDA device gives the CPU's scores, whatever is scored together and whoever decodes."""

import random

import numpy as np
import pytest
import torch

from grepr_core.bundles.bundle import Bundle, load_bundle
from grepr_core.decoding.images import Failure, Status
from grepr_core.encoders.precision import Precision
from grepr_core.scoring.image_score import ImageScore
from grepr_core.scoring.scorer import Scorer
from tests.grepr_core.models import full_bundle
from tests.made_photos import jpeg, photo

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA device"),
]

BUNDLES = {"grepr-lite": lambda: load_bundle("grepr-lite"), "full": full_bundle}


def contents() -> list[bytes]:
    sizes = [(96, 96), (160, 120), (120, 160), (201, 133)]
    return [jpeg(photo(i, sizes[i % len(sizes)]), quality=40 + i) for i in range(40)]


def values(scores: list[ImageScore], name: str = "score") -> np.ndarray:
    assert all(score.status == Status.SCORED for score in scores)
    return np.array([getattr(score, name) for score in scores])


def cuda(bundle: Bundle, precision: Precision, **options: object) -> Scorer:
    return Scorer(bundle, device="cuda", precision=precision, decode_threads=2, **options)


@pytest.mark.parametrize("name", BUNDLES)
def test_scores_are_those_of_the_cpu(name: str):
    bundle = BUNDLES[name]()
    on_cpu = Scorer(bundle, device="cpu", precision="fp32").score(contents())
    on_gpu = cuda(bundle, "fp32").score(contents())
    # Sums are taken in another order; the low-level distance inverts a covariance, which magnifies that.
    np.testing.assert_allclose(values(on_gpu), values(on_cpu), rtol=0, atol=1e-4)
    np.testing.assert_allclose(values(on_gpu, "score_low"), values(on_cpu, "score_low"), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 1e-3)])
def test_scores_do_not_depend_on_what_is_scored_together(precision: Precision, tolerance: float):
    bundle = load_bundle("grepr-lite")
    together = cuda(bundle, precision)
    alone = cuda(bundle, precision, batch_pixels=1)
    order = random.Random(0).sample(range(40), 40)
    shuffled = values(together.score([contents()[i] for i in order]))
    np.testing.assert_allclose(shuffled[np.argsort(order)], values(alone.score(contents())), rtol=0, atol=tolerance)


def test_failures_keep_their_place_and_calls_may_follow_one_another():
    scorer = cuda(load_bundle("grepr-lite"), "auto")
    photos = contents()[:3]
    mixed = [photos[0], Failure(Status.MISSING, "no such file"), photos[1], b"", photos[2]]
    for _ in range(2):
        statuses = [score.status for score in scorer.score(mixed)]
        assert statuses == ["scored", "missing", "scored", "unreadable", "scored"]
