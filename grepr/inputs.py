"""What people give to be scored, told apart: where a file is, what is in it, or pixels."""

import io
import os
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from grepr_core.decoding.images import Failure, Status
from grepr_core.decoding.pixels import image_from_array
from grepr_core.storage import absolute

if TYPE_CHECKING:
    from torch import Tensor

    _File = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO
    #: One photograph: a path or URL, the content of a file, or pixels.
    Photograph = _File | Image.Image | NDArray[Any] | Tensor

TAKEN = (
    "a path or URL (str or pathlib.Path), the bytes of a file, a file opened for reading bytes, an image of Pillow, an "
    "H x W x 3 array, a 3 x H x W tensor"
)
_KINDS = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray, Failure)


def is_one(given: object) -> bool:
    """Tells a photograph from several.

    Args:
        given: What is to be scored.

    Raises:
        TypeError: It is neither; says what is taken.
    """
    if isinstance(given, str | os.PathLike | bytes | bytearray | memoryview | Image.Image) or hasattr(given, "read"):
        return True
    if isinstance(given, np.ndarray):
        # A column of paths is one of several, as is a batch.
        return given.ndim < 4 and given.dtype.kind in "buifc"
    if _is_tensor(given):
        return given.ndim < 4
    if isinstance(given, Mapping) or hasattr(given, "columns"):
        raise TypeError(f"{_named(given)} is no photograph, nor are its keys: give one of its columns")
    if not isinstance(given, Iterable):
        raise TypeError(f"{_named(given)} is no photograph; taken are {TAKEN}, or an iterable of these")
    return False


def check_kinds(given: object) -> None:
    """Refuses what is no photograph by its type, of several that are in memory: before the first is scored.

    Args:
        given: What :func:`is_one` tells to be several.

    Raises:
        TypeError: One of them is none; says which, and what is taken.
    """
    # Whatever else there is may make its photographs only when it is asked for them, or have them only once.
    pandas = sys.modules.get("pandas")
    if not isinstance(given, list | tuple | np.ndarray) and not (pandas and isinstance(given, pandas.Series)):
        return
    if isinstance(given, np.ndarray) and given.dtype.kind != "O":
        return
    for index, one in enumerate(given):
        try:
            _check_kind(one)
        except TypeError as error:
            raise at(index, error) from None


def at(index: int, error: TypeError | ValueError) -> TypeError | ValueError:
    """Gives an error that says which of several photographs it is about."""
    # By hand, since there are kinds of ValueError that are not made of words.
    kind = TypeError if isinstance(error, TypeError) else ValueError
    return kind(f"photograph {index}: {error}" if index else str(error))


def taken(given: object) -> str | bytes | Image.Image | Failure:
    """Takes a photograph.

    Args:
        given: The photograph, or why there is none.

    Returns:
        An absolute path or a URL; the content of a file; an image, which is the given one or shares no memory with it;
        or why there is none.

    Raises:
        TypeError: It is none; says what is taken.
        ValueError: It is an array or tensor of a shape, type or range that no photograph has.
    """
    _check_kind(given)
    if isinstance(given, str | os.PathLike):
        place = os.fsdecode(given)
        # It would be the working directory.
        return absolute(place) if place else Failure(Status.MISSING, "the path is empty")
    if isinstance(given, bytes | bytearray | memoryview):
        return bytes(given)
    if isinstance(given, Image.Image | Failure):
        return given
    if hasattr(given, "read"):
        content = given.read()
        if not isinstance(content, bytes):
            raise TypeError(f"{_named(given)} gives no bytes; open the file with mode 'rb'")
        return content
    if isinstance(given, np.ndarray):
        return image_from_array(given)
    assert _is_tensor(given)
    return image_from_array(_channels_last(given))


def _check_kind(given: object) -> None:
    if isinstance(given, io.TextIOBase):
        raise TypeError(f"{_named(given)} gives no bytes; open the file with mode 'rb'")
    if not (isinstance(given, _KINDS) or hasattr(given, "read") or _is_tensor(given)):
        raise TypeError(f"{_named(given)} is no photograph; taken are {TAKEN}")


def _named(given: object) -> str:
    kind = type(given)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return "None" if given is None else f"a value of type {name}"


def _is_tensor(given: object) -> "TypeGuard[Tensor]":
    # Who has a tensor has PyTorch, which others need not wait for before their images are looked at.
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(given, torch.Tensor)


def _channels_last(tensor: "Tensor") -> NDArray[Any]:
    """Gives the pixels of a (C, H, W) or (H, W) tensor as an array has them."""
    tensor = tensor.detach().cpu()
    if tensor.ndim == 3:
        if tensor.shape[0] not in (1, 3, 4):
            shape = " x ".join(map(str, tensor.shape))
            advice = "; with the channels last, give tensor.permute(2, 0, 1)" if tensor.shape[2] in (1, 3, 4) else ""
            raise ValueError(f"a tensor of {shape} is no image: expected is 3 x H x W{advice}")
        tensor = tensor.permute(1, 2, 0)
    pixels: NDArray[Any] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return pixels
