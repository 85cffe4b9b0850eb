import os
import pickle
import threading
from pathlib import Path

import pytest

from grepr_core.storage import Folder


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "new" / "folder") if request.param == "local" else f"memory://{tmp_path.name}")


def test_reads_what_was_written(folder: Folder):
    assert folder.names() == []
    assert not folder.exists("a")
    folder.write("a", b"1")
    folder.write("a", b"2")
    folder.write_json("b.json", {"é": [1, None]})
    assert folder.read("a") == b"2"
    assert folder.read_json("b.json") == {"é": [1, None]}
    assert folder.names() == ["a", "b.json"]
    assert folder.exists("a")
    folder.delete("a")
    folder.delete("a")
    assert folder.names() == ["b.json"]


def test_pickles_by_address(folder: Folder):
    folder.write("a", b"1")
    assert pickle.loads(pickle.dumps(folder)).url == folder.url
    assert pickle.loads(pickle.dumps(folder)).read("a") == b"1"


def test_no_reader_sees_a_part(tmp_path: Path):
    folder, size = Folder(str(tmp_path)), 200_000
    folder.write("a", b"0" * size)
    stop = threading.Event()

    def write() -> None:
        digit = 0
        while not stop.is_set():
            digit = (digit + 1) % 10
            folder.write("a", str(digit).encode() * size)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(200):
            content = folder.read("a")
            assert len(content) == size
            assert len(set(content)) == 1
    finally:
        stop.set()
        writer.join()


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = Folder(str(tmp_path))
    folder.write("a", b"old")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        folder.write("a", b"new")
    assert folder.read("a") == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_file_that_is_written_bit_by_bit_appears_whole_or_not_at_all(folder: Folder):
    def write(content: bytes, error: Exception | None = None) -> None:
        with folder.create("some/file") as file:
            for i in range(len(content)):
                file.write(content[i : i + 1])
            assert not folder.exists("some/file") or folder.read("some/file") == b"before"
            if error is not None:
                raise error

    with pytest.raises(OSError, match="gone wrong"):
        write(b"never", OSError("gone wrong"))
    assert folder.child("some").names() == []
    write(b"before")
    with pytest.raises(OSError, match="gone wrong"):
        write(b"after", OSError("gone wrong"))
    assert folder.read("some/file") == b"before"
    write(b"after")
    assert folder.read("some/file") == b"after"
    assert folder.child("some").names() == ["file"]
