"""A pool of processes that work through shards, on Ray Data.

What crosses from one process to another are shard numbers and summaries. What a shard is made into, its worker writes.
"""

import json
import logging
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from pipelines.running.workers import Workers

#: Ray tracks every task; a task of several shards is dearer to repeat, but there are never more than this.
MOST_TASKS = 10_000


class ShardError(Exception):
    """A shard could not be worked on or written, for a reason that is no image's."""


class ShardWorker(ABC):
    """Works on shards; Ray Data makes one in every process of its actor pool.

    Attributes:
        at_once: Shards that it has in hand at a time, each in a thread of its own.
    """

    at_once = 1

    @abstractmethod
    def process(self, shard: int) -> dict[str, Any]:
        """Works on a shard and writes what it is made into.

        Args:
            shard: Its number.

        Returns:
            Its summary, in JSON's types.
        """

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[str]]:
        """Works on a shard.

        What keeps it from doing so, such as a full disk, is handed back as text: Ray would wrap an exception in pages
        of its own.

        Args:
            batch: Column ``shard`` with one shard's number.

        Returns:
            Columns ``summary`` (JSON), ``error`` and ``traceback``; either the first is empty or the other two are.
        """
        (shard,) = batch["shard"].tolist()
        try:
            summary = self.process(shard)
        except Exception as error:
            message = f"shard {shard}: {type(error).__name__}: {error}"
            return {"summary": [""], "error": [message], "traceback": [traceback.format_exc()]}
        return {"summary": [json.dumps(summary)], "error": [""], "traceback": [""]}


def map_shards(worker: type[ShardWorker], job: object, shards: NDArray[np.int64], workers: Workers) -> Iterator[Any]:
    """Works through shards.

    Args:
        worker: Kind of worker, made from the job.
        job: All that a worker needs to know.
        shards: Numbers of the shards.
        workers: The processes.

    Yields:
        The summaries, in the order in which shards are finished.

    Raises:
        ShardError: A worker could not do its work.
    """
    for row in _rows(worker, job, shards, workers):
        if row["error"]:
            error = ShardError(row["error"])
            error.add_note(row["traceback"])
            raise error
        yield json.loads(row["summary"])


def _rows(
    worker: type[ShardWorker], job: object, shards: NDArray[np.int64], workers: Workers
) -> Iterator[dict[str, str]]:
    """Has workers called in processes of their own; gives what :meth:`ShardWorker.__call__` does, a row a shard."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    # Making the context has set this logger up anew.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    blocks = np.array_split(shards, min(len(shards), MOST_TASKS))
    dataset = ray.data.from_arrow([pa.table({"shard": block}) for block in blocks]).map_batches(
        worker,
        fn_constructor_args=(job,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            size=min(workers.count, len(shards)),
            max_tasks_in_flight_per_actor=2,
            max_concurrent_calls_per_actor=worker.at_once,
            enable_true_multi_threading=worker.at_once > 1,
        ),
        # Ray advises against asking for both.
        num_cpus=None if workers.gpus else workers.cpus,
        num_gpus=workers.gpus or None,
    )
    yield from dataset.iter_rows()
