"""What processes wait for that have no place on the cluster yet, said every minute."""

import logging
import time

from ray._private.state import available_resources_per_node  # Ray's public functions only tell the sum

from pipelines.running.workers import Node, Workers

log = logging.getLogger(__name__)

#: Seconds between two sentences. Nodes take some minutes to come.
EVERY = 60.0


class PlacementWatch:
    """Watches whether processes get their places.

    Whoever waits for them calls :meth:`look` as often as is convenient, with the number that have begun.
    """

    def __init__(self, workers: Workers) -> None:
        """Begins a minute.

        Args:
            workers: What Ray was asked for.
        """
        self._workers = workers
        self._since = time.monotonic()

    def look(self, started: int) -> None:
        """Says what is missing, where for a minute it has been, and again a minute later.

        Args:
            started: Number of the processes that have a place now.
        """
        now = time.monotonic()
        if started >= self._workers.count:
            self._since = now
        elif now - self._since >= EVERY:
            self._since = now
            log.warning("%s", missing(self._workers, started, _free_nodes()))


def missing(workers: Workers, started: int, free: list[Node]) -> str:
    """Says what processes wait for.

    Args:
        workers: What Ray was asked for.
        started: Number of the processes that have a place.
        free: What nodes have that nobody holds.

    Returns:
        A sentence.
    """
    most = max(free, key=lambda node: (node.gpus, node.cpus, node.memory), default=Node(0, 0, 0))
    places = sum(node.places(workers.cpus, workers.per_gpu, workers.memory) for node in free)
    return (
        f"{workers.count - started} of {workers.count} processes wait for a place: each needs "
        f"{Node(workers.cpus, workers.gpus, workers.memory)} on one node; places free now: {places} (the node with "
        f"most has {most} free)"
    )


def _free_nodes() -> list[Node]:
    nodes: dict[str, dict[str, float]] = available_resources_per_node()  # type: ignore[no-untyped-call]
    return [Node.from_resources(resources) for resources in nodes.values()]
