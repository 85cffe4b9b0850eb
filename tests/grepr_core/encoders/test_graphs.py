"""Recordings, with a recorder that works on the CPU: it computes into the places of the first results."""

import logging
from collections import Counter

import pytest
import torch
from torch import Tensor

from grepr_core.encoders.graphs import MOST_RECORDINGS, Replayed, sizes


class Encoder:
    """Gives a row an image that tells it apart; and which batches it was run on and replayed on."""

    def __init__(self) -> None:
        self.ran: Counter[int] = Counter()
        self.replayed: Counter[int] = Counter()
        self.error: Exception | None = None
        self.memory = torch.zeros(1000, dtype=torch.int64), torch.zeros(1000, dtype=torch.uint8)

    def __call__(self, images: Tensor) -> list[Tensor]:
        assert images.is_contiguous(memory_format=torch.channels_last)
        self.ran[len(images)] += 1
        return [images.sum(dim=(1, 2, 3))[:, None], images[:, :, 0, 0].clone()]

    def record(self, encode, images):
        if self.error:
            raise self.error
        # Nothing is computed while it is recorded, and recordings use one memory for their results.
        shapes = [result.shape for result in encode(images)]
        results = [place[: shape.numel()].view(shape) for place, shape in zip(self.memory, shapes, strict=True)]

        def replay() -> None:
            self.replayed[len(images)] += 1
            for place in self.memory:
                place.zero_()
            for place, result in zip(results, self(images), strict=True):
                place.copy_(result)

        return results, replay


def batch(images: int, side: int = 4, seed: int = 0) -> Tensor:
    pixels = torch.randint(
        0, 256, (images, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    return pixels.permute(0, 3, 1, 2)


def check(replayed: Replayed, images: Tensor) -> None:
    expected = Encoder()(images)
    for found, wanted in zip(replayed(images), expected, strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("images", "expected"),
    [(1, [1]), (2, [2]), (3, [4]), (5, [4, 1]), (6, [8]), (22, [16, 8]), (24, [32]), (32, [32]), (33, [32, 1])],
)
def test_batches_are_taken_apart_into_few_sizes(images: int, expected: list[int]):
    assert list(sizes(images)) == expected


def test_any_batch_is_covered_with_little_in_excess():
    for images in range(1, 200):
        parts = list(sizes(images))
        assert 0 <= sum(parts) - images <= images / 3
        assert len(set(parts)) == len(parts)


def test_results_are_those_of_the_function_however_often_and_in_what_order():
    encoder = Encoder()
    replayed = Replayed(encoder, lambda: encoder.record)
    for seed in range(4):
        for images, side in ((32, 4), (3, 6), (5, 4), (33, 4), (1, 8), (22, 6)):
            check(replayed, batch(images, side, seed))
    assert encoder.replayed[32] == 7  # of 8 batches of that shape, all but the first; once to compare


def test_a_shape_is_recorded_when_it_is_met_again():
    encoder = Encoder()
    replayed = Replayed(encoder, lambda: encoder.record)
    for calls in range(1, 5):
        replayed(batch(8))
        assert encoder.replayed[8] == max(0, calls - 1)


def test_results_before_stay_apart_within_a_call():
    encoder = Encoder()
    replayed = Replayed(encoder, lambda: encoder.record)
    for seed in range(3):
        check(replayed, batch(13, seed=seed))  # 8, 4 and 1


def test_where_nothing_can_be_recorded_it_is_computed_and_told(caplog: pytest.LogCaptureFixture):
    encoder = Encoder()
    encoder.error = RuntimeError("operation not permitted when stream is capturing")
    replayed = Replayed(encoder, lambda: encoder.record)
    with caplog.at_level(logging.WARNING):
        for seed in range(4):
            check(replayed, batch(5, seed=seed))
    assert len(caplog.records) == 1
    assert "stream is capturing" in caplog.text
    assert not encoder.replayed


def test_what_is_replayed_as_something_else_is_not_used(caplog: pytest.LogCaptureFixture):
    encoder = Encoder()

    def record(encode, images):
        results, _ = encoder.record(encode, images)
        return results, lambda: [result.fill_(7) for result in results]

    replayed = Replayed(encoder, lambda: record)
    with caplog.at_level(logging.WARNING):
        for seed in range(3):
            check(replayed, batch(8, seed=seed))
    assert "something else" in caplog.text


def test_recordings_are_forgotten_and_made_again():
    encoder = Encoder()
    replayed = Replayed(encoder, lambda: encoder.record)
    for _ in range(2):
        replayed(batch(4))
    before = encoder.replayed[4]
    replayed.forget()
    check(replayed, batch(4, seed=1))
    assert encoder.replayed[4] == before  # it was the first of its kind again
    for seed in range(2):
        check(replayed, batch(4, seed=seed))
    assert encoder.replayed[4] == before + 2


def test_without_memory_to_record_in_the_caller_hears_of_it():
    encoder = Encoder()
    replayed = Replayed(encoder, lambda: encoder.record)
    replayed(batch(8))
    encoder.error = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(torch.OutOfMemoryError):
        replayed(batch(8))


def test_endless_shapes_are_not_kept():
    encoder = Encoder()
    replayed = Replayed(encoder, lambda: encoder.record)
    for _ in range(2):
        for side in range(1, MOST_RECORDINGS + 10):
            check(replayed, batch(1, side))
    assert encoder.replayed[1] == MOST_RECORDINGS
