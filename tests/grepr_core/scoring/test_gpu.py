"""A CUDA device gives the CPU's scores, whatever is scored together."""

import random

import numpy as np
import pytest
import torch

from grepr_core.bundles.bundle import Bundle, load_bundle
from grepr_core.decoding.images import Failure, Status
from grepr_core.encoders import fused_gpu
from grepr_core.encoders.precision import Precision
from grepr_core.scoring.image_score import ImageScore
from grepr_core.scoring.networks import Networks
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


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_batches_that_are_replayed_give_the_same(precision: Precision):
    scorer = cuda(load_bundle("grepr-lite"), precision, zero_shot=False)
    # The first batches of a shape are computed operation by operation, the second are recorded, the third replayed.
    first, second, third = (scorer.score(contents()) for _ in range(3))
    assert values(first).tolist() == values(second).tolist() == values(third).tolist()
    np.testing.assert_array_equal(first[7].features, third[7].features)


@pytest.mark.parametrize("images", [1, 3, 5, 8, 22, 33, 64])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.02)])
def test_networks_with_kernels_of_their_own_are_the_same_function(precision: Precision, tolerance: float, images: int):
    device, dtype = torch.device("cuda"), torch.float32 if precision == "fp32" else torch.bfloat16
    bundle = load_bundle("grepr-lite")
    generator = torch.Generator().manual_seed(images)
    pixels = torch.randint(0, 256, (images, 160, 96, 3), dtype=torch.uint8, generator=generator)
    pixels = pixels.to(device).permute(0, 3, 1, 2)
    plain = Networks(bundle, device, dtype, zero_shot=False, features=True, fused=False, replayed=False)
    fused = Networks(bundle, device, dtype, zero_shot=False, features=True)
    expected = plain.encode(pixels).features.clone()
    for _ in range(3):
        found = fused.encode(pixels).features
        assert (found - expected).norm() <= tolerance * expected.norm()


def test_kernels_work_here():
    assert all(fused_gpu.can_fuse(torch.device("cuda"), dtype) for dtype in (torch.float32, torch.bfloat16))


def test_a_batch_is_started_without_waiting_for_the_gpu():
    networks = Networks(load_bundle("grepr-lite"), torch.device("cuda"), torch.float32, zero_shot=False, features=True)
    pixels = torch.zeros(4, 96, 96, 3, dtype=torch.uint8, device="cuda").permute(0, 3, 1, 2)
    for _ in range(2):
        networks.encode(pixels)
    torch.cuda.set_sync_debug_mode("error")
    try:
        networks.encode(pixels)
    finally:
        torch.cuda.set_sync_debug_mode("default")
