"""Which shard goes to which process, and what becomes of those that fail or are lost."""

import numpy as np
import pytest

from pipelines.running.shard_queue import (
    FAILURES_TO_REST,
    MOST_ATTEMPTS,
    MOST_FAILED_IN_A_ROW,
    MOST_START_DEATHS,
    OVER,
    PATIENCE,
    PAUSES,
    SILENCE,
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


def take(queue: ShardQueue, process: str) -> int:
    return queue.take(process).shard


def queue_of(shards: int, *processes: str, clock: Clock) -> ShardQueue:
    queue = ShardQueue(np.arange(shards), clock=clock)
    for process in processes:
        queue.begin(process, f"node of {process}")
        queue.started(process)
    return queue


def test_every_shard_goes_to_whom_asks_first(clock: Clock):
    queue = queue_of(3, "a", "b", clock=clock)
    assert [take(queue, "a"), take(queue, "b"), take(queue, "a"), take(queue, "b")] == [0, 1, 2, WAIT]
    for process, shard in (("a", 0), ("b", 1), ("a", 2)):
        assert not queue.over()
        queue.finish(process, shard, {"shard": shard})
    assert take(queue, "a") == take(queue, "b") == OVER
    news = queue.news()
    assert [summary["shard"] for summary in news.summaries] == [0, 1, 2]
    assert (news.over, news.failures, news.cause, news.processes) == (True, {}, None, 2)
    assert queue.news().summaries == []


def test_what_a_lost_node_had_in_hand_goes_to_the_next_that_asks(clock: Clock):
    queue = queue_of(9, "a", "b", clock=clock)
    assert [take(queue, "a"), take(queue, "a"), take(queue, "b")] == [0, 1, 2]
    queue.keep({"node of b", "another"})
    assert sorted([take(queue, "b"), take(queue, "b")]) == [0, 1]
    assert take(queue, "b") == 3
    assert queue.news().placed == 1


def test_what_is_finished_by_a_process_thought_lost_counts_once(clock: Clock):
    queue = queue_of(1, "a", "b", clock=clock)
    take(queue, "a")
    queue.keep({"node of b"})
    assert take(queue, "b") == 0
    queue.finish("a", 0, {"by": "a"})
    assert queue.over()
    queue.finish("b", 0, {"by": "b"})
    queue.fail("b", 0, FAILURE)
    assert queue.news().summaries == [{"by": "a"}]
    assert queue.news().failures == {}


def test_what_a_process_had_in_hand_when_it_died_is_handed_out_again(clock: Clock):
    queue = queue_of(3, "a", clock=clock)
    assert [take(queue, "a"), take(queue, "a")] == [0, 1]
    assert queue.begin("a", "node of a")
    queue.started("a")
    assert sorted([take(queue, "a"), take(queue, "a"), take(queue, "a")]) == [0, 1, 2]
    assert queue.news().processes == 1


def test_a_failed_shard_is_tried_by_three_processes(clock: Clock):
    queue = queue_of(4, "a", "b", "c", clock=clock)
    assert take(queue, "a") == 0
    queue.fail("a", 0, FAILURE)
    assert [take(queue, "a"), take(queue, "b"), take(queue, "c")] == [1, 2, 3]  # the others go on
    clock.now += PAUSES[0]
    assert take(queue, "a") == WAIT
    assert take(queue, "b") == 0
    queue.fail("b", 0, FAILURE)
    assert take(queue, "c") == WAIT
    clock.now += PAUSES[1]
    assert [take(queue, "a"), take(queue, "b"), take(queue, "c")] == [WAIT, WAIT, 0]
    queue.fail("c", 0, FAILURE)
    for process, shard in (("a", 1), ("b", 2), ("c", 3)):
        queue.finish(process, shard, {})
    news = queue.news()
    assert news.over
    assert news.failures == {0: ShardFailure(FAILURE.message, FAILURE.traceback, ["a", "b", "c"])}
    assert news.cause is None


def test_one_process_alone_tries_again(clock: Clock):
    queue = queue_of(1, "a", clock=clock)
    assert take(queue, "a") == 0
    queue.fail("a", 0, FAILURE)
    assert take(queue, "a") == WAIT
    clock.now += PAUSES[0]
    assert take(queue, "a") == 0
    queue.finish("a", 0, {"shard": 0})
    news = queue.news()
    assert (news.summaries, news.over, news.failures) == ([{"shard": 0}], True, {})


def test_what_every_shard_would_fail_for_ends_at_once(clock: Clock):
    queue = ShardQueue(np.arange(100), clock=clock)
    for process in "ab":
        queue.begin(process, "the only node")
        queue.started(process)
    take(queue, "a")
    queue.fail("a", 0, FAILURE, for_all=True)
    assert take(queue, "b") == OVER
    news = queue.news()
    assert news.over
    assert news.cause is not None
    assert news.cause.message == FAILURE.message


def test_shards_that_fail_without_end_end(clock: Clock):
    queue = queue_of(10_000, "a", clock=clock)
    failed = set()
    while (shard := take(queue, "a")) != OVER:
        queue.fail("a", shard, FAILURE)
        failed.add(shard)
    assert len(failed) == MOST_FAILED_IN_A_ROW >= 2 * MOST_ATTEMPTS
    assert queue.news().cause is not None


def test_one_process_that_fails_at_everything_ends_nothing_and_rests(clock: Clock):
    queue = queue_of(1000, "a", "b", "c", "d", clock=clock)
    failed = 0
    for _ in range(60):
        while (shard := take(queue, "a")) not in (OVER, WAIT):
            queue.fail("a", shard, FAILURE)
            failed += 1
        clock.now += 1
    assert FAILURES_TO_REST <= failed < 3 * FAILURES_TO_REST
    assert not queue.over()
    while not queue.over():
        clock.now += 1
        for process in "bcd":
            if (shard := take(queue, process)) not in (OVER, WAIT):
                queue.finish(process, shard, {"shard": shard})
    news = queue.news()
    assert sorted(summary["shard"] for summary in news.summaries) == list(range(1000))
    assert (news.cause, news.failures) == (None, {})


def test_what_one_of_two_nodes_cannot_write_the_other_may(clock: Clock):
    queue = queue_of(2, "a", "b", clock=clock)
    assert [take(queue, "a"), take(queue, "b")] == [0, 1]
    queue.fail("a", 0, FAILURE, for_all=True)
    assert not queue.over()
    queue.finish("b", 1, {})
    clock.now += PAUSES[0]
    assert [take(queue, "a"), take(queue, "b")] == [WAIT, 0]
    queue.fail("b", 0, FAILURE, for_all=True)
    assert not queue.over()  # it has written another since
    clock.now += PAUSES[1]
    assert take(queue, "a") == 0
    queue.fail("a", 0, FAILURE, for_all=True)
    assert queue.news().cause is not None  # now both say so


def test_few_shards_that_fail_are_listed_however_often_they_are_tried(clock: Clock):
    queue = queue_of(MOST_FAILED_IN_A_ROW // 2, "a", clock=clock)
    while (shard := take(queue, "a")) != OVER:
        if shard != WAIT:
            queue.fail("a", shard, FAILURE)
        clock.now += 20
    news = queue.news()
    assert (len(news.failures), news.cause) == (MOST_FAILED_IN_A_ROW // 2, None)


def test_the_last_try_is_told(clock: Clock):
    queue = queue_of(1, "a", clock=clock)
    tries = []
    while (turn := queue.take("a")).shard != OVER:
        if turn.shard != WAIT:
            tries.append(turn.last_try)
            queue.fail("a", 0, FAILURE)
        clock.now += 20
    assert tries == [False] * (MOST_ATTEMPTS - 1) + [True]


def test_a_silent_process_loses_what_it_has_in_hand_and_may_come_back(clock: Clock):
    queue = queue_of(3, "a", "b", clock=clock)
    assert [take(queue, "a"), take(queue, "b")] == [0, 1]
    for _ in range(10):
        clock.now += SILENCE / 9
        queue.alive("b", {1})
    assert queue.news().placed == 1
    assert take(queue, "b") == 0
    queue.alive("a", {0})  # it was only suspended
    assert queue.news().placed == 2
    queue.finish("a", 0, {"by": "a"})
    queue.finish("b", 0, {"by": "b"})
    assert [queue.news().summaries, take(queue, "a")] == [[{"by": "a"}], 2]


def test_a_shard_that_a_process_does_not_know_of_is_handed_out_again(clock: Clock):
    queue = queue_of(1, "a", clock=clock)
    assert take(queue, "a") == 0  # and the answer gets lost
    queue.alive("a", set())
    assert take(queue, "a") == WAIT  # it may be on its way
    clock.now += SILENCE + 1
    queue.alive("a", set())
    assert take(queue, "a") == 0


def test_a_shard_given_up_that_is_finished_after_all_counts(clock: Clock):
    queue = queue_of(2, "a", "b", clock=clock)
    assert take(queue, "a") == 0
    queue.keep({"node of b"})
    for _ in range(MOST_ATTEMPTS):
        assert take(queue, "b") == 0
        queue.fail("b", 0, FAILURE)
        clock.now += 20
    queue.finish("a", 0, {"by": "a"})
    assert take(queue, "b") == 1
    queue.finish("b", 1, {"by": "b"})
    assert queue.news().summaries == [{"by": "a"}, {"by": "b"}]
    assert queue.news().failures == {}


def test_failures_here_and_there_end_nothing(clock: Clock):
    queue = queue_of(100, "a", clock=clock)
    finished = failed = 0
    while (shard := take(queue, "a")) != OVER:
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
        queue.finish("a", take(queue, "a"), {})
    assert queue.news().over
    assert queue.news().cause is None


def test_where_no_process_can_start_the_first_cause_is_told(clock: Clock):
    queue = ShardQueue(np.arange(2), processes=2, clock=clock)
    queue.begin("a", "node")
    queue.broken("a", ShardFailure("no GPU", ""))
    assert not queue.news().over  # another is to come
    queue.begin("b", "node")
    assert not queue.news().over  # and may start
    queue.broken("b", ShardFailure("no model", ""))
    news = queue.news()
    assert news.over
    assert news.cause == ShardFailure("no GPU", "")
    assert news.processes == 0


def test_processes_that_never_come_are_not_waited_for_without_end(clock: Clock):
    queue = ShardQueue(np.arange(2), processes=8, clock=clock)
    queue.begin("a", "node")
    queue.broken("a", ShardFailure("no GPU", ""))
    assert not queue.news().over
    clock.now += PATIENCE + 1
    assert queue.news().cause == ShardFailure("no GPU", "")


def test_a_node_that_is_lost_while_a_process_starts_is_no_fault_of_the_process(clock: Clock):
    queue = ShardQueue(np.arange(2), clock=clock)
    assert all(queue.begin("a", f"node {i}") for i in range(2 * MOST_START_DEATHS))


def test_a_process_that_dies_while_it_starts_is_started_again_a_few_times(clock: Clock):
    queue = ShardQueue(np.arange(2), clock=clock)
    assert [queue.begin("a", "node") for _ in range(MOST_START_DEATHS + 1)] == [True] * MOST_START_DEATHS + [False]
    cause = queue.news().cause
    assert cause is not None
    assert "died 3 times while it started" in cause.message
