import threading
from typing import Any

import pytest
import torch

from grepr_core.pretraining.batches import STEPS_AHEAD, prepared_batches
from grepr_core.pretraining.step import Batch

STEPS = [[[4 * step, 4 * step + 1], [4 * step + 2, 4 * step + 3]] for step in range(6)]


def example(index: int) -> Batch:
    return torch.full((2, 3), index, dtype=torch.uint8), torch.tensor(float(index))


def own_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith(("examples", "batches"))}


def test_examples_are_stacked_in_order_whichever_is_ready_first():
    later = threading.Event()

    def first_is_last(index: int) -> Batch:
        if index == 1:
            later.set()
        elif index == 0:
            later.wait()
        return example(index)

    found = list(prepared_batches(first_is_last, STEPS, threads=2, pinned=False))
    assert len(found) == len(STEPS)
    for step, batches in zip(STEPS, found, strict=True):
        for part, (pixels, number) in zip(step, batches, strict=True):
            assert pixels.shape == (2, 2, 3)
            assert pixels.dtype == torch.uint8
            assert pixels[:, 0, 0].tolist() == part
            assert number.tolist() == part
    assert not own_threads()


def test_no_more_is_prepared_than_the_steps_ahead_and_it_ends_when_the_model_does():
    asked = []

    def steps():
        for number, step in enumerate(STEPS):
            asked.append(number)
            yield step

    ready = prepared_batches(example, steps(), threads=2, pinned=False)
    next(ready)
    assert len(asked) == 1 + STEPS_AHEAD
    assert own_threads()
    ready.close()
    assert not own_threads()


def test_an_example_that_fails_is_told_at_its_step():
    def failing(index: int) -> Batch:
        if index == 6:
            raise OSError("scene 6 is gone")
        return example(index)

    ready = prepared_batches(failing, STEPS, threads=2, pinned=False)
    next(ready)
    with pytest.raises(OSError, match="scene 6 is gone"):
        next(ready)
    assert not own_threads()


@pytest.mark.parametrize("pinned", [True, False])
def test_batches_are_stacked_where_a_gpu_reads_them_and_not_by_the_thread_that_trains(
    pinned: bool, monkeypatch: pytest.MonkeyPatch
):
    empty, seen = torch.empty, set()

    def noted(*args: Any, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
        seen.add((pin_memory, threading.current_thread().name.partition("_")[0]))
        return empty(*args, **kwargs)

    monkeypatch.setattr(torch, "empty", noted)
    list(prepared_batches(example, STEPS, threads=2, pinned=pinned))
    assert seen == {(pinned, "batches")}
