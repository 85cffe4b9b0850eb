"""A pool of processes that work through shards, on Ray Data.

Ray Data's pool of actors holds the processes: it places them, starts those that died anew, and adds some where nodes
join. What each does next it takes from a queue (:mod:`pipelines.running.shard_queue`), since what Ray Data has given to
an actor stays with it, even if its node is lost and no other has room. What crosses from one process to another are
shard numbers and summaries; what a shard is made into, its worker writes.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import replace
from threading import Event, Thread
from typing import Any, cast

import numpy as np
import ray
from numpy.typing import NDArray
from ray.data._internal.execution.streaming_executor import StreamingExecutor
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from grepr_core.errors import Unavailable
from pipelines.running.interrupts import undisturbed
from pipelines.running.placement import PlacementWatch
from pipelines.running.shard_queue import News, ShardFailure, ShardQueue
from pipelines.running.shard_worker import PoolProcess, ShardWorker
from pipelines.running.workers import Workers

#: Seconds between two looks at what the processes have done, and at which nodes live.
NEWS_SECONDS, NODES_SECONDS = 0.1, 2.0
#: Processes that a pool may grow by as nodes join, where nobody has said how many there may be. Each costs two blocks
#: of one row to begin with.
GROWTH = 128
#: Processes in a row that may end before they can tell why.
MOST_INIT_DEATHS = 16
#: Seconds that the pool is given to end.
END_SECONDS = 60.0
#: Failed shards that a message tells of.
SHOWN = 5


class ShardError(Exception):
    """Shards could not be worked on or written, for a reason that is no image's."""


class ShardRun:
    """Work on shards, under way while it is iterated over.

    Attributes:
        processes: Processes that have worked on it so far.
    """

    def __init__(self, worker: type[ShardWorker], job: object, shards: NDArray[np.int64], workers: Workers) -> None:
        """Starts nothing yet.

        Args:
            worker: Kind of worker, made from the job.
            job: All that a worker needs to know.
            shards: Numbers of the shards.
            workers: The processes.
        """
        self._worker = worker
        self._job = job
        self._shards = shards
        self._workers = workers
        self.processes = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Works through the shards.

        Yields:
            The summaries, in the order in which shards are finished.

        Raises:
            ShardError: No process could start, or what keeps one shard from being worked on or written would keep all;
                or, at the end, some shards failed wherever they were tried. The others are finished.
        """
        with _processes(self._worker, self._job, self._shards, self._workers) as ask:
            news = ask()
            watch = PlacementWatch(replace(self._workers, count=min(self._workers.count, len(self._shards))))
            while True:
                watch.look(news.placed)
                self.processes = news.processes
                yield from news.summaries
                if news.over:
                    break
                time.sleep(NEWS_SECONDS)
                news = ask()
        if news.cause is not None:
            raise _error(news.cause.message, news.cause)
        if news.failures:
            raise _error(_list(news.failures, len(self._shards)), *news.failures.values())


def _list(failures: dict[int, ShardFailure], total: int) -> str:
    shown = "; ".join(failures[shard].message for shard in sorted(failures)[:SHOWN])
    more = "; ..." if len(failures) > SHOWN else ""
    return (
        f"{len(failures)} of {total} shards failed wherever they were tried; the others are done, and the same command "
        f"tries these again: {shown}{more}"
    )


def _error(message: str, *failures: ShardFailure) -> ShardError:
    error = ShardError(message)
    for failure in failures[:SHOWN]:
        error.add_note(failure.traceback)
    return error


@contextlib.contextmanager
def _processes(
    worker: type[ShardWorker], job: object, shards: NDArray[np.int64], workers: Workers
) -> Iterator[Callable[[], News]]:
    """Has processes work through shards; gives a function that tells what has become of them."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # A connection that is lost for a moment is no end; what is asked twice, signs of life set right.
    options = {"num_cpus": 0, "scheduling_strategy": here, "max_task_retries": 5}
    actor: Any = ray.remote(ShardQueue).options(**options).remote(shards, processes=min(workers.count, len(shards)))
    pool = _Pool(worker, job, actor, len(shards), workers)
    looked = time.monotonic()

    def ask() -> News:
        nonlocal looked
        if time.monotonic() - looked >= NODES_SECONDS:
            looked = time.monotonic()
            nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
            actor.keep.remote({node["NodeID"] for node in nodes if node["Alive"]})
        try:
            news: News = ray.get(actor.news.remote())
        except RayActorError as error:
            raise Unavailable(
                "the process that keeps account of the shards is gone; the same command goes on"
            ) from error
        if not news.over and pool.ended.done():
            failure = pool.ended.exception()
            why = f": {str(failure).splitlines()[-1]}" if failure else ""
            raise ShardError(f"all processes ended before all shards were done; the same command goes on{why}")
        return news

    try:
        pool.start()
        yield ask
        pool.finish()
    finally:
        with undisturbed():
            actor.close.remote()
            pool.stop()


class _Pool:
    """Ray Data, which holds the processes, in a thread.

    Attributes:
        ended: Done when it has ended, with the error it ended with.
    """

    def __init__(
        self,
        worker: type[ShardWorker],
        job: object,
        queue: Any,  # noqa: ANN401 - a Ray actor
        shards: int,
        workers: Workers,
    ) -> None:
        """Starts nothing yet."""
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        # What becomes of shards, the queue knows; the rows that are lost with a node carry nothing.
        context.max_errored_blocks = -1
        # A night may wait for its first node, or for one long shard.
        context.execution_no_progress_timeout_s = -1
        # A machine where not even the job can be read is one less.
        context.max_consecutive_actor_init_deaths = MOST_INIT_DEATHS
        # Making the context has set this logger up anew.
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        first = min(workers.count, shards)
        most = min(workers.most or workers.count + GROWTH, shards)
        # A process takes two; Ray Data enlarges a pool only while there are more.
        rows = ray.data.from_items(list(range(2 * most)), override_num_blocks=2 * most)
        self._dataset = rows.map_batches(
            # By the worker's name, which a process shows.
            type(worker.__name__, (_RayProcess,), {}),
            # What the job is made of is looked for in the process, where its lack can be told.
            fn_constructor_args=(worker, [ray.put(job)], queue),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(
                min_size=first if most == first else 1,
                initial_size=first,
                max_size=most,
                max_tasks_in_flight_per_actor=2,
                max_concurrent_calls_per_actor=1,
            ),
            num_cpus=workers.cpus,
            num_gpus=workers.gpus or None,
            memory=workers.memory or None,
        )
        self._over = Event()
        self.ended: Future[None] = Future()
        self._thread = Thread(target=self._hold, name="pool", daemon=True)

    def start(self) -> None:
        """Starts the processes."""
        self._thread.start()

    def _hold(self) -> None:
        try:
            # Whatever looks into the rows leaves threads behind that speak to Ray when they end.
            for _ in self._dataset.iter_internal_ref_bundles():
                if self._over.is_set():
                    break
        except BaseException as error:
            self.ended.set_exception(error)
        else:
            self.ended.set_result(None)

    def finish(self) -> None:
        """Waits for the processes, which have no shard left: they give their rows back, and with the first all ends."""
        self._over.set()
        wait([self.ended], END_SECONDS)

    def stop(self) -> None:
        """Has all processes ended, whatever they do, and waits for the threads.

        Ray ends the whole of this process, with 1 and no word, if a thread speaks to it after it was shut down.
        """
        self._over.set()
        deadline = time.monotonic() + END_SECONDS
        # Again and again, for what has only just begun to execute is not to be found yet, or deaf.
        while (executors := self._executors()) or self._thread.is_alive():
            for thread in executors:
                # What keeps one from ending in order is nothing to the others, nor to what the command ends with.
                with contextlib.suppress(Exception):
                    thread.shutdown(force=True)
                thread.join(NEWS_SECONDS)
            self._thread.join(NEWS_SECONDS)
            if time.monotonic() > deadline:
                break

    def _executors(self) -> list[StreamingExecutor]:
        return [
            thread
            for thread in threading.enumerate()
            if isinstance(thread, StreamingExecutor)
            and self._dataset.get_dataset_id() in thread.name
            and thread.is_alive()
        ]


class _RayProcess:
    """Is made by Ray Data in every process."""

    def __init__(self, worker: type[ShardWorker], job: "list[ray.ObjectRef[Any]]", queue: Any) -> None:  # noqa: ANN401
        context = ray.get_runtime_context()
        self._process = PoolProcess(
            lambda: worker(ray.get(*job)),
            worker.at_once,
            remote(queue),
            str(context.get_actor_id()),
            context.get_node_id(),
        )

    def __call__(self, row: dict[str, NDArray[np.int64]]) -> dict[str, NDArray[np.int64]]:
        self._process.work()
        return row


class _Remote:
    """Calls the methods of an actor and waits for the answer."""

    def __init__(self, actor: Any) -> None:  # noqa: ANN401 - a Ray actor
        self._actor = actor

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._actor, name)
        return lambda *arguments, **options: ray.get(method.remote(*arguments, **options))


def remote(queue: Any) -> ShardQueue:  # noqa: ANN401 - a Ray actor
    """Gives a queue that is an actor as what it is to its callers."""
    return cast(ShardQueue, _Remote(queue))
