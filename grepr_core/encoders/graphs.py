"""Recording what a GPU does with a batch, so that the next one of its size starts it as a whole.

A forward pass is some 200 operations, whose launches take as long as a GPU needs for eight photographs. A recording
(CUDA graph) is for one shape alone, and the first batch of a shape costs the libraries a second; so batches are taken
apart into few sizes.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

#: A batch is filled up to the next size if it fills this share of it.
FILLED = 0.75
#: Recordings kept; a view with few shapes needs fewer. Other shapes are computed as they come.
MOST_RECORDINGS = 256

#: Of (N, 3, H, W) uint8 images; its results have N rows each, and are no views of them.
Encode = Callable[[Tensor], Sequence[Tensor]]
#: Records what a function does with images that stay in their place. Gives the results, which also stay in their place,
#: and what computes them anew.
Record = Callable[[Encode, Tensor], tuple[Sequence[Tensor], Callable[[], None]]]


class Replayed:
    """A function of batches that is recorded for each shape it meets a second time.

    What it gives is overwritten by the next call, on the stream it is called on.
    """

    def __init__(self, encode: Encode, record: Record | None = None) -> None:
        """Records nothing yet.

        Args:
            encode: The function; of an image it gives the same whatever else is in the batch.
            record: By default on the current GPU.
        """
        self._encode = encode
        self._record: Record | None = record or _GpuRecorder()
        #: None for shapes that were met once, when libraries choose their algorithms.
        self._recordings: dict[torch.Size, tuple[Tensor, Sequence[Tensor], Callable[[], None]] | None] = {}
        self._memory: Tensor | None = None

    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        """Encodes a batch.

        Args:
            images: (N, 3, H, W) uint8 on a GPU, channels-last; N at least 1.

        Returns:
            What the function gives, in places that are overwritten by the next call.

        Raises:
            torch.OutOfMemoryError: Recordings were forgotten, so that a smaller batch has more room.
        """
        try:
            parts, first = [], 0
            for size in sizes(len(images)):
                part = images[first : first + size]
                parts.append([result[: len(part)] for result in self._run(part, size)])
                first += size
        except torch.OutOfMemoryError:
            self._recordings.clear()
            self._memory = None
            raise
        return parts[0] if len(parts) == 1 else [torch.cat(results) for results in zip(*parts, strict=True)]

    def _run(self, part: Tensor, size: int) -> Sequence[Tensor]:
        shape = torch.Size((size, *part.shape[1:]))
        if (recording := self._recordings.get(shape)) is None:
            images = self._place(part, shape)
            if self._record is None or shape not in self._recordings:
                if len(self._recordings) < MOST_RECORDINGS:
                    self._recordings[shape] = None
                return self._encode(images)
            try:
                recording = self._recordings[shape] = (images, *self._record(self._encode, images))
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                log.warning("a GPU's work cannot be recorded here, so small batches take longer: %s", error)
                self._record = None
                return self._encode(images)
        images, results, replay = recording
        images[: len(part)].copy_(part)
        replay()
        return results

    def _place(self, part: Tensor, shape: torch.Size) -> Tensor:
        """Puts images where those of all shapes lie; what fills a batch up is whatever lay there."""
        count, channels, height, width = shape
        if self._memory is None or self._memory.numel() < shape.numel():
            # Recordings keep the memory that they were made with.
            self._memory = torch.zeros(shape.numel(), dtype=torch.uint8, device=part.device)
        images = self._memory[: shape.numel()].view(count, height, width, channels).permute(0, 3, 1, 2)
        images[: len(part)].copy_(part)
        return images


def sizes(images: int) -> Iterator[int]:
    """Takes a batch apart into sizes that are powers of two.

    Args:
        images: At least 1.

    Yields:
        Sizes, largest first; the last may be larger than what is left.
    """
    while images > 0:
        size = 1 << (images - 1).bit_length()
        if images < FILLED * size:
            size //= 2
        yield size
        images -= size


class _GpuRecorder:
    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, encode: Encode, images: Tensor) -> tuple[Sequence[Tensor], Callable[[], None]]:
        if self._pool is None:
            # One recording is replayed at a time, so all may use the same memory for what they do not give.
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # Other threads may ask for memory meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            results = encode(images)
        return results, graph.replay
