"""JPEG 2000: which channel is which, where the file says so."""

import io
import struct

from PIL import Image

from grepr_core.decoding.boxes import find
from grepr_core.decoding.later_image import LaterImage

_COLOUR, _OPACITY, _PREMULTIPLIED = 0, 1, 2


def open_jpeg2000(encoded: bytes) -> Image.Image:
    """Reads the header of a JPEG 2000, of which Pillow takes the channels in the order of the file."""
    image = Image.open(io.BytesIO(encoded), formats=("JPEG2000",))
    definitions = _channel_definitions(encoded)
    bands = image.getbands()
    if not definitions or image.mode not in ("L", "LA", "RGB", "RGBA", "CMYK") or len(bands) != len(definitions):
        return image
    colours = sorted((which, channel) for channel, kind, which in definitions if kind == _COLOUR and which)
    alphas = [(channel, kind) for channel, kind, _ in definitions if kind in (_OPACITY, _PREMULTIPLIED)]
    mode = {1: "L", 3: "RGB", 4: "CMYK"}.get(len(colours))
    order = [channel for _, channel in colours]
    if mode is None or (mode == "CMYK") != (image.mode == "CMYK") or len(bands) <= max(row[0] for row in definitions):
        return image
    if alphas and mode != "CMYK":
        channel, kind = alphas[0]
        order.append(channel)
        mode += "A" if kind == _OPACITY else "a"
    if mode == image.mode and order == list(range(len(bands))):
        return image
    wanted = mode

    def pixels() -> Image.Image:
        channels = image.split()
        return Image.merge(wanted, [channels[channel] for channel in order])

    return LaterImage("JPEG2000", image.size, image.info, pixels)


def _channel_definitions(encoded: bytes) -> list[tuple[int, int, int]]:
    """Gives channel, kind and which colour it is, from 1, of all channels; nothing where the file does not say."""
    box = find(encoded, b"jp2h", b"cdef")
    if box is None or box.end > len(encoded) or box.end - box.body < 2:
        return []
    (count,) = struct.unpack_from(">H", encoded, box.body)
    if box.end - box.body < 2 + 6 * count:
        return []
    found = [struct.unpack_from(">HHH", encoded, box.body + 2 + 6 * index) for index in range(count)]
    return [(channel, kind, which) for channel, kind, which in found]
