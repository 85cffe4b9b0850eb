"""Scoring with everything but Ray: the pool's process is a thread here, so that faults can be put into it."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from pipelines.running import shard_pool, shard_queue, shard_worker
from pipelines.running.precision import settle_precision
from pipelines.running.shard_queue import News, ShardQueue
from pipelines.running.shard_worker import PoolProcess, ShardWorker
from pipelines.running.workers import Workers
from pipelines.scoring import score


@contextlib.contextmanager
def in_this_process(processes: int = 1) -> Iterator[None]:
    """Has commands score so, without the pauses between attempts.

    Args:
        processes: How many there are.
    """

    @contextlib.contextmanager
    def start(kind: type[ShardWorker], job: Any, shards: NDArray[np.int64], _: Workers) -> Iterator[Callable[[], News]]:
        queue = ShardQueue(shards, processes=processes)
        with ThreadPoolExecutor(processes) as pool:
            for name in range(processes):
                # One shard at a time, so that faults come in order.
                pool.submit(PoolProcess(partial(kind, job), 1, queue, str(name), "node").work)
            try:
                yield queue.news
            finally:
                queue.close()

    with (
        mock.patch.object(score, "ray_session", return_value=contextlib.nullcontext()),
        mock.patch.object(score, "cluster_workers", return_value=Workers(processes, 1, 0, 0)),
        mock.patch.object(
            score, "settle_precision", lambda output, settings, _: settle_precision(output, settings, "cpu")
        ),
        mock.patch.object(shard_pool, "_processes", start),
        mock.patch.object(shard_pool, "NEWS_SECONDS", 0.01),
        mock.patch.object(shard_worker, "START_PAUSES", (0.0, 0.0)),
        mock.patch.object(shard_worker, "WAIT_SECONDS", 0.01),
        mock.patch.object(shard_queue, "PAUSES", (0.0, 0.0)),
    ):
        yield
