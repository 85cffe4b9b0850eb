"""Small photographs for tests, with nothing of Ray."""

import io

import numpy as np
import skimage.data
from PIL import Image


def photo(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """A crop of a real photograph, another one for every seed."""
    rng = np.random.default_rng(seed)
    pixels = (skimage.data.astronaut, skimage.data.chelsea, skimage.data.coffee)[seed % 3]()
    width, height = size
    y = int(rng.integers(pixels.shape[0] - height + 1))
    x = int(rng.integers(pixels.shape[1] - width + 1))
    return Image.fromarray(pixels[y : y + height, x : x + width])


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
