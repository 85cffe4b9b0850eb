"""Scaling of decoded images."""

import numpy as np
from numpy.typing import NDArray


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
