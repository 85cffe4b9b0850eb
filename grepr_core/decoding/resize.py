"""Scaling of decoded images."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: Scales (H, W, C) uint8 pixels to a width and a height.
Resize = Callable[[NDArray[np.uint8], int, int], NDArray[np.uint8]]


def resize(pixels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Scales an image up or down by bicubic interpolation, antialiased: Pillow's up to rounding, in less time.

    Args:
        pixels: (H, W, C) uint8.
        width: In pixels, of what it is scaled to.
        height: Likewise.

    Returns:
        (height, width, C) uint8, C-contiguous; ``pixels`` itself where it has that size.
    """
    if pixels.shape[:2] == (height, width):
        return np.ascontiguousarray(pixels)
    # Programs that name limits and reasons only must not wait for PyTorch.
    import torch  # noqa: PLC0415
    import torch.nn.functional as F  # noqa: N812, PLC0415

    # In memory this is what PyTorch calls channels-last, for which it has a kernel that works on bytes.
    image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
    scaled = F.interpolate(image, size=(height, width), mode="bicubic", antialias=True)
    return scaled[0].permute(1, 2, 0).contiguous().numpy()


def resize_with_pillow(pixels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Does what :func:`resize` does, where importing PyTorch would take longer than the scaling of a few photographs.

    Args:
        pixels: As there; grey, RGB or CMYK.
        width: As there.
        height: As there.

    Returns:
        As there.
    """
    if pixels.shape[:2] == (height, width):
        return np.ascontiguousarray(pixels)
    channels = pixels.shape[2]
    # Of four, Pillow would otherwise take the last one for transparency, and weigh the others by it.
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[channels]
    image = Image.frombuffer(mode, pixels.shape[1::-1], np.ascontiguousarray(pixels), "raw", mode, 0, 1)
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)).reshape(height, width, channels)
