import os
import threading
import time
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from grepr_core.images import Failure, Limits
from pipelines.fetch import Fetcher

LIMITS = Limits(max_bytes=1000)


def test_contents_come_in_order_whatever_the_file_system(tmp_path: Path):
    fs = fsspec.filesystem("memory")
    images: list[tuple[str, int | None]] = []
    for i in range(100):
        content = str(i).encode()
        if i % 2:
            (tmp_path / f"{i}.jpg").write_bytes(content)
            images.append((str(tmp_path / f"{i}.jpg"), len(content)))
        else:
            fs.pipe_file(f"/fetch/{i}.jpg", content)
            images.append((f"memory://fetch/{i}.jpg", None))
    contents = list(Fetcher(limits=LIMITS, timeout=10).read(images))
    assert contents == [str(i).encode() for i in range(100)]


def status(contents: list[bytes | Failure]) -> list[str]:
    return [content.status if isinstance(content, Failure) else "read" for content in contents]


def test_every_failure_is_a_value(tmp_path: Path):
    (tmp_path / "good.jpg").write_bytes(b"x")
    (tmp_path / "big.jpg").write_bytes(b"x" * 1001)
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    names = ["good.jpg", "nowhere.jpg", "big.jpg", "folder.jpg", "pipe.jpg", "good.jpg"]
    images: list[tuple[str, int | None]] = [(str(tmp_path / name), None) for name in names]
    images += [("memory://nowhere.jpg", 5), ("nonsense://x.jpg", None), (str(tmp_path / "good.jpg"), 5000)]
    contents = list(Fetcher(limits=LIMITS, timeout=10).read(images))
    assert status(contents) == [
        *("read", "missing", "too_large", "unreadable", "unreadable", "read"),
        *("missing", "unreadable", "too_large"),
    ]


class _Stalling(MemoryFileSystem):
    protocol = "stalling"
    release = threading.Event()

    def cat_file(self, path: str, **options: object) -> bytes:
        if path.endswith("stalled.jpg"):
            self.release.wait(20)
        return b"x"


@pytest.fixture
def stalling():
    fsspec.register_implementation("stalling", _Stalling, clobber=True)
    _Stalling.release.clear()
    yield
    _Stalling.release.set()


def test_a_read_that_stalls_costs_one_image(stalling: None):
    images: list[tuple[str, int | None]] = [("stalling://a.jpg", 1), ("stalling://stalled.jpg", 1)]
    images += [("stalling://b.jpg", 1)] * 20
    began = time.monotonic()
    contents = list(Fetcher(limits=LIMITS, timeout=0.5).read(images))
    assert status(contents) == ["read", "timeout", *["read"] * 20]
    assert time.monotonic() - began < 10  # far less than the stall: the others did not wait for it


class _Counting(Fetcher):
    started = 0

    def _read_one(self, uri: str, size: int | None) -> bytes | Failure:
        self.started += 1
        return b"x"


@pytest.mark.parametrize(("bounds", "most"), [({"ahead": 8}, 8), ({"ahead": 50, "ahead_bytes": 100}, 2)])
def test_reading_ahead_is_bounded(bounds: dict[str, int], most: int):
    fetcher = _Counting(limits=LIMITS, timeout=5, threads=1, **bounds)
    contents = fetcher.read([("x", 40)] * 50)
    next(contents)
    time.sleep(0.2)  # for more than it should to have begun
    assert 1 <= fetcher.started <= most
    assert len(list(contents)) == 49
