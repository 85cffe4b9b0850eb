"""How much of all processes' time is used, by the size of tasks, where processes differ in speed: a simulation.

A process takes the next task as soon as it is through with its last one. All shards are as much work; speeds are drawn
evenly from 30 % below to 30 % above the mean. Used is the work divided by what all processes could have done until the
last one ended. grepr hands out shard by shard (:mod:`pipelines.running.shard_queue`).

Example: python -m benchmarks.balance
"""

import argparse
import heapq
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

CASES = ((100, 100_000), (1_000, 1_000_000), (5_000, 1_000_000), (20_000, 1_000_000))
SPREAD = 0.3
#: Tasks that shards were divided among beforehand, in the first version.
MOST_EQUAL_TASKS = 10_000


def equal_sizes(shards: int) -> list[int]:
    """Shards that are divided among tasks beforehand."""
    return [len(part) for part in np.array_split(np.empty(shards, np.uint8), min(shards, MOST_EQUAL_TASKS))]


def shrinking_sizes(shards: int, workers: int) -> Iterator[int]:
    """Guided self-scheduling: of what is left, every process could have four tasks of the next one's size."""
    left = shards
    while left:
        size = max(1, left // (4 * workers))
        left -= size
        yield size


def used(sizes: Iterable[int], speeds: NDArray[np.float64]) -> float:
    """Simulates a run.

    Args:
        sizes: Of the tasks, in shards, in the order in which they are handed out.
        speeds: Of the processes, in shards a unit of time.

    Returns:
        The part of all processes' time that is used.
    """
    free = [(0.0, process) for process in range(len(speeds))]
    end, shards = 0.0, 0
    for size in sizes:
        began, process = free[0]
        done = began + size / float(speeds[process])
        heapq.heapreplace(free, (done, process))
        end, shards = max(end, done), shards + size
    return shards / float(speeds.sum()) / end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    random = np.random.default_rng(parser.parse_args().seed)
    print("| processes | shards | equal tasks | shrinking tasks | shard by shard | shrinking tasks, number |")
    print("|---|---|---|---|---|---|")
    for workers, shards in CASES:
        speeds = random.uniform(1 - SPREAD, 1 + SPREAD, workers)
        shrinking = list(shrinking_sizes(shards, workers))
        ways = (equal_sizes(shards), shrinking, np.ones(shards, int).tolist())
        found = " | ".join(f"{used(sizes, speeds):.1%}" for sizes in ways)
        print(f"| {workers:,} | {shards:,} | {found} | {len(shrinking):,} |", flush=True)


if __name__ == "__main__":
    main()
