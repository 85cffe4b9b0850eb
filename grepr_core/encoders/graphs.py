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
#: Recordings kept, and shapes remembered; a view with few shapes needs fewer. Others are computed as they come.
MOST_RECORDINGS, MOST_MET = 256, 4096

#: How far a replay may be from what was computed before, since libraries may choose other algorithms while recording.
ROUNDING = 0.01

#: Of (N, 3, H, W) uint8 images; its results have N rows each, and are no views of them.
Encode = Callable[[Tensor], Sequence[Tensor]]
#: Records what a function does with images that stay in their place. Gives the results, which also stay in their place,
#: and what computes them anew.
Record = Callable[[Encode, Tensor], tuple[Sequence[Tensor], Callable[[], None]]]


class Replayed:
    """A function of batches that is recorded for each shape it meets a second time."""

    def __init__(self, encode: Encode, recorder: Callable[[], Record] | None = None) -> None:
        """Records nothing yet.

        Args:
            encode: The function; of an image it gives the same whatever else is in the batch.
            recorder: Makes what records; by default for the current GPU.
        """
        self._encode = encode
        self._recorder = recorder or _GpuRecorder
        self._record: Record | None = self._recorder()
        #: Shapes that were met once, when libraries choose their algorithms.
        self._met: set[torch.Size] = set()
        self._recordings: dict[torch.Size, tuple[Tensor, Sequence[Tensor], Callable[[], None]]] = {}
        self._memory: Tensor | None = None

    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        """Encodes a batch.

        Args:
            images: (N, 3, H, W) uint8 on a GPU, channels-last; N at least 1.

        Returns:
            What the function gives.
        """
        parts, first = [], 0
        for size in sizes(len(images)):
            part = images[first : first + size]
            parts.append([result[: len(part)] for result in self._run(part, size)])
            first += size
        return parts[0] if len(parts) == 1 else [torch.cat(results) for results in zip(*parts, strict=True)]

    def forget(self) -> None:
        """Gives the memory of all recordings back; shapes are recorded anew."""
        self._met.clear()
        self._recordings.clear()
        self._memory = None
        if self._record is not None:
            self._record = self._recorder()

    def _run(self, part: Tensor, size: int) -> Sequence[Tensor]:
        shape = torch.Size((size, *part.shape[1:]))
        if (recording := self._recordings.get(shape)) is None:
            return self._run_and_record(self._place(part, shape), shape)
        images, results, replay = recording
        images[: len(part)].copy_(part)
        replay()
        # All recordings share memory, so another one may write where these results lie.
        return [result.clone() for result in results]

    def _run_and_record(self, images: Tensor, shape: torch.Size) -> Sequence[Tensor]:
        # Before it is recorded too: libraries have a state for each thread, which must not be made while recording.
        results = self._encode(images)
        if self._record is None or len(self._recordings) >= MOST_RECORDINGS:
            return results
        if shape not in self._met:
            if len(self._met) < MOST_MET:
                self._met.add(shape)
            return results
        try:
            recorded, replay = self._record(self._encode, images)
            replay()
            if not all(map(_alike, recorded, results)):
                raise RuntimeError("what is replayed is something else")
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            log.warning("a GPU's work cannot be recorded here, so small batches take longer: %s", error)
            self._record = None
        else:
            self._recordings[shape] = (images, recorded, replay)
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


def _alike(one: Tensor, other: Tensor) -> bool:
    return bool((one.float() - other.float()).norm() <= ROUNDING * other.float().norm())


class _GpuRecorder:
    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, encode: Encode, images: Tensor) -> tuple[Sequence[Tensor], Callable[[], None]]:
        if self._pool is None:
            # One recording is replayed at a time, and its results are copied, so all may use the same memory.
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.current_stream()
        try:
            # Other threads may ask for memory meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                results = encode(images)
        finally:
            torch.cuda.set_stream(stream)  # which an error would leave another one
        return results, graph.replay
