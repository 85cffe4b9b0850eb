"""Put on PYTHONPATH, makes every process die while it decodes an image that says so, as a faulty decoder would."""

import ctypes

from PIL import Image

_open = Image.open


def _faulty_open(file, *args, **options):
    if file.getvalue() == b"KILL THE PROCESS":
        ctypes.string_at(0)  # reads address 0
    return _open(file, *args, **options)


Image.open = _faulty_open
