"""Put on PYTHONPATH, makes processes fail as an image or the environment says.

A decoder of images reads address 0, or never comes back. While the file exists that GREPR_TEST_HOLD names, no image is
decoded. With GREPR_TEST_CLOCK_SKEW every process has a clock of its own, hours off.
"""

import ctypes
import importlib.abc
import importlib.machinery
import os
import random
import sys
import time

_FAULTS = {
    b"KILL THE PROCESS": lambda: ctypes.string_at(0),
    b"HANG": lambda: time.sleep(1000),
}
_HOLD = os.environ.get("GREPR_TEST_HOLD", "")

_DECODING = "grepr_core.decoding.images"


def _harm(module):
    decode = module.decode

    def faulty_decode(encoded, **options):
        _FAULTS.get(encoded, int)()
        while os.path.exists(_HOLD):
            time.sleep(0.1)
        return decode(encoded, **options)

    module.decode = faulty_decode


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != _DECODING:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def exec_and_harm(module):
            execute(module)
            _harm(module)

        spec.loader.exec_module = exec_and_harm
        return spec


sys.meta_path.insert(0, _Finder())

if "GREPR_TEST_CLOCK_SKEW" in os.environ:
    _skew = random.uniform(-1e4, 1e4)
    # Not by way of the replaced function, which could not be pickled any more.
    time.time = lambda: time.clock_gettime(time.CLOCK_REALTIME) + _skew
