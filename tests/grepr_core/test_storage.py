import os
import pickle
import threading
from pathlib import Path

import pytest

from grepr_core.storage import Folder, absolute, is_local


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


@pytest.mark.parametrize("begin", ["file:", "file://", "file://localhost", "FILE://", "File:", "FILE://LOCALHOST"])
def test_every_spelling_of_a_file_url_is_the_path(tmp_path: Path, begin: str):
    (tmp_path / "my dir").mkdir()
    assert absolute(f"{begin}{tmp_path}/my%20dir") == absolute(f"{begin}{tmp_path}/my dir") == f"{tmp_path}/my dir"
    assert is_local(f"{begin}{tmp_path}")
    folder = Folder(f"{begin}{tmp_path}/my%20dir")
    folder.write("a", b"1")
    assert (tmp_path / "my dir/a").read_bytes() == b"1"


def test_only_what_is_no_url_may_begin_with_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert absolute("~/Pictures") == "/home/me/Pictures"
    assert absolute("./~tilde.jpg") == absolute("~tilde.jpg") == f"{tmp_path}/~tilde.jpg"  # there is no such user
    assert absolute("./~") == f"{tmp_path}/~"
    assert absolute("//lake//a") == "/lake/a"
    assert absolute("file:///100%") == "/100%"
    assert absolute("S3://Bucket/a%20b") == "s3://Bucket/a%20b"


def test_a_record_tells_paths_that_are_not_utf8(folder: Folder):
    folder.write_json("a.json", {"path": "é\udcff"})
    assert folder.read_json("a.json") == {"path": "é\udcff"}
