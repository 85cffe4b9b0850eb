"""Photographs to the device that encodes them, and results back; the host waits only where it asks for the results."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from grepr_core.decoding.images import Photo


class Transfer(Protocol):
    """The way to a device and back."""

    @property
    def batches_in_flight(self) -> int:
        """Batches that may be under way while the next one is gathered."""

    def upload(self, photos: Sequence[Photo]) -> Tensor:
        """Brings photographs of one size to the device, in the order of what is computed there.

        Args:
            photos: At least one.

        Returns:
            (N, 3, H, W) uint8 on the device, channels-last.
        """

    def download(self, tensors: Sequence[Tensor], *, keeping: Tensor) -> Callable[[], list[Tensor]]:
        """Brings results to the host.

        Args:
            tensors: On the device, perhaps still to be computed.
            keeping: What they are computed from, whose memory must not be used again before.

        Returns:
            A function that waits for them and gives them, on the CPU.
        """


class HostTransfer:
    """The device is the CPU: nothing is copied that need not be."""

    batches_in_flight = 0

    def upload(self, photos: Sequence[Photo]) -> Tensor:
        """See :meth:`Transfer.upload`."""
        pixels = [torch.as_tensor(photo.rgb) for photo in photos]
        # (N, H, W, 3) in memory is what PyTorch calls channels-last, so the permuted view needs no copy.
        return (pixels[0][None] if len(pixels) == 1 else torch.stack(pixels)).permute(0, 3, 1, 2)

    def download(self, tensors: Sequence[Tensor], *, keeping: Tensor) -> Callable[[], list[Tensor]]:
        """See :meth:`Transfer.download`."""
        return lambda: list(tensors)


class CudaTransfer:
    """To a GPU and back, on pinned memory; batch n + 1 travels while batch n is computed.

    Pixels travel as uint8, a quarter of float32. Results are a few kilobytes an image, so they stay float32.

    PyTorch keeps pinned memory for reuse, and does not reuse a piece before the copies from it are done; so neither is
    done here again. It holds the batches under way, each rounded up to a power of two.

    Args:
        device: A CUDA device.
    """

    batches_in_flight = 1

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def upload(self, photos: Sequence[Photo]) -> Tensor:
        """See :meth:`Transfer.upload`."""
        arrays = [photo.rgb for photo in photos]
        staged = torch.empty((len(arrays), *arrays[0].shape), dtype=torch.uint8, pin_memory=True)
        np.stack(arrays, out=staged.numpy())
        with torch.cuda.stream(self._copies):
            pixels = staged.to(self._device, non_blocking=True)
        torch.cuda.current_stream(self._device).wait_stream(self._copies)
        return pixels.permute(0, 3, 1, 2)

    def download(self, tensors: Sequence[Tensor], *, keeping: Tensor) -> Callable[[], list[Tensor]]:
        """See :meth:`Transfer.download`."""
        copies = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
        for copy, tensor in zip(copies, tensors, strict=True):
            copy.copy_(tensor, non_blocking=True)
        # Blocking lets the thread sleep while it waits; otherwise it would spin on a core that could decode.
        done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        done.record(torch.cuda.current_stream(self._device))
        # It belongs to the stream of copies, which would otherwise put the next batch there while this one is computed.
        kept = [keeping]

        def wait() -> list[Tensor]:
            done.synchronize()
            kept.clear()
            return copies

        return wait


def transfer_to(device: torch.device) -> Transfer:
    """Gives the way to a device."""
    return CudaTransfer(device) if device.type == "cuda" else HostTransfer()
