"""What an exception that the model raised means for the device and for the images it was busy with."""

import gc

import torch

from grepr_core.decoding.images import error_words
from grepr_core.errors import DeviceLostError


def is_out_of_memory(error: BaseException) -> bool:
    """Tells whether a smaller batch may do: the memory of the device, or of the host, ran out."""
    # PyTorch's allocator of the host has no exception of its own.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def free_memory(device: torch.device) -> None:
    """Gives back what nothing needs any more, such as the tensors of a batch that failed."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def check_device(device: torch.device) -> None:
    """Makes sure that a device still computes.

    Args:
        device: That has raised an exception.

    Raises:
        DeviceLostError: It does not.
    """
    if device.type != "cuda":
        return
    try:
        torch.zeros(1, device=device).add_(1).item()
    except torch.OutOfMemoryError:
        return
    except RuntimeError as error:
        raise DeviceLostError(f"{device} is unusable: {error_words(error)}") from error


def model_failure_words(error: BaseException) -> str:
    """Says in one line why the model gave no score."""
    if is_out_of_memory(error):
        return "the model needs more memory for this image than there is"
    words = error_words(error)
    return f"the model failed: {type(error).__name__}" + (f": {words}" if words else "")
