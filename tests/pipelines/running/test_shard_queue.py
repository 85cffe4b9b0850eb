"""Which shard goes to which process, and what becomes of those that fail or are lost."""

import numpy as np
import pytest

from pipelines.running.shard_queue import (
    MOST_ATTEMPTS,
    MOST_FAILURES_IN_A_ROW,
    MOST_START_DEATHS,
    OVER,
    PAUSES,
    WAIT,
    ShardFailure,
    ShardQueue,
)

FAILURE = ShardFailure("shard: no such thing", "Traceback")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def queue_of(shards: int, *processes: str, clock: Clock) -> ShardQueue:
    queue = ShardQueue(np.arange(shards), clock=clock)
    for process in processes:
        queue.begin(process, f"node of {process}")
        queue.started(process)
    return queue


def test_every_shard_goes_to_whom_asks_first(clock: Clock):
    queue = queue_of(3, "a", "b", clock=clock)
    assert [queue.take("a"), queue.take("b"), queue.take("a"), queue.take("b")] == [0, 1, 2, WAIT]
    for process, shard in (("a", 0), ("b", 1), ("a", 2)):
        assert not queue.over()
        queue.finish(process, shard, {"shard": shard})
    assert queue.take("a") == queue.take("b") == OVER
    news = queue.news()
    assert [summary["shard"] for summary in news.summaries] == [0, 1, 2]
    assert (news.over, news.failures, news.cause, news.processes) == (True, {}, None, 2)
    assert queue.news().summaries == []


def test_what_a_lost_node_had_in_hand_goes_to_the_next_that_asks(clock: Clock):
    queue = queue_of(9, "a", "b", clock=clock)
    assert [queue.take("a"), queue.take("a"), queue.take("b")] == [0, 1, 2]
    queue.keep({"node of b", "another"})
    assert sorted([queue.take("b"), queue.take("b")]) == [0, 1]
    assert queue.take("b") == 3
    assert queue.news().placed == 1


def test_what_is_finished_by_a_process_thought_lost_counts_once(clock: Clock):
    queue = queue_of(1, "a", "b", clock=clock)
    queue.take("a")
    queue.keep({"node of b"})
    assert queue.take("b") == 0
    queue.finish("a", 0, {"by": "a"})
    assert queue.over()
    queue.finish("b", 0, {"by": "b"})
    queue.fail("b", 0, FAILURE)
    assert queue.news().summaries == [{"by": "a"}]
    assert queue.news().failures == {}


def test_what_a_process_had_in_hand_when_it_died_is_handed_out_again(clock: Clock):
    queue = queue_of(3, "a", clock=clock)
    assert [queue.take("a"), queue.take("a")] == [0, 1]
    assert queue.begin("a", "node of a")
    queue.started("a")
    assert sorted([queue.take("a"), queue.take("a"), queue.take("a")]) == [0, 1, 2]
    assert queue.news().processes == 1


def test_a_failed_shard_is_tried_by_three_processes(clock: Clock):
    queue = queue_of(4, "a", "b", "c", clock=clock)
    assert queue.take("a") == 0
    queue.fail("a", 0, FAILURE)
    assert [queue.take("a"), queue.take("b"), queue.take("c")] == [1, 2, 3]  # the others go on
    clock.now += PAUSES[0]
    assert queue.take("a") == WAIT
    assert queue.take("b") == 0
    queue.fail("b", 0, FAILURE)
    assert queue.take("c") == WAIT
    clock.now += PAUSES[1]
    assert [queue.take("a"), queue.take("b"), queue.take("c")] == [WAIT, WAIT, 0]
    queue.fail("c", 0, FAILURE)
    for process, shard in (("a", 1), ("b", 2), ("c", 3)):
        queue.finish(process, shard, {})
    news = queue.news()
    assert news.over
    assert news.failures == {0: ShardFailure(FAILURE.message, FAILURE.traceback, ["a", "b", "c"])}
    assert news.cause is None


def test_one_process_alone_tries_again(clock: Clock):
    queue = queue_of(1, "a", clock=clock)
    assert queue.take("a") == 0
    queue.fail("a", 0, FAILURE)
    assert queue.take("a") == WAIT
    clock.now += PAUSES[0]
    assert queue.take("a") == 0
    queue.finish("a", 0, {"shard": 0})
    news = queue.news()
    assert (news.summaries, news.over, news.failures) == ([{"shard": 0}], True, {})


def test_what_every_shard_would_fail_for_ends_at_once(clock: Clock):
    queue = queue_of(100, "a", "b", clock=clock)
    queue.take("a")
    queue.fail("a", 0, FAILURE, for_all=True)
    assert queue.take("b") == OVER
    news = queue.news()
    assert news.over
    assert news.cause is not None
    assert news.cause.message == FAILURE.message


def test_failures_without_end_end(clock: Clock):
    queue = queue_of(10_000, "a", "b", clock=clock)
    failed = 0
    while (shard := queue.take("a")) != OVER:
        queue.fail("a", shard, FAILURE)
        failed += 1
    assert failed == MOST_FAILURES_IN_A_ROW >= 2 * MOST_ATTEMPTS
    assert queue.news().cause is not None


def test_failures_here_and_there_end_nothing(clock: Clock):
    queue = queue_of(100, "a", clock=clock)
    finished = failed = 0
    while (shard := queue.take("a")) != OVER:
        clock.now += 20
        if shard % 10 == 0:
            queue.fail("a", shard, FAILURE)
            failed += 1
        else:
            queue.finish("a", shard, {"shard": shard})
            finished += 1
    assert (finished, failed) == (90, 10 * MOST_ATTEMPTS)
    assert sorted(queue.news().failures) == list(range(0, 100, 10))


def test_a_process_that_cannot_start_is_one_less(clock: Clock):
    queue = queue_of(2, "a", clock=clock)
    queue.begin("b", "node of b")
    queue.broken("b", ShardFailure("no GPU", ""))
    assert queue.news().cause is None
    for _ in range(2):
        queue.finish("a", queue.take("a"), {})
    assert queue.news().over
    assert queue.news().cause is None


def test_where_no_process_can_start_the_first_cause_is_told(clock: Clock):
    queue = ShardQueue(np.arange(2), clock=clock)
    for process in "ab":
        queue.begin(process, "node")
    queue.broken("a", ShardFailure("no GPU", ""))
    assert not queue.news().over  # the other may
    queue.broken("b", ShardFailure("no model", ""))
    news = queue.news()
    assert news.over
    assert news.cause == ShardFailure("no GPU", "")
    assert news.processes == 0


def test_a_process_that_dies_while_it_starts_is_started_again_a_few_times(clock: Clock):
    queue = ShardQueue(np.arange(2), clock=clock)
    assert [queue.begin("a", "node") for _ in range(MOST_START_DEATHS + 1)] == [True] * MOST_START_DEATHS + [False]
    cause = queue.news().cause
    assert cause is not None
    assert "died 3 times while it started" in cause.message
