import gc
import os
import threading
import time
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from grepr_core.decoding.images import Failure, Limits
from pipelines.lake.fetch import Fetcher
from pipelines.lake.image_reader import Fetched, ImageReader
from pipelines.lake.sources import Entry, Listing

LIMITS = Limits(max_bytes=1000)


def contents(fetched: Iterable[Fetched]) -> list[bytes | Failure]:
    return [content for content, _ in fetched]


def statuses(fetched: Iterable[Fetched]) -> list[str]:
    return [content.status if isinstance(content, Failure) else "read" for content in contents(fetched)]


def test_contents_come_in_order_whatever_the_file_system(tmp_path: Path):
    fs = fsspec.filesystem("memory")
    images: list[Entry] = []
    for i in range(100):
        content = str(i).encode()
        if i % 2:
            (tmp_path / f"{i}.jpg").write_bytes(content)
            images.append(Entry(str(tmp_path / f"{i}.jpg"), len(content)))
        else:
            fs.pipe_file(f"/fetch/{i}.jpg", content)
            images.append(Entry(f"memory://fetch/{i}.jpg"))
    fetched = Fetcher(limits=LIMITS, timeout=10).read(images)
    assert contents(fetched) == [str(i).encode() for i in range(100)]


def test_every_failure_is_a_value(tmp_path: Path):
    (tmp_path / "good.jpg").write_bytes(b"x")
    (tmp_path / "big.jpg").write_bytes(b"x" * 1001)
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    names = ["good.jpg", "nowhere.jpg", "big.jpg", "folder.jpg", "pipe.jpg", "good.jpg"]
    images = [Entry(str(tmp_path / name)) for name in names]
    images += [Entry("memory://nowhere.jpg", 5), Entry("nonsense://x.jpg")]
    # A size without an ETag may be a column of the user's own.
    images += [Entry(str(tmp_path / "good.jpg"), 5000, "etag"), Entry(str(tmp_path / "good.jpg"), 5000)]
    assert statuses(Fetcher(limits=LIMITS, timeout=10).read(images)) == [
        *("read", "missing", "too_large", "unreadable", "unreadable", "read"),
        *("missing", "unreadable", "too_large", "read"),
    ]


def test_no_room_is_made_for_the_largest_file_there_may_be(tmp_path: Path):
    (tmp_path / "small.jpg").write_bytes(b"x" * 1000)
    reader = ImageReader(limits=Limits(), timeout=10)
    tracemalloc.start()
    try:
        assert len(reader.read(Entry(str(tmp_path / "small.jpg"))).content) == 1000  # type: ignore[arg-type]
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="no file of unknown size")
def test_a_file_of_unknown_size_is_read_to_its_end():
    version = Path("/proc/version")
    assert version.stat().st_size == 0
    assert ImageReader(limits=Limits(), timeout=10).read(Entry(str(version))).content == version.read_bytes()


def test_a_file_changed_since_it_was_listed_has_another_etag(tmp_path: Path):
    for name in ("same.jpg", "changed.jpg"):
        (tmp_path / name).write_bytes(b"x")
    changed, same = Listing(str(tmp_path))
    (tmp_path / "changed.jpg").write_bytes(b"longer")
    fetched = list(Fetcher(limits=LIMITS, timeout=10).read([changed, same]))
    assert contents(fetched) == [b"longer", b"x"]
    assert fetched[1].etag == same.etag
    assert fetched[0].etag not in (None, changed.etag)


def test_a_member_is_the_bytes_at_its_place(tmp_path: Path):
    (tmp_path / "a.tar").write_bytes(b"0123456789" * 200)
    fsspec.filesystem("memory").pipe_file("/fetch/a.tar", b"0123456789")
    (tar,) = Listing(str(tmp_path), all_files=True)
    images = [
        Entry(tar.uri, 3, tar.etag, "first", 2),
        Entry("memory://fetch/a.tar", 4, None, "second", 5),
        Entry(tar.uri, 3, tar.etag, "beyond the end", 1999),
        Entry(tar.uri, 3, "an ETag of old", "moved", 2),
    ]
    fetched = contents(Fetcher(limits=LIMITS, timeout=10).read(images))
    assert fetched[:2] == [b"234", b"5678"]
    assert [failure.error for failure in fetched[2:] if isinstance(failure, Failure)] == [
        "its container ends before it does",
        "its container changed after it was listed; list it anew",
    ]


class _Stalling(MemoryFileSystem):
    protocol = "stalling"
    release = threading.Event()

    def cat_file(self, path: str, **options: object) -> bytes:
        if "stalled" in path:
            self.release.wait(20)
        return b"x"


@pytest.fixture
def stalling():
    fsspec.register_implementation("stalling", _Stalling, clobber=True)
    _Stalling.release.clear()
    yield
    _Stalling.release.set()


def test_a_read_that_stalls_costs_one_image(stalling: None):
    images = [Entry("stalling://a.jpg", 1), Entry("stalling://stalled.jpg", 1)]
    images += [Entry("stalling://b.jpg", 1)] * 20
    began = time.monotonic()
    fetched = Fetcher(limits=LIMITS, timeout=0.5).read(images)
    assert statuses(fetched) == ["read", "timeout", *["read"] * 20]
    assert time.monotonic() - began < 10  # far less than the stall: the others did not wait for it


def test_reads_that_never_end_hold_no_thread_of_others(stalling: None):
    images = [Entry(f"stalling://stalled{i}.jpg", 1) for i in range(6)] + [Entry("stalling://b.jpg", 1)] * 4
    fetcher = Fetcher(limits=LIMITS, timeout=0.5, threads=2, ahead=4)
    before = threading.active_count()
    assert statuses(fetcher.read(images)) == ["timeout"] * 6 + ["read"] * 4
    _Stalling.release.set()
    wait_until(lambda: threading.active_count() <= before)  # those that were replaced end when their read does
    assert statuses(fetcher.read(images)) == ["read"] * 10


class _Gated(MemoryFileSystem):
    """Notes what is read, and holds it back until it is let go."""

    protocol = "gated"
    gate = threading.Event()
    began: list[str]
    content: bytes

    def cat_file(self, path: str, **options: object) -> bytes:
        self.began.append(path.rpartition("/")[2])
        self.gate.wait(20)
        return self.content


@pytest.fixture
def gated():
    fsspec.register_implementation("gated", _Gated, clobber=True)
    _Gated.gate.clear()
    _Gated.began, _Gated.content = [], b"x"
    yield _Gated
    _Gated.gate.set()


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(("bounds", "most"), [({"ahead": 8}, 8), ({"ahead": 50, "ahead_bytes": 100}, 2)])
def test_reading_ahead_begins_at_once_and_is_bounded(gated: type[_Gated], bounds: dict[str, int], most: int):
    fetcher = Fetcher(limits=LIMITS, timeout=20, **bounds)
    fetched = fetcher.read([Entry(f"gated://{i}", 40) for i in range(50)])
    wait_until(lambda: len(gated.began) == most)  # before anything is asked of the iterator
    time.sleep(0.2)  # for more than it should to have begun
    assert len(gated.began) == most
    gated.gate.set()
    assert statuses(fetched) == ["read"] * 50


def test_images_of_unknown_size_count_as_much_as_they_turn_out_to_have(gated: type[_Gated]):
    gated.gate.set()
    gated.content = b"x" * 1000
    reading = Fetcher(limits=LIMITS, timeout=20, ahead=64, ahead_bytes=10_500).read()
    for i in range(300):
        reading.add(Entry(f"gated://{i}"))
    assert statuses(next(reading) for _ in range(200)) == ["read"] * 200
    assert reading.is_behind
    wait_until(lambda: len(gated.began) == 200 + 10)
    time.sleep(0.2)  # for more than it should to have begun
    assert len(gated.began) == 200 + 10
    assert statuses(reading) == ["read"] * 100
    assert not reading.is_behind


def test_two_readings_share_the_threads(gated: type[_Gated]):
    fetcher = Fetcher(limits=LIMITS, timeout=20, threads=1, ahead=3)
    first = fetcher.read([Entry(f"gated://first{i}", 1) for i in range(10)])
    second = fetcher.read([Entry(f"gated://second{i}", 1) for i in range(10)])
    gated.gate.set()
    assert statuses([next(first)]) == ["read"]
    assert len(list(second)) == 10
    # The first has had its turn for what it asked for, and no more, though nobody has taken it yet.
    assert gated.began.index("second0") <= 4
    assert len(list(first)) == 9


@pytest.mark.parametrize("how", ["closed", "dropped"])
def test_an_abandoned_reading_gives_back_what_it_asked_for(gated: type[_Gated], how: str):
    fetcher = Fetcher(limits=LIMITS, timeout=20, threads=1, ahead=10)
    abandoned = fetcher.read([Entry(f"gated://abandoned{i}", 1) for i in range(10)])
    wait_until(lambda: gated.began)
    if how == "closed":
        abandoned.close()  # type: ignore[attr-defined]
    del abandoned
    gc.collect()
    gated.gate.set()
    assert statuses(fetcher.read([Entry("gated://b", 1)])) == ["read"]
    assert gated.began == ["abandoned0", "b"]


def test_threads_end_with_their_fetcher():
    before = set(threading.enumerate())
    fetcher = Fetcher(limits=LIMITS, timeout=1, threads=5)
    own = {thread for thread in threading.enumerate() if thread.name == "fetch"} - before
    assert len(own) == 5
    del fetcher
    gc.collect()
    wait_until(lambda: not any(thread.is_alive() for thread in own))
