"""Telling what has been seen before, in little memory."""

import hashlib
from collections.abc import Sequence

import numpy as np


class Seen:
    """Which keys have been seen, by 64-bit hashes: 8 bytes a key, 16 while they are merged.

    Two different keys are taken for one with a probability of n²/2⁶⁵: 3e-6 among 10 million.

    Attributes:
        repeated: How often a key came again.
    """

    def __init__(self) -> None:
        self.repeated = 0
        # Sorted, each at most half as long as the one before it: a key is merged about as often as there are arrays.
        self._known: list[np.ndarray] = []

    def first_time(self, keys: Sequence[str]) -> np.ndarray:
        """Adds keys.

        Args:
            keys: n of them.

        Returns:
            (n,) bool: which of them had not been there before.
        """
        digests = b"".join(hashlib.blake2b(key.encode(), digest_size=8).digest() for key in keys)
        hashes = np.frombuffer(digests, np.uint64)
        new = np.zeros(len(keys), bool)
        new[np.unique(hashes, return_index=True)[1]] = True
        for known in self._known:
            places = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
            new &= known[places] != hashes
        self.repeated += int((~new).sum())
        added = np.sort(hashes[new])
        while self._known and len(self._known[-1]) < 2 * len(added):
            added = np.sort(np.concatenate([self._known.pop(), added]))
        if len(added):
            self._known.append(added)
        return new
