"""Put on PYTHONPATH, makes scoring processes fail once for every file that lies in the folder GREPR_CHAOS.

``start``: the model cannot be read. ``model``: the model raises at one of the first ten images of a process.
"""

import importlib.abc
import importlib.machinery
import itertools
import os
import random
import sys

FOLDER = os.environ.get("GREPR_CHAOS", "")


def _falls_to_me(fault):
    """Tells whether a fault is there; it is gone then."""
    try:
        os.remove(os.path.join(FOLDER, fault))
    except OSError:
        return False
    return True


def _harm_bundles(module):
    load = module.load_bundle

    def load_bundle(*arguments, **options):
        if _falls_to_me("start"):
            raise OSError("status 503: the model cannot be read")
        return load(*arguments, **options)

    module.load_bundle = load_bundle


def _harm_scorer(module):
    encode = module.Scorer._encode
    before = itertools.count(-random.randrange(10))

    def encode_or_raise(self, photos):
        if next(before) >= 0 and _falls_to_me("model"):
            raise RuntimeError("the model fails")
        return encode(self, photos)

    module.Scorer._encode = encode_or_raise


_HARM = {"grepr_core.bundles.bundle": _harm_bundles, "grepr_core.scoring.scorer": _harm_scorer}


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name not in _HARM:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def exec_and_harm(module):
            execute(module)
            _HARM[name](module)

        spec.loader.exec_module = exec_and_harm
        return spec


if FOLDER:
    sys.meta_path.insert(0, _Finder())
