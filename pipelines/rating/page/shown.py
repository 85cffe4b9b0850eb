"""What a browser is sent of a photo: itself, a copy of the size of a screen, or a picture that all browsers show."""

import io
import threading
from typing import NamedTuple

from PIL import Image

from grepr_core.decoding.images import Failure, Limits, decode, is_plain_jpeg
from grepr_core.decoding.view import AtMost

#: A browser's tab takes 4 bytes a pixel. The largest cameras of full frame have 61 million.
MOST_SHOWN_PIXELS = 64_000_000
#: A file up to this size is sent as it is, whatever it has of pixels: a copy would save nothing.
SMALL_BYTES = 2**20
#: Of a copy that is scaled down anyway: no loss that is seen beside what scaling takes away. Colours are kept whole.
COPY_QUALITY = 95
#: Photos that are decoded at a time, since each may take hundreds of megabytes.
_DECODING = threading.BoundedSemaphore(2)


class Shown(NamedTuple):
    """A picture for a browser.

    Attributes:
        content: The encoded picture.
        media_type: Of it.
        full_size: Width and height of the upright photo, in pixels, where the picture is a copy with fewer of them.
    """

    content: bytes
    media_type: str
    full_size: tuple[int, int] | None = None


def for_browser(encoded: bytes, limits: Limits, pixels: int = MOST_SHOWN_PIXELS) -> Shown | Failure:
    """Gives an image as every browser shows it alike, and as the model sees it. It is never made larger.

    Args:
        encoded: The image.
        limits: What to refuse.
        pixels: That there is use for; more of them are scaled down, but in a plain JPEG of :data:`SMALL_BYTES` at most.

    Returns:
        The JPEG itself where it is a plain one and not too large; of all else the decoded picture, upright and in sRGB,
        as PNG without further loss, or as JPEG where it had to be scaled down. Or why it cannot be shown.
    """
    pixels = min(pixels, MOST_SHOWN_PIXELS)
    useful = MOST_SHOWN_PIXELS if len(encoded) <= SMALL_BYTES else pixels
    shown = Limits(limits.max_bytes, min(limits.max_pixels, useful), limits.min_side)
    if is_plain_jpeg(encoded, limits=shown):
        return Shown(encoded, "image/jpeg")
    with _DECODING:
        photo = decode(encoded, limits=limits, view=AtMost(pixels))
        if isinstance(photo, Failure):
            return photo
        buffer = io.BytesIO()
        if photo.rgb.shape[:2] == (photo.height, photo.width):
            Image.fromarray(photo.rgb).save(buffer, "PNG", compress_level=1)
            return Shown(buffer.getvalue(), "image/png")
        Image.fromarray(photo.rgb).save(buffer, "JPEG", quality=COPY_QUALITY, subsampling=0)
        return Shown(buffer.getvalue(), "image/jpeg", (photo.width, photo.height))
