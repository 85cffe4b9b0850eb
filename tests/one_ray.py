"""One Ray for all tests of this process that a Ray of a command's own would not tell more, and a process that is warm.

To start Ray, and then a process that imports PyTorch and loads a model, takes ten times as long as scoring some photos.
"""

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import Future, wait
from typing import Any
from unittest import mock

import ray
import torch

from pipelines.running.session import ray_session
from pipelines.running.shard_pool import END_SECONDS, remote
from pipelines.running.shard_worker import PoolProcess, ShardWorker

_running = contextlib.ExitStack()
_started_for: dict[str, str] | None = None
_process: Any = None


def connect() -> None:
    """Connects this process to a Ray whose processes know the object store that this one knows now.

    Commands that are run in this process use it as they would a cluster. It is started anew only where the one that is
    there was started for another store.
    """
    global _started_for  # noqa: PLW0603 - of a process there is one
    store = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    if ray.is_initialized() and _started_for == store:
        return
    disconnect()
    _running.enter_context(ray_session())
    _started_for = store


def disconnect() -> None:
    """Ends it."""
    global _process  # noqa: PLW0603
    _process = None
    _running.close()


@ray.remote(num_cpus=0)
class _WarmProcess:
    """Makes one worker of shards after another, where Ray Data makes each in a process of its own.

    What threads a worker has, it keeps until the process ends.
    """

    def work(self, kind: type[ShardWorker], job: Any, queue: Any) -> None:
        def worker() -> ShardWorker:
            made = kind(job)
            torch.set_num_threads(1)  # the cores are those of all tests
            return made

        node = ray.get_runtime_context().get_node_id()
        PoolProcess(worker, kind.at_once, remote(queue), "warm", node).work()


@contextlib.contextmanager
def warm_process() -> Iterator[None]:
    """Has every command work through its shards in one process of that Ray, the same for all of them."""
    global _process  # noqa: PLW0603
    connect()
    if _process is None:
        _process = _WarmProcess.remote()  # type: ignore[attr-defined]
    process = _process

    class Pool:
        """In place of Ray Data."""

        def __init__(self, *arguments: Any) -> None:
            self._arguments = arguments[:3]

        def start(self) -> None:
            self.ended: Future[None] = process.work.remote(*self._arguments).future()

        def finish(self) -> None:
            wait([self.ended], END_SECONDS)

        stop = finish

    with mock.patch("pipelines.running.shard_pool._Pool", Pool):
        yield
