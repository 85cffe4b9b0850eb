"""Grouping of images by size, so that those of one size go through a network together."""

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TypeVar

ItemT = TypeVar("ItemT")

#: Pixels that may wait for others of their size, in batches. With one that is being filled it is 400 MiB on a GPU at
#: most, and half of a shard: enough for the shapes of a lattice.
WAITING_BATCHES = 15


def group_by_shape(
    items: Iterable[ItemT], *, shape: Callable[[ItemT], Hashable], pixels: Callable[[ItemT], int], budget: int
) -> Iterator[list[ItemT]]:
    """Groups items of one shape while they arrive.

    A group is given as soon as it fills the budget. If all sizes together hold more than :data:`WAITING_BATCHES`
    budgets, the largest group goes first, so that what waits is bounded however many sizes there are.

    Args:
        items: Taken one at a time, never further than the group that is given next.
        shape: Of an item; only those of equal shape are grouped.
        pixels: Of an item.
        budget: Pixels of a group: it has at least as many, or is one of the last, or had to go early; without its last
            item it has fewer.

    Yields:
        Groups of one or more items, in each in the order of their arrival.
    """
    groups: dict[Hashable, list[ItemT]] = {}
    held: dict[Hashable, int] = {}
    for item in items:
        key = shape(item)
        groups.setdefault(key, []).append(item)
        held[key] = held.get(key, 0) + pixels(item)
        if held[key] >= budget:
            del held[key]
            yield groups.pop(key)
        elif sum(held.values()) > WAITING_BATCHES * budget:
            largest = max(held, key=lambda key: held[key])
            del held[largest]
            yield groups.pop(largest)
    yield from groups.values()
