"""GIF: what lies around a first frame that is smaller than the canvas is transparent."""

import io

from PIL import Image

from grepr_core.decoding.later_image import LaterImage


def open_gif(encoded: bytes) -> Image.Image:
    """Reads the header of a GIF, of which Pillow fills the rest of the canvas with one of the colours."""
    image = Image.open(io.BytesIO(encoded), formats=("GIF",))
    frame = image.tile[0][1] if image.tile else None
    if frame is None or frame == (0, 0, *image.size):
        return image

    def pixels() -> Image.Image:
        part = image.crop(frame).convert("RGBA")
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(part.convert("RGB"), frame, mask=part.getchannel("A"))
        return canvas

    info = {key: value for key, value in image.info.items() if key != "transparency"}
    return LaterImage("GIF", image.size, info, pixels)
