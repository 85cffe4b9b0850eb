"""Every file of a folder full of bad and odd ones ends as one row with a score or a reason."""

import json
import os
import shutil
from pathlib import Path

import pytest

from pipelines.lake.sources import uri_to_path
from tests.lake import check_invariants, jpeg, photo, run_grepr
from tests.odd_files import odd_files

pytestmark = pytest.mark.slow

#: As root, permissions do not bind; without these capabilities they do.
UNPRIVILEGED = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []


def make_odd_lake(folder: Path) -> dict[bytes, str]:
    """Writes the table of odd files and what only a file system can do; gives the status expected of each path."""
    folder.mkdir()
    expected = {}
    for file in odd_files():
        (folder / file.name).write_bytes(file.content)
        expected[os.fsencode(folder / file.name)] = file.status
    good = jpeg(photo(0))

    def add(name: bytes, status: str) -> Path:
        path = os.fsencode(folder) + b"/" + name
        expected[path] = status
        return Path(os.fsdecode(path))

    add(b"not utf-8 \xff\xfe.jpg", "scored").write_bytes(good)
    add(b"loop.jpg", "unreadable").symlink_to("loop.jpg")
    add(b"broken link.jpg", "missing").symlink_to("nowhere")
    add(b"link.jpg", "scored").symlink_to("not utf-8 \udcff\udcfe.jpg")
    os.mkfifo(add(b"pipe.jpg", "unreadable"))
    if UNPRIVILEGED and not shutil.which(UNPRIVILEGED[0]):
        return expected
    forbidden = add(b"forbidden.jpg", "denied")
    forbidden.write_bytes(good)
    forbidden.chmod(0)
    closed = add(b"closed folder", "denied")
    closed.mkdir()
    (closed / "inside.jpg").write_bytes(good)
    closed.chmod(0)
    below = folder / "folder.jpg"
    below.mkdir()
    (below / "inside.jpg").write_bytes(good)
    (below / "up").symlink_to(folder)
    expected[os.fsencode(below / "inside.jpg")] = "scored"
    return expected


def test_every_input_is_a_row_on_a_machine_with_one_core(tmp_path: Path):
    expected = make_odd_lake(tmp_path / "lake")
    prefix = ["taskset", "-c", "0", *UNPRIVILEGED]
    code, out, err = run_grepr("score", tmp_path / "lake", tmp_path / "out", "--all-files", prefix=prefix)
    assert code == 3, err
    assert "more than --max-failed-fraction allows" in err
    assert f"{len(expected)} images" in out
    table = check_invariants(tmp_path / "out")
    found = {os.fsencode(uri_to_path(row["uri"])): row for row in table.to_pylist()}
    assert {path: row["status"] for path, row in found.items()} == expected
    for path, row in found.items():
        assert row["error"] is None or (row["error"].isprintable() and "0x" not in row["error"]), (path, row["error"])
        if row["status"] == "scored":
            assert -1 < row["score"] < 2
            assert 0.9 * 512**2 < row["scored_pixels"] < 1.1 * 512**2
    workers = json.loads((tmp_path / "out/run.json").read_text())["workers"]
    assert (workers["count"], workers["cpus"], workers["gpus"]) == (1, 1, 0)
