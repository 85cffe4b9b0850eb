"""What a process of the pool does: start its worker, and work through shards until there are none."""

import errno
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Thread
from typing import Any

from grepr_core.errors import UserError
from pipelines.running.shard_queue import OVER, WAIT, ShardFailure, ShardQueue

#: Seconds between attempts to start a worker: a store may be away, a GPU still in the hands of a process that ended.
START_PAUSES = (1.0, 4.0, 15.0, 60.0)
#: Seconds between questions for a shard where there is none now, and between signs of life.
WAIT_SECONDS, BEAT_SECONDS = 0.5, 5.0
#: What one shard cannot be written for on a machine, no shard can.
_FOR_ALL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


class ShardWorker(ABC):
    """Works on shards; there is one in every process of the pool.

    Attributes:
        at_once: Shards that it has in hand at a time, each in a thread of its own.
    """

    at_once = 1

    @abstractmethod
    def __init__(self, job: Any) -> None:  # noqa: ANN401 - every kind of worker has a kind of job
        """Starts; whatever is raised here costs this process at most, and never the run.

        Args:
            job: All that it needs to know.
        """

    @abstractmethod
    def process(self, shard: int, *, last_try: bool = False) -> dict[str, Any]:
        """Works on a shard and writes what it is made into.

        Args:
            shard: Its number.
            last_try: Whether the shard is given up if this fails; else another process tries.

        Returns:
            Its summary, in JSON's types.
        """


class PoolProcess:
    """A process of the pool, which outlives whatever its worker raises."""

    def __init__(
        self, worker: Callable[[], ShardWorker], at_once: int, queue: ShardQueue, name: str, node: str
    ) -> None:
        """Starts nothing yet.

        Args:
            worker: Makes the worker.
            at_once: Shards that the worker has in hand at a time.
            queue: Of the shards.
            name: Of the process, the same when it has been started anew.
            node: Where it runs.
        """
        self._make = worker
        self._at_once = at_once
        self._queue = queue
        self._name = name
        self._node = node
        self._worker: ShardWorker | None = None
        self._holds: set[int] = set()

    def work(self) -> None:
        """Works until no shard is left."""
        may_start = self._worker is None and self._queue.begin(self._name, self._node)
        ended = Event()
        Thread(target=self._beat, args=(ended,), name="beat", daemon=True).start()
        try:
            if may_start:
                self._worker = self._start()
            if self._worker is not None:
                self._work_with(self._worker)
            # Were it to end, another would be put in its place, again and again.
            while not self._queue.over():
                time.sleep(WAIT_SECONDS)
        finally:
            ended.set()

    def _beat(self, ended: Event) -> None:
        while not ended.wait(BEAT_SECONDS):
            self._queue.alive(self._name, set(self._holds))

    def _start(self) -> ShardWorker | None:
        first: Exception | None = None
        for pause in (*START_PAUSES, None):
            try:
                worker = self._make()
            except Exception as error:
                first = first or error
                if pause is None or isinstance(error, UserError):
                    self._queue.broken(self._name, _failure("a process could not start", first))
                    return None
                time.sleep(pause)
            else:
                self._queue.started(self._name)
                return worker
        raise AssertionError("the loop does not end")

    def _work_with(self, worker: ShardWorker) -> None:
        with ThreadPoolExecutor(self._at_once, thread_name_prefix="shard") as pool:
            for done in [pool.submit(self._work_through, worker) for _ in range(self._at_once)]:
                done.result()

    def _work_through(self, worker: ShardWorker) -> None:
        while (turn := self._queue.take(self._name)).shard != OVER:
            if turn.shard == WAIT:
                time.sleep(WAIT_SECONDS)
                continue
            self._holds.add(turn.shard)
            try:
                summary = worker.process(turn.shard, last_try=turn.last_try)
            except BaseException as error:  # native code raises what is no Exception, and the thread has to go on
                on_this_node = isinstance(error, OSError) and error.errno in _FOR_ALL
                for_all = on_this_node or isinstance(error, PermissionError)
                self._queue.fail(self._name, turn.shard, _failure(f"shard {turn.shard}", error), for_all=for_all)
            else:
                self._queue.finish(self._name, turn.shard, summary)
            finally:
                self._holds.discard(turn.shard)


def _failure(what: str, error: BaseException) -> ShardFailure:
    said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return ShardFailure(f"{what}: {said}", "".join(traceback.format_exception(error)))
