"""Pillow images whose header has been read by another library, which decodes the pixels once they are asked for."""

from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image


class LaterImage(Image.Image):
    """An image that Pillow does not decode, for code that does not care who does.

    Its size is known at once, so that limits are checked before any pixel is decoded.
    """

    def __init__(
        self,
        kind: str,
        size: tuple[int, int],
        info: Mapping[Any, Any],
        pixels: Callable[[], Image.Image],
    ) -> None:
        """Holds what the header says.

        Args:
            kind: The format, as Pillow names it.
            size: Width and height as ``pixels`` will give them.
            info: What else the header tells, such as ``icc_profile``.
            pixels: Decodes.
        """
        super().__init__()
        self.format = kind
        self._size = size
        self._mode = "RGB"
        self.info = dict(info)
        self._pixels: Callable[[], Image.Image] | None = pixels

    def load(self):  # type: ignore[no-untyped-def]  # noqa: ANN201 - Pillow keeps the type for itself
        """Decodes, the first time."""
        if self._pixels is not None:
            pixels, self._pixels = self._pixels, None
            decoded = pixels()
            decoded.load()
            self.im = decoded.im
            self._mode, self._size = decoded.mode, decoded.size
            self.palette = decoded.palette
        return super().load()
