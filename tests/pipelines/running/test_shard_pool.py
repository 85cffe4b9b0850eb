"""The pool on a real cluster whose nodes come and go."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import ray
from ray.cluster_utils import Cluster
from ray.data._internal.execution.streaming_executor import StreamingExecutor

from pipelines.running.session import ray_session
from pipelines.running.shard_pool import ShardRun, _Pool, _processes
from pipelines.running.shard_worker import ShardWorker
from pipelines.running.workers import Workers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NODES = 2
SHARDS = 30


@dataclass(frozen=True)
class Job:
    """What the processes tell one another by."""

    nodes: Path
    lost: Path


class Worker(ShardWorker):
    """Holds its shards back until a third node has joined; on the node that is lost, for ever."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._node = ray.get_runtime_context().get_node_id()

    def process(self, shard: int, *, last_try: bool = False) -> dict[str, Any]:
        (self._job.nodes / self._node).touch()
        while shard >= SHARDS // 2 and len(list(self._job.nodes.iterdir())) <= NODES:
            time.sleep(0.05)
        while self._job.lost.exists() and self._job.lost.read_text() == self._node:
            time.sleep(0.05)
        return {"shard": shard, "node": self._node}


class Quick(ShardWorker):
    """Has nothing to do."""

    def __init__(self, job: None) -> None:
        pass

    def process(self, shard: int, *, last_try: bool = False) -> dict[str, Any]:
        return {"shard": shard}


class Endless(ShardWorker):
    """Is busy with its first shard for ever."""

    def __init__(self, job: Path) -> None:
        self._begun = job

    def process(self, shard: int, *, last_try: bool = False) -> dict[str, Any]:
        self._begun.touch()
        while True:
            time.sleep(1)


@pytest.fixture
def cluster(shared_ray: ModuleType) -> Iterator[Cluster]:
    shared_ray.disconnect()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def test_a_node_that_joins_works_and_what_a_lost_one_had_in_hand_goes_to_the_others(cluster: Cluster, tmp_path: Path):
    job = Job(tmp_path / "nodes", tmp_path / "lost")
    job.nodes.mkdir()
    summaries = []
    with ray_session(cluster.address):
        here = ray.get_runtime_context().get_node_id()  # with which this process would be lost too
        run = ShardRun(Worker, job, np.arange(SHARDS), Workers(NODES, 1, 0, 2**20))
        for summary in run:
            summaries.append(summary)
            if len(summaries) == 1:
                cluster.add_node(num_cpus=1)
            nodes = {summary["node"] for summary in summaries}
            if len(nodes) > NODES and not job.lost.exists():
                victim = next(node for node in cluster.list_all_nodes() if node.node_id in nodes - {here})
                job.lost.write_text(victim.node_id)
                os.kill(victim.all_processes["raylet"][0].process.pid, signal.SIGKILL)
    assert sorted(summary["shard"] for summary in summaries) == list(range(SHARDS))
    assert job.lost.exists()
    assert run.processes == NODES + 1


@contextlib.contextmanager
def no_thread_left() -> Iterator[None]:
    """Ray ends a process one of whose threads speaks to it after it was shut down: with 1, and without a word."""
    before = set(threading.enumerate())
    yield
    assert {thread.name for thread in set(threading.enumerate()) - before} == set()


@pytest.mark.usefixtures("one_ray")
def test_when_it_has_ended_nothing_of_this_process_speaks_to_ray_any_more():
    with no_thread_left():
        assert len(list(ShardRun(Quick, None, np.arange(3), Workers(1, 0, 0, 2**20)))) == 3


def interrupt(pool: contextlib.AbstractContextManager[Any], when: Callable[[], bool]) -> None:
    with no_thread_left(), contextlib.suppress(KeyboardInterrupt), pool:
        while not when():
            time.sleep(0.05)
        raise KeyboardInterrupt


@pytest.fixture
def endless(one_ray: None, tmp_path: Path) -> contextlib.AbstractContextManager[Any]:
    return _processes(Endless, tmp_path / "begun", np.arange(1), Workers(1, 0, 0, 2**20))


@pytest.mark.parametrize("begun", [False, True])
def test_when_it_is_interrupted_nothing_of_this_process_speaks_to_ray_any_more(
    endless: Any, tmp_path: Path, begun: bool
):
    interrupt(endless, lambda: (tmp_path / "begun").exists() or not begun)


def test_an_executor_that_is_just_starting_is_asked_to_end_once_more(
    endless: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    deaf, start = threading.Event(), StreamingExecutor.start

    def start_slowly(executor: StreamingExecutor) -> None:
        start(executor)
        while not (tmp_path / "begun").exists():
            time.sleep(0.05)
        deaf.set()
        time.sleep(1)  # for as long it does not know that it has started

    monkeypatch.setattr(StreamingExecutor, "start", start_slowly)
    interrupt(endless, deaf.is_set)


def test_a_second_interrupt_waits_for_the_end_of_the_first(endless: Any, monkeypatch: pytest.MonkeyPatch):
    stop = _Pool.stop

    def interrupted_stop(pool: _Pool) -> None:
        signal.raise_signal(signal.SIGINT)
        stop(pool)

    monkeypatch.setattr(_Pool, "stop", interrupted_stop)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    interrupt(endless, lambda: True)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
