import tracemalloc
from unittest import mock

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.options import MOST_BITS
from pipelines.scoring import near_copies
from pipelines.scoring.near_copies import find_near_copies, hash_numbers


def made_hashes(count: int, *, seed: int = 0) -> NDArray[np.uint64]:
    """Hashes of which half are others with up to ten bits changed, or none."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, count, np.uint64)
    for i in range(count // 2, count):
        flips = rng.choice(64, rng.integers(0, 11), replace=False).astype(np.uint64)
        hashes[i] = hashes[rng.integers(0, count // 8)] ^ np.bitwise_xor.reduce(np.uint64(1) << flips, initial=0)
    return rng.permutation(hashes)


def crowds(scenes: int, frames: int, spread: int, rng: np.random.Generator) -> NDArray[np.uint64]:
    """Frames of cameras that stand still, each with so many bits changed at most."""
    hashes = np.repeat(rng.integers(0, 2**64, scenes, np.uint64), frames)
    for _ in range(spread):
        hashes ^= np.where(
            rng.random(len(hashes)) < 0.7, np.uint64(1) << rng.integers(0, 64, len(hashes), np.uint64), 0
        )
    return rng.permutation(hashes)


def one_after_the_other(
    hashes: NDArray[np.uint64], bits: int, within: NDArray[np.uint64]
) -> tuple[list[int], list[int]]:
    """Goes through all, and compares each that is the first of its hash with all that are kept."""
    kept: list[int] = []
    of: list[int] = []
    distances: list[int] = []
    first: dict[tuple[int, int], int] = {}
    for i, what in enumerate(zip(hashes.tolist(), within.tolist(), strict=True)):
        if first.setdefault(what, i) < i:
            of.append(of[first[what]])
            distances.append(distances[first[what]])
            continue
        there = [j for j in kept if within[j] == within[i]]
        apart = np.bitwise_count(hashes[there] ^ hashes[i])
        if there and apart.min() <= bits:
            of.append(there[apart.argmin()])
            distances.append(int(apart.min()))
        else:
            kept.append(i)
            of.append(i)
            distances.append(0)
    return of, distances


@pytest.mark.parametrize("bits", [0, 1, 4, 6, MOST_BITS])
@pytest.mark.parametrize("equal", [0, 1, 2, 3])
@pytest.mark.parametrize("parts", [1, 3])
def test_every_way_finds_what_comparing_all_finds(bits: int, equal: int, parts: int):
    hashes = made_hashes(300)
    within = np.random.default_rng(1).integers(0, parts, 300).astype(np.uint64)
    with mock.patch.object(near_copies, "_plan", return_value=(bits + equal, equal)):
        found = find_near_copies(hashes, np.zeros(300, np.float32), bits=bits, within=within if parts > 1 else None)
    of, distances = one_after_the_other(hashes, bits, within)
    assert found.kept.tolist() == of
    assert found.distances.tolist() == distances
    assert found.copies.tolist() == [i for i in range(300) if of[i] != i]
    assert len(found.copies) >= 5


@pytest.mark.parametrize("bits", [1, 4, 5, 6, MOST_BITS])
@pytest.mark.parametrize("held", [0, 50, 1000])
@pytest.mark.parametrize("spread", [3, 6])
def test_crowds_are_grouped_by_few_pairs_as_by_all(bits: int, held: int, spread: int):
    rng = np.random.default_rng(2)
    frames = crowds(4, 150, spread, rng)
    within = rng.integers(0, 2, len(frames)).astype(np.uint64)
    with mock.patch.object(near_copies, "_HELD_PAIRS", held):
        found = find_near_copies(frames, np.zeros(len(frames), np.float32), bits=bits, within=within)
    of, distances = one_after_the_other(frames, bits, within)
    assert found.kept.tolist() == of
    assert found.distances.tolist() == distances


def test_pairs_of_a_crowd_are_not_all_held():
    # 18 million pairs, a gigabyte with what sorts them.
    frames = crowds(3, 6000, 3, np.random.default_rng(3))
    tracemalloc.start()
    found = find_near_copies(frames, np.zeros(len(frames), np.float32))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.copies) > 0.99 * len(frames)
    assert peak < 100 * 2**20


def test_the_way_is_chosen_by_the_number_of_photos():
    assert [near_copies._plan(count, 6)[1] for count in (10, 10**5, 10**6, 10**7, 10**9)] == [0, 1, 2, 3, 4]


def test_no_chain_makes_a_group():
    # Each differs from the next in 4 bits, the ends in 40.
    chain = np.array([(0xFFFF << 48) | ((1 << 4 * i) - 1) for i in range(11)], np.uint64)
    found = find_near_copies(chain, np.zeros(11, np.float32), bits=6)
    assert found.kept.tolist() == [0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10]
    assert found.distances.tolist() == [0, 4] * 5 + [0]
    # From the middle, what lies to both sides of it belongs to it.
    found = find_near_copies(chain[[5, 4, 6, 3, 7]], np.zeros(5, np.float32), bits=6)
    assert found.kept.tolist() == [0, 0, 0, 3, 4]


def test_a_copy_is_of_the_nearest_that_is_kept():
    base = 0xFFFF_FFFF_0000_0000
    hashes = np.array([base, base ^ 0b111_1111, base ^ 0b11_1111], np.uint64)
    found = find_near_copies(hashes, np.zeros(3, np.float32), bits=6)
    assert (found.kept.tolist(), found.distances.tolist()) == ([0, 1, 1], [0, 0, 1])


def test_plain_pictures_are_copies_only_where_their_scores_are_the_same():
    black, white, stripes = 0, 1 << 63, 0x8080_8080_0000_0000
    hashes = np.array([black, white, white, black, white, stripes, stripes ^ (1 << 55)], np.uint64)
    scores = np.array([0.3, 0.3, 0.25, 0.3, 0.25, 0.2, 0.2], np.float32)
    found = find_near_copies(hashes, scores)
    assert found.kept.tolist() == [0, 1, 2, 0, 2, 5, 6]


def test_a_crowd_of_hashes_does_not_take_the_time_of_all_its_pairs():
    rng = np.random.default_rng(0)
    # Equal but for 16 bits, of which up to three are set: all in the same runs whichever blocks are chosen.
    low = np.array([i for i in range(2**16) if i.bit_count() <= 3], np.uint64)
    crowd = (np.uint64(0xFFFF_FFFF << 32) | low)[rng.permutation(len(low))]
    with mock.patch.object(near_copies, "_MOST_COMPARED", 20), mock.patch.object(near_copies, "_plan") as plan:
        plan.return_value = (9, 3)
        found = find_near_copies(crowd, np.zeros(len(crowd), np.float32), bits=6)
    assert len(found.copies) > 0.9 * len(crowd)
    assert (np.bitwise_count(crowd ^ crowd[found.kept]) == found.distances).all()
    assert (found.distances <= 6).all()
    assert (found.kept[found.kept] == found.kept).all()


def test_nothing_comes_of_nothing():
    assert find_near_copies(np.empty(0, np.uint64), np.empty(0, np.float32)).kept.tolist() == []


def test_hashes_are_read():
    assert hash_numbers(["00000000000000ff", "8000000000000000"]).tolist() == [255, 1 << 63]
    assert hash_numbers([]).tolist() == []
