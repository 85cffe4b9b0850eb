"""Batches that are ready before the model asks for them.

PyTorch's DataLoader divides batches among processes, of which each would have to open the scenes anew every epoch, and
prepares no batch by more than one of them; in this process it prepares nothing ahead. Examples here are decompressed
by code that lets go of the interpreter's lock, so that threads do.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from grepr_core.pretraining.step import Batch

#: Steps whose batches are prepared while the model computes.
STEPS_AHEAD = 2


def prepared_batches(
    example: Callable[[int], Batch], steps: Iterable[Sequence[Sequence[int]]], *, threads: int, pinned: bool
) -> Iterator[list[Batch]]:
    """Prepares the micro-batches of each step some steps ahead of the model.

    Args:
        example: Prepares an example by its index, on the CPU; called in several threads at once.
        steps: Of each step the indices in each micro-batch.
        threads: That prepare examples; one more stacks them.
        pinned: Batches lie in page-locked memory, from which a GPU copies while the processor goes on.

    Yields:
        Stacked examples by micro-batch, in the order of ``steps``.

    Raises:
        Exception: Whatever ``example`` raised, at the step that it belongs to.
    """
    examples = ThreadPoolExecutor(threads, thread_name_prefix="examples")
    # The thread of the model has none to give: its GPU would wait.
    batches = ThreadPoolExecutor(1, thread_name_prefix="batches")
    ahead: deque[Future[list[Batch]]] = deque()

    def stacked(step: list[list[Future[Batch]]]) -> list[Batch]:
        return [
            tuple(_stack(tensors, pinned) for tensors in zip(*(f.result() for f in part), strict=True)) for part in step
        ]

    try:
        for step in steps:
            ahead.append(
                batches.submit(stacked, [[examples.submit(example, index) for index in part] for part in step])
            )
            if len(ahead) > STEPS_AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        # In this order, since what is stacked waits for examples.
        examples.shutdown(cancel_futures=True)
        batches.shutdown(cancel_futures=True)


def _stack(tensors: Sequence[Tensor], pinned: bool) -> Tensor:
    """Stacks tensors, where asked for straight into page-locked memory."""
    first = tensors[0]
    return torch.stack(
        list(tensors), out=torch.empty((len(tensors), *first.shape), dtype=first.dtype, pin_memory=pinned)
    )
