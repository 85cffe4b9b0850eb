"""JPEG decoding on the device that encodes, for what every decoder agrees on; the rest is left to Pillow.

Pixels differ a little from Pillow's: NVIDIA's decoder rounds the cosine transform and interpolates chroma in its own
way, and scaling goes from the full size instead of a reduced one.
"""

import warnings

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from grepr_core.decoding.images import MIRRORED, Limits, PlainJpeg, inspect_plain_jpeg
from grepr_core.decoding.transfer import DevicePhoto
from grepr_core.decoding.view import View

#: Larger images are left to Pillow, which decodes them at reduced size: in full they would take 15 bytes a pixel.
MAX_PIXELS = 32_000_000

# torchvision moves its decoders to a package of their own, which depends on FFmpeg.
warnings.filterwarnings("ignore", module=r"torchvision\.io", message=".*TorchCodec.*")


class DeviceDecoder:
    """Decodes JPEGs on a device. Safe to call from several threads.

    Args:
        device: Where to; a CUDA device, or the CPU, which serves tests alone.
        limits: What is left to Pillow to refuse.
        view: What is seen of an image, and how large.
    """

    def __init__(self, device: torch.device, *, limits: Limits, view: View) -> None:
        from torchvision import io

        self._io = io
        self._device = device
        self._limits = limits
        self._view = view
        on_gpu = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if on_gpu else None  # type: ignore[no-untyped-call]

    def decode(self, encoded: bytes) -> DevicePhoto | None:
        """Decodes an image.

        Args:
            encoded: Content of the file.

        Returns:
            The image; None if it has to be left to :func:`~grepr_core.decoding.images.decode`: for its kind, or
            because it is damaged, of which that tells the reason.
        """
        header = inspect_plain_jpeg(encoded, limits=self._limits, view=self._view)
        if header is None or header.width * header.height > MAX_PIXELS:
            return None
        content = torch.frombuffer(bytearray(encoded), dtype=torch.uint8)
        try:
            if self._stream is None:
                rgb, ready = self._pixels(content, header), None
            else:
                with torch.cuda.stream(self._stream):
                    rgb = self._pixels(content, header)
                    ready = self._stream.record_event()
        except RuntimeError:  # The decoder's only kind of exception, also when memory runs out on the device.
            return None
        height, width = _turned(header)
        return DevicePhoto(rgb, width, height, ready)

    @torch.inference_mode()
    def _pixels(self, content: Tensor, header: PlainJpeg) -> Tensor:
        pixels: Tensor = self._io.decode_jpeg(content, mode=self._io.ImageReadMode.RGB, device=self._device)
        width, height = header.seen
        if pixels.shape[1:] != (height, width):
            scaled = F.interpolate(pixels[None].float(), size=(height, width), mode="bicubic", antialias=True)[0]
            pixels = scaled.round_().clamp_(0, 255).byte()
        return _upright(pixels, header.orientation).permute(1, 2, 0).contiguous()


def _turned(header: PlainJpeg) -> tuple[int, int]:
    """Gives height and width of the upright image."""
    return (header.width, header.height) if header.orientation >= 5 else (header.height, header.width)


def _upright(pixels: Tensor, orientation: int) -> Tensor:
    """Undoes an EXIF orientation, of (C, H, W) pixels."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 2)
    axes = [axis + 1 for axis in MIRRORED.get(orientation, ())]
    return pixels.flip(axes) if axes else pixels
