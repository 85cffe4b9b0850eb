"""Put on PYTHONPATH, makes processes fail as an image or the environment says.

A decoder of images reads address 0, or never comes back. While the file exists that GREPR_TEST_HOLD names, no image is
decoded. With GREPR_TEST_CLOCK_SKEW every process has a clock of its own, hours off.
"""

import ctypes
import os
import random
import time

from PIL import Image

_FAULTS = {
    b"KILL THE PROCESS": lambda: ctypes.string_at(0),
    b"HANG": lambda: time.sleep(1000),
}
_HOLD = os.environ.get("GREPR_TEST_HOLD", "")

_open = Image.open


def _faulty_open(file, *args, **options):
    _FAULTS.get(file.getvalue(), int)()
    while os.path.exists(_HOLD):
        time.sleep(0.1)
    return _open(file, *args, **options)


Image.open = _faulty_open

if "GREPR_TEST_CLOCK_SKEW" in os.environ:
    _skew = random.uniform(-1e4, 1e4)
    # Not by way of the replaced function, which could not be pickled any more.
    time.time = lambda: time.clock_gettime(time.CLOCK_REALTIME) + _skew
