"""Near-copies among scored photographs: bursts, crops, re-encodings, resizes, by their perceptual hashes.

Of each group one photograph is kept, the first in a given order, which is that of the scores. Going through them in
that order, a photograph is kept unless a kept one lies within so many bits of it; else it is a copy of the kept one
that is nearest. So every copy lies within that many bits of the one it is a copy of, and no chain of small differences
makes one group of pictures that are not alike. Those of the same hash go together: the first stands for all of them.

Which pairs are near is found without comparing all: 63 bits, in blocks, of which so few can hold a difference that some
number of them are equal. For every choice of that many blocks, hashes that are equal there are sorted next to each
other and compared. Where photographs crowd, such as the frames of a camera that stands still, there are too many pairs
to be held, and few that matter: those of a photograph that is kept. There the better half is gone through first, and
what lies near those kept of it does not make pairs any more.
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
#: very many that have much in common, and yet are not near, some pairs are so passed over, and both photographs kept,
#: rather than hours be spent on it.
_MOST_COMPARED = 1_000
#: Time to sort a hash, in times of comparing two.
_SORTING = 40
#: Odd, with bits all over, as Knuth has it for multiplicative hashing.
_MIXER = np.uint64(0x9E3779B97F4A7C15)
_UPPER = np.uint64(0xFFFFFFFF00000000)
#: Pairs held of N photographs are at most N and so many.
_HELD_PAIRS = 2**16
#: Pairs that are Python's numbers at a time.
_AT_ONCE = 100_000
#: Of a photograph that is no copy; what a copy is near to is its distance, and in the lower half which one it is of.
_NONE = np.uint64(2**64 - 1)
_LOWER = np.uint64(2**32 - 1)


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

    10 million take 90 seconds of CPU time, and 1.2 GB beside what is given (``python -m benchmarks.filter``).

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
    crowd = _Crowd(hashes[rows], bits, None if within is None else within[rows])
    crowd.settle(np.arange(len(rows)))
    of_standing, near = crowd.outcome()
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


class _Crowd:
    """Different hashes in the order of preference, and what is known of each."""

    def __init__(self, hashes: NDArray[np.uint64], bits: int, within: NDArray[np.uint64] | None) -> None:
        self._hashes = hashes
        self._bits = bits
        self._within = within
        self._nearest = np.full(len(hashes), _NONE)

    def outcome(self) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Gives which one each is a copy of, and how near, once all are settled."""
        copies = self._nearest != _NONE
        kept = np.where(copies, (self._nearest & _LOWER).astype(np.int64), np.arange(len(copies)))
        return kept, np.where(copies, self._nearest >> np.uint64(32), 0).astype(np.uint8)

    def settle(self, rows: NDArray[np.int64]) -> None:
        """Finds out what becomes of some, which have been compared with all that are kept before them.

        Args:
            rows: Which, ascending: those between the first and the last of them of which not all is known.
        """
        if self._bits == 0 or len(rows) < 2:
            return
        pairs = self._pairs(rows)
        if pairs is not None:
            self._go_through(rows, pairs)
            return
        half = len(rows) // 2
        first, rest = rows[:half], rows[half:]
        self.settle(first)
        self._compare(first[self._nearest[first] == _NONE], rest)
        self.settle(rest[self._may_change(rest)])

    def _pairs(self, rows: NDArray[np.int64]) -> _Pairs | None:
        """Gives the near pairs that may matter; None where they are too many."""
        found = [_Pairs(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.uint8))]
        room = _HELD_PAIRS + len(rows)
        reach, is_open = self._reach(rows), self._of(self._nearest, rows) == _NONE
        heads = None if is_open.all() else is_open
        for pairs in _near_pairs(self._of(self._hashes, rows), self._bits, self._part(rows), heads):
            near = pairs.distances <= reach[pairs.second]
            found.append(_Pairs(pairs.first[near], pairs.second[near], pairs.distances[near]))
            room -= len(found[-1].first)
            if room < 0:
                return None
        return _Pairs(
            np.concatenate([pairs.first for pairs in found]),
            np.concatenate([pairs.second for pairs in found]),
            np.concatenate([pairs.distances for pairs in found]),
        )

    def _go_through(self, rows: NDArray[np.int64], pairs: _Pairs) -> None:
        """Goes through photographs in their order."""
        is_copy = bytearray((self._nearest[rows] != _NONE).tobytes())
        settled = bytearray(len(rows))
        order = np.lexsort((pairs.first, pairs.distances, pairs.second))
        chosen = np.zeros(len(order), bool)
        for begin in range(0, len(order), _AT_ONCE):
            part = order[begin : begin + _AT_ONCE]
            both = zip(pairs.first[part].tolist(), pairs.second[part].tolist(), strict=True)
            for i, (first, second) in enumerate(both, begin):
                # What became of the first one is known by now, since its own pairs came before.
                if not is_copy[first] and not settled[second]:
                    is_copy[second] = settled[second] = True
                    chosen[i] = True
        of = order[chosen]
        self._bring_near(rows[pairs.first[of]], rows[pairs.second[of]], pairs.distances[of])

    def _compare(self, kept: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        """Compares some with those kept before them."""
        rows = rows[self._may_change(rows)]
        both = np.concatenate([kept, rows])
        for pairs in _near_pairs(self._hashes[both], self._bits, self._part(both), np.arange(len(both)) < len(kept)):
            self._bring_near(both[pairs.first], both[pairs.second], pairs.distances)

    def _bring_near(self, first: NDArray[np.int64], second: NDArray[np.int64], distances: NDArray[np.uint8]) -> None:
        """Makes some copies of others, unless they are of nearer ones; each is named once."""
        found = distances.astype(np.uint64) << np.uint64(32) | first.astype(np.uint64)
        self._nearest[second] = np.minimum(self._nearest[second], found)

    def _may_change(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tells which may have to be compared further.

        Two that are kept differ in more than the bits. So a copy that is nearer to one of them than to the middle
        between two has none that is nearer still.
        """
        nearest = self._nearest[rows]
        may_change: NDArray[np.bool_] = (nearest == _NONE) | (2 * (nearest >> np.uint64(32)) > self._bits + 1)
        return may_change

    def _reach(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Gives in how many bits each may differ from one that it becomes a copy of."""
        nearest = self._of(self._nearest, rows)
        return np.where(nearest == _NONE, self._bits, (nearest >> np.uint64(32)) - 1).astype(np.uint8)

    def _part(self, rows: NDArray[np.int64]) -> NDArray[np.uint64] | None:
        return None if self._within is None else self._of(self._within, rows)

    def _of(self, column: NDArray[np.uint64], rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Gives the values of some; of all, which may be very many, without a copy."""
        return column if len(rows) == len(column) else column[rows]


def _near_pairs(
    hashes: NDArray[np.uint64], bits: int, within: NDArray[np.uint64] | None, heads: NDArray[np.bool_] | None
) -> Iterator[_Pairs]:
    """Finds the pairs of different hashes that differ in so many bits at most, and of which the first is a head.

    Args:
        hashes: (N,) uint64.
        bits: 1 or more.
        within: (N,) uint64 or None, as for :func:`find_near_copies`.
        heads: (N,) bool; None where all are.

    Yields:
        Each pair once; of those given together no two have the same second one.
    """
    blocks, equal = _plan(len(hashes), bits)
    masks = _masks(blocks)
    for chosen in itertools.combinations(range(blocks), equal):
        # A pair that is equal in more blocks is found again by other choices, and counts for the first of them.
        earlier = [masks[i] for i in range(max(chosen, default=0)) if i not in chosen]
        yield from _search(hashes, sum(masks[i] for i in chosen), earlier, bits, within, heads)


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
    hashes: NDArray[np.uint64],
    mask: int,
    earlier: Sequence[int],
    bits: int,
    within: NDArray[np.uint64] | None,
    heads: NDArray[np.bool_] | None,
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
    several = ends - starts > 1
    starts, ends = starts[several], ends[several]
    if heads is None:
        places, following, last = None, starts, ends - 1
    else:
        places = np.flatnonzero(heads[rows])
        following, last = np.searchsorted(places, starts), np.searchsorted(places, ends - 1)
    usual = len(hashes) >> mask.bit_count()
    for _ in range(_MOST_COMPARED + 16 * usual):
        left = following < last
        following, last, ends = following[left], last[left], ends[left]
        if not len(ends):
            return
        # Of each run of equal ones the next head, with all behind it in the run.
        starts = following if places is None else places[following]
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
        following = following + 1
