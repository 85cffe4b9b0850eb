"""What a process of the pool makes of a worker that raises."""

import asyncio
import errno
from typing import Any
from unittest import mock

import numpy as np
import pytest

from grepr_core.errors import UserError
from pipelines.running import shard_worker
from pipelines.running.shard_queue import ShardQueue
from pipelines.running.shard_worker import START_PAUSES, PoolProcess, ShardWorker


class Worker(ShardWorker):
    def __init__(self, job: Any) -> None:
        self._raises = job or {}

    def process(self, shard: int, *, last_try: bool = False) -> dict[str, Any]:
        if (errors := self._raises.get(shard)) and (error := errors.pop(0)) is not None:
            raise error
        return {"shard": shard}


@pytest.fixture(autouse=True)
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds slept, which the queue's clock tells and nobody waits for."""
    slept: list[float] = []
    monkeypatch.setattr(shard_worker.time, "sleep", slept.append)
    return slept


def work(make: Any, shards: int, sleeps: list[float], at_once: int = 1) -> ShardQueue:
    queue = ShardQueue(np.arange(shards), clock=lambda: sum(sleeps))
    PoolProcess(make, at_once, queue, "process", "node").work()
    return queue


def test_shards_are_worked_on_at_once(sleeps: list[float]):
    news = work(lambda: Worker(None), 20, sleeps, at_once=3).news()
    assert sorted(summary["shard"] for summary in news.summaries) == list(range(20))


def test_a_start_that_fails_is_tried_again_after_a_pause(sleeps: list[float]):
    make = mock.Mock(side_effect=[OSError("status 503"), ConnectionError(), Worker(None)])
    news = work(make, 2, sleeps).news()
    assert len(news.summaries) == 2
    assert sleeps == list(START_PAUSES[:2])


def test_a_start_that_fails_always_is_told(sleeps: list[float]):
    causes = [OSError(f"status 503, {i}") for i in range(len(START_PAUSES) + 1)]
    queue = ShardQueue(np.arange(2))
    with mock.patch.object(queue, "over", side_effect=[False, True, False]):
        PoolProcess(mock.Mock(side_effect=causes), 1, queue, "process", "node").work()
    cause = queue.news().cause
    assert cause is not None
    assert cause.message == "a process could not start: OSError: status 503, 0"
    assert "Traceback" in cause.traceback


def test_what_the_user_has_to_mend_is_not_tried_again(sleeps: list[float]):
    make = mock.Mock(side_effect=UserError("model: no such bundle"))
    queue = ShardQueue(np.arange(2))
    with mock.patch.object(queue, "over", return_value=True):
        PoolProcess(make, 1, queue, "process", "node").work()
    cause = queue.news().cause
    assert cause is not None
    assert cause.message == "a process could not start: model: no such bundle"
    assert make.call_count == 1


def test_a_shard_that_fails_once_costs_nothing(sleeps: list[float]):
    news = work(lambda: Worker({3: [OSError("lost")]}), 5, sleeps).news()
    assert [summary["shard"] for summary in news.summaries] == [0, 1, 2, 4, 3]
    assert news.failures == {}


def test_a_shard_that_fails_always_is_told_at_the_end(sleeps: list[float]):
    news = work(lambda: Worker({3: [ValueError("no")] * 3}), 5, sleeps).news()
    assert [summary["shard"] for summary in news.summaries] == [0, 1, 2, 4]
    assert news.failures[3].message == "shard 3: ValueError: no"


@pytest.mark.parametrize("error", [asyncio.CancelledError(), SystemExit(3)])
def test_what_is_no_exception_costs_nothing_either(sleeps: list[float], error: BaseException):
    news = work(lambda: Worker({1: [error]}), 5, sleeps, at_once=2).news()
    assert sorted(summary["shard"] for summary in news.summaries) == list(range(5))


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), PermissionError("denied")])
def test_a_full_disk_ends_the_work(sleeps: list[float], error: Exception):
    news = work(lambda: Worker({1: [error]}), 5, sleeps).news()
    assert len(news.summaries) == 1
    assert news.cause is not None
    assert news.cause.message.startswith("shard 1: ")


def test_a_worker_that_started_is_kept(sleeps: list[float]):
    make = mock.Mock(return_value=Worker(None))
    process = PoolProcess(make, 1, ShardQueue(np.arange(2)), "process", "node")
    process.work()
    process.work()
    assert make.call_count == 1
