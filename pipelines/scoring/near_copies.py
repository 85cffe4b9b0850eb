"""Near-copies among scored photographs: bursts, crops, re-encodings, resizes, by their perceptual hashes.

Of each group one photograph is kept, the first in a given order, which is that of the scores. Going through them in
that order, a photograph is kept unless a kept one lies within so many bits of it; else it is a copy of the kept one
that is nearest. So every copy lies within that many bits of the one it is a copy of, and no chain of small differences
makes one group of pictures that are not alike. Those of the same hash go together: the first stands for all of them.

Which pairs are near is found without comparing all: 63 bits, in blocks, of which so few can hold a difference that some
number of them are equal. For every choice of that many blocks, hashes that are equal there are sorted next to each
other and compared.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.options import NEAR_BITS

#: Where a picture has no more bits set than these, its hash tells little of it: one of a single colour has 0 or 1, one
#: that changes along one side only 8, and any other half of all.
PLAIN_BITS = 8
#: Of 64 bits the first is the mean brightness, which is set in nearly all hashes.
_VARIED = 63
#: Of hashes that are equal in the blocks looked at, the first ones, at least so many, are compared with all of them. Of
#: a dense crowd some pairs are so passed over, and both photographs kept, rather than hours be spent on it.
_MOST_COMPARED = 1_000
#: Time to sort a hash, in times of comparing two.
_SORTING = 40
#: Odd, with bits all over, as Knuth has it for multiplicative hashing.
_MIXER = np.uint64(0x9E3779B97F4A7C15)
_UPPER = np.uint64(0xFFFFFFFF00000000)
#: Pairs that are Python's numbers at a time.
_AT_ONCE = 100_000


@dataclass(frozen=True, eq=False)
class NearCopies:
    """What becomes of N photographs in order of preference.

    Attributes:
        kept: (N,) int64, which of them each is a copy of; itself where it is kept.
        distances: (N,) uint8, in how many bits it differs from that one.
    """

    kept: NDArray[np.int64]
    distances: NDArray[np.uint8]

    @property
    def copies(self) -> NDArray[np.int64]:
        """(M,) int64, which of them are copies, ascending."""
        return np.flatnonzero(self.kept != np.arange(len(self.kept)))


def hash_numbers(phashes: Sequence[str]) -> NDArray[np.uint64]:
    """Gives hashes, 16 hexadecimal digits each, as numbers."""
    return np.frombuffer(bytes.fromhex("".join(phashes)), ">u8").astype(np.uint64)


def find_near_copies(
    hashes: NDArray[np.uint64],
    scores: NDArray[np.float32],
    *,
    bits: int = NEAR_BITS,
    within: NDArray[np.uint64] | None = None,
) -> NearCopies:
    """Groups photographs.

    10 million take 70 seconds of CPU time, and 630 MB beside what is given (``python -m benchmarks.filter``).

    Args:
        hashes: (N,) uint64, the best photograph first.
        scores: (N,) float32. A plain picture is a copy of those alone that have its hash and its score.
        bits: In how many bits near-copies may differ, 0 to :data:`pipelines.options.MOST_BITS`.
        within: (N,) uint64; those of different values are no copies of each other. By default all may be.

    Returns:
        What each is a copy of.
    """
    kept = np.arange(len(hashes))
    distances = np.zeros(len(hashes), np.uint8)
    parts = [] if within is None else [within]
    is_plain = np.bitwise_count(hashes) <= PLAIN_BITS
    plain, others = np.flatnonzero(is_plain), np.flatnonzero(~is_plain)
    of_scores = scores[plain].view(np.uint32).astype(np.uint64)
    kept[plain] = plain[_first_equal(hashes[plain], of_scores, *(part[plain] for part in parts))]
    first = _first_equal(hashes[others], *(part[others] for part in parts))
    # The first of each hash stands for all that have it.
    standing = np.flatnonzero(first == np.arange(len(first)))
    rows = others[standing]
    pairs = _near_pairs(hashes[rows], bits, None if within is None else within[rows])
    of_standing, near = _settle(len(rows), pairs)
    place = np.searchsorted(standing, first)
    kept[others] = rows[of_standing[place]]
    distances[others] = near[place]
    return NearCopies(kept, distances)


def _first_equal(*columns: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Gives for each row where the first one of the same values is."""
    order = np.lexsort(columns)  # stable
    new = np.ones(len(order), bool)
    new[1:] = np.any([column[order[1:]] != column[order[:-1]] for column in columns], axis=0)
    first = np.empty(len(order), np.int64)
    first[order] = order[np.flatnonzero(new)[np.cumsum(new) - 1]]
    return first


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Pairs of hashes that are near.

    Attributes:
        first: (E,) int32, which comes first in the order of preference.
        second: (E,) int32, the other one.
        distances: (E,) uint8, the bits that differ.
    """

    first: NDArray[np.int32]
    second: NDArray[np.int32]
    distances: NDArray[np.uint8]


def _settle(count: int, pairs: _Pairs) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Goes through photographs in their order, and gives which one each is a copy of, and how near."""
    kept, distances = np.arange(count), np.zeros(count, np.uint8)
    is_copy = bytearray(count)
    order = np.lexsort((pairs.first, pairs.distances, pairs.second))
    for begin in range(0, len(order), _AT_ONCE):
        part = order[begin : begin + _AT_ONCE]
        columns = (pairs.first[part].tolist(), pairs.second[part].tolist(), pairs.distances[part].tolist())
        for first, second, distance in zip(*columns, strict=True):
            # What became of the first one is known by now, since its own pairs came before.
            if not is_copy[first] and not is_copy[second]:
                is_copy[second] = True
                kept[second], distances[second] = first, distance
    return kept, distances


def _near_pairs(hashes: NDArray[np.uint64], bits: int, within: NDArray[np.uint64] | None) -> _Pairs:
    """Finds the pairs of different hashes that differ in so many bits at most."""
    found = [_Pairs(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.uint8))]
    if bits and len(hashes) > 1:
        blocks, equal = _plan(len(hashes), bits)
        masks = _masks(blocks)
        for chosen in itertools.combinations(range(blocks), equal):
            # A pair that is equal in more blocks is found again by other choices, and counts for the first of them.
            earlier = [masks[i] for i in range(max(chosen, default=0)) if i not in chosen]
            found += _search(hashes, sum(masks[i] for i in chosen), earlier, bits, within)
    return _Pairs(
        np.concatenate([pairs.first for pairs in found]),
        np.concatenate([pairs.second for pairs in found]),
        np.concatenate([pairs.distances for pairs in found]),
    )


def _plan(hashes: int, bits: int) -> tuple[int, int]:
    """Gives the number of blocks, and of those that are equal at least, which take the least time."""

    def time(plan: tuple[int, int]) -> float:
        blocks, equal = plan
        compared = hashes / 2 / 2 ** (_VARIED * equal / blocks)
        return math.comb(blocks, equal) * hashes * (_SORTING + compared)

    return min(((bits + equal, equal) for equal in range(5)), key=time)


def _masks(blocks: int) -> list[int]:
    """Gives the bits of each block; neighbouring frequencies, which often go together, are in different ones."""
    return [sum(1 << bit for bit in range(block, _VARIED, blocks)) for block in range(blocks)]


def _search(
    hashes: NDArray[np.uint64], mask: int, earlier: Sequence[int], bits: int, within: NDArray[np.uint64] | None
) -> Iterator[_Pairs]:
    """Compares the hashes that are equal under a mask; gives the near pairs that differ under all earlier ones."""
    # Of the product the upper half tells all bits apart, or nearly: what is taken for equal is compared in vain.
    keys = (hashes & np.uint64(mask)) * _MIXER
    if within is not None:
        keys += within * _MIXER
    keys &= _UPPER
    keys |= np.arange(len(hashes), dtype=np.uint64)
    keys.sort()
    rows = (keys & ~_UPPER).astype(np.int32)
    keys &= _UPPER
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    ends = np.append(starts[1:], len(keys))
    del keys
    sorted_hashes = hashes[rows]
    usual = len(hashes) >> mask.bit_count()
    for _ in range(_MOST_COMPARED + 16 * usual):
        left = ends - starts > 1
        starts, ends = starts[left], ends[left]
        if not len(starts):
            return
        # The first hash of each run of equal ones, with all behind it in the run.
        behind = ends - starts - 1
        one = np.repeat(starts, behind)
        other = np.arange(len(one)) + np.repeat(ends - np.cumsum(behind), behind)
        differing = sorted_hashes[one] ^ sorted_hashes[other]
        distances = np.bitwise_count(differing)
        near = distances <= bits
        for each in earlier if near.any() else ():
            near &= differing & np.uint64(each) != 0
        if within is not None:
            near &= within[rows[one]] == within[rows[other]]
        if near.any():
            yield _Pairs(rows[one[near]], rows[other[near]], distances[near])
        starts = starts + 1
