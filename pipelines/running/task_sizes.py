"""How many shards a process is given at a time, so that all of them end together."""

from collections.abc import Iterator

#: The driver keeps account of every task, so a large lake is not handed out shard by shard.
MOST_EQUAL_TASKS = 10_000
#: Tasks that each process could have of what is left. More would balance little better, and fewer worse.
TASKS_A_WORKER = 4


def task_size(left: int, shards: int, workers: int) -> int:
    """Chooses the size of the next task by guided self-scheduling.

    Tasks are as large as their number allows, and shrink towards the end: a slow process that has taken the last one
    keeps the others waiting no longer than for one shard.

    Args:
        left: Shards that are not handed out yet, at least one.
        shards: Number of all shards.
        workers: Processes that work now; may differ from task to task, as nodes come and go.

    Returns:
        The shards of the task, from 1 to ``left``.
    """
    return max(1, min(-(-shards // MOST_EQUAL_TASKS), left // (TASKS_A_WORKER * workers)))


def task_sizes(shards: int, workers: int) -> Iterator[int]:
    """Divides shards into tasks for processes that stay as many.

    Args:
        shards: Their number.
        workers: Number of processes.

    Yields:
        Sizes of the tasks in the order in which they are handed out; none is larger than the one before, and their sum
        is ``shards``.
    """
    left = shards
    while left:
        size = task_size(left, shards, workers)
        left -= size
        yield size
