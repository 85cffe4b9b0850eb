"""What the scorer makes of exceptions that the model raises."""

import functools
from collections.abc import Callable
from unittest import mock

import pytest
import torch

from grepr_core.bundles.bundle import load_bundle
from grepr_core.decoding.images import Status
from grepr_core.errors import DeviceLostError
from grepr_core.scoring.model_errors import check_device
from grepr_core.scoring.scorer import Scorer
from tests.lake import jpeg, photo

IMAGES = 8
#: Of the images, one is of a size that none of the others has.
CULPRIT = 5
PHOTOS = [jpeg(photo(i, (120, 96) if i == CULPRIT else (96, 120))) for i in range(IMAGES)]
SAME_SIZE = [jpeg(photo(i, (96, 120))) for i in range(IMAGES)]


#: What to raise for a batch of so many images, the culprit among them or not.
Raises = Callable[[int, bool], Exception | None]
Inject = Callable[[Scorer, Raises], list[int]]


@pytest.fixture(params=["at encode", "at the results"])
def inject(request: pytest.FixtureRequest) -> Inject:
    """Has a scorer raise, told by the number of images of a batch and whether a culprit is among them."""

    def put(scorer: Scorer, raises: Raises) -> list[int]:
        encode, sizes = scorer._encode, []
        culprit = _pixels(SAME_SIZE[CULPRIT], scorer)

        def encode_or_raise(photos):
            sizes.append(len(photos))
            error = raises(len(photos), any(_mean(p.rgb) == culprit for p in photos))
            if error is None:
                return encode(photos)
            if request.param == "at encode":
                raise error
            return mock.Mock(side_effect=error)

        scorer._encode = encode_or_raise
        return sizes

    return put


def _mean(rgb) -> float:
    return float(torch.as_tensor(rgb).double().mean())


def _pixels(content: bytes, scorer: Scorer) -> float:
    return _mean(scorer._decode(content).image.rgb)


lite = functools.cache(load_bundle)


def make_scorer(batch: int) -> Scorer:
    area = 96 * 120
    return Scorer(lite("grepr-lite"), precision="fp32", device="cpu", batch_pixels=batch * area, max_pixels=area)


def test_a_batch_without_room_is_halved_until_it_fits(inject: Inject):
    expected = [score.score for score in make_scorer(IMAGES).score(SAME_SIZE)]
    scorer = make_scorer(IMAGES)
    sizes = inject(scorer, lambda images, _: torch.OutOfMemoryError("CUDA out of memory") if images > 2 else None)
    scores = scorer.score(SAME_SIZE)
    assert [score.score for score in scores] == pytest.approx(expected, abs=1e-5)
    assert sizes == [8, 4, 2, 2, 4, 2, 2]


def test_an_image_without_room_even_alone_is_a_row(inject: Inject):
    scorer = make_scorer(IMAGES)
    no_room = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    inject(scorer, lambda images, culprit: no_room if culprit else None)
    scores = scorer.score(SAME_SIZE)
    assert [score.status for score in scores] == [Status.CRASHED if i == CULPRIT else Status.SCORED for i in range(8)]
    assert scores[CULPRIT].error == "the model needs more memory for this image than there is"
    assert (scores[CULPRIT].width, scores[CULPRIT].height) == (96, 120)


def test_after_any_other_exception_images_are_scored_singly(inject: Inject):
    scorer = make_scorer(IMAGES)
    sizes = inject(scorer, lambda images, culprit: ValueError("no such\nlayer") if culprit else None)
    scores = scorer.score(SAME_SIZE)
    assert [score.status for score in scores] == [Status.CRASHED if i == CULPRIT else Status.SCORED for i in range(8)]
    assert scores[CULPRIT].error == "the model failed: ValueError: no such layer"
    assert sizes == [8] + [1] * 8


@pytest.mark.parametrize("batch", [1, IMAGES])
def test_an_exception_that_passes_costs_no_row(inject: Inject, batch: int):
    scorer = make_scorer(batch)
    errors = iter([RuntimeError("for once")])
    inject(scorer, lambda images, _: next(errors, None))
    assert {score.status for score in scorer.score(SAME_SIZE)} == {Status.SCORED}


def test_batches_that_are_under_way_keep_their_places(inject: Inject):
    scorer = make_scorer(2)
    scorer._transfer.batches_in_flight = 1
    inject(scorer, lambda images, culprit: torch.OutOfMemoryError("CUDA out of memory") if culprit else None)
    scores = scorer.score(PHOTOS[:CULPRIT] + SAME_SIZE[CULPRIT:])
    assert [score.status for score in scores] == [Status.CRASHED if i == CULPRIT else Status.SCORED for i in range(8)]


def test_a_device_that_computes_no_more_ends_the_work():
    scorer = make_scorer(IMAGES)
    scorer._encode = mock.Mock(side_effect=RuntimeError("CUDA error: an illegal memory access was encountered"))
    with (
        mock.patch("grepr_core.scoring.scorer.check_device", side_effect=DeviceLostError("cuda:0 is unusable")),
        pytest.raises(DeviceLostError),
    ):
        scorer.score(SAME_SIZE)


def test_a_device_is_asked_whether_it_computes():
    check_device(torch.device("cpu"))
    with (
        mock.patch("torch.zeros", side_effect=RuntimeError("CUDA error: an illegal memory access was encountered")),
        pytest.raises(DeviceLostError, match="cuda:1 is unusable: CUDA error: an illegal memory access"),
    ):
        check_device(torch.device("cuda:1"))
    with mock.patch("torch.zeros", side_effect=torch.OutOfMemoryError("CUDA out of memory")):
        check_device(torch.device("cuda:1"))
