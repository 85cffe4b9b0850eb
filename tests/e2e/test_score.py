"""The command ``grepr score`` as a user runs it; with a Ray of its own where it is started, stopped or disturbed."""

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.lake import SMALL, check_invariants, grepr, make_lake, run_grepr, run_here, scores
from tests.pipelines.scoring.in_this_process import in_this_process

FAULTS = Path(__file__).parent.parent / "faults"
PHOTOS = 160

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("warm_process")]


def wait_for_shards(output: Path, n: int, seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while len(list((output / "scores").glob("shard=*"))) < n:
        assert time.monotonic() < deadline, "no shard was finished in time"
        time.sleep(0.05)


def ray_processes(mark: str) -> set[int]:
    """Those that a command started in whose environment there was this mark."""
    found = set()
    for process in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(psutil.Error):
            if "raylet" in " ".join(process.info["cmdline"] or []) and mark in process.environ().values():
                found.add(process.pid)
    return found


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_lake(tmp_path_factory.mktemp("lake") / "photos", PHOTOS)


@pytest.fixture(scope="module")
def undisturbed(lake: Path) -> Path:
    output = lake.parent / "undisturbed"
    code, out, err = run_grepr("score", lake, output, "--shard-size", "8", *SMALL)
    assert code == 0, err
    assert f"{PHOTOS} images: {PHOTOS} scored" in out
    return output


def test_a_run_tells_what_it_did(undisturbed: Path):
    table = check_invariants(undisturbed)
    assert len(table) == PHOTOS
    record = json.loads((undisturbed / "run.json").read_text())
    assert record["counts"] == {"scored": PHOTOS}
    assert record["images_per_second"] > 0
    assert set(record["seconds"]) == {"read", "decode", "model", "write"}
    assert record["settings"]["model"] == "grepr-lite"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_stopped_in_the_middle_goes_on(
    lake: Path, undisturbed: Path, tmp_path: Path, how: signal.Signals
):
    command = ("score", lake, tmp_path / "out", "--shard-size", "8", *SMALL)
    hold = tmp_path / "hold"
    # Clocks that disagree do no harm.
    faults = {"PYTHONPATH": str(FAULTS), "GREPR_TEST_CLOCK_SKEW": "1", "GREPR_TEST_HOLD": str(hold)}
    process = grepr(*command, env={"MARK": str(tmp_path), **faults})
    wait_for_shards(tmp_path / "out", 3)
    hold.touch()  # however long it is looked at, it is in the middle
    assert ray_processes(str(tmp_path))
    if how == signal.SIGTERM:
        code, _, err = run_here(*command)
        assert code == 1
        assert f"process {process.pid} on" in err
    os.kill(process.pid, how)
    if how == signal.SIGTERM:
        time.sleep(0.5)
        os.kill(process.pid, signal.SIGINT)  # as of somebody who cannot wait for the end
    _, err = process.communicate(timeout=60)
    assert not (tmp_path / "out/run.json").exists()
    finished = len(scores(tmp_path / "out"))
    assert 0 < finished < PHOTOS
    if how == signal.SIGTERM:
        assert process.returncode == 130
        assert "the same command again" in err
        assert "Traceback" not in err
    deadline = time.monotonic() + 30
    while ray_processes(str(tmp_path)):
        assert time.monotonic() < deadline, "Ray outlived the command"
        time.sleep(0.2)

    code, _, err = run_here(*command)
    assert code == 0, err
    assert "images done already" in err
    assert check_invariants(tmp_path / "out").equals(scores(undisturbed))


def test_the_same_command_on_a_finished_run_does_nothing(lake: Path, undisturbed: Path):
    written = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")}
    code, out, err = run_here("score", lake, undisturbed, "--shard-size", "8", *SMALL)
    assert code == 0
    assert "finished already" in err
    assert f"{PHOTOS} scored" in out
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")} == written


def test_other_options_on_the_same_output_are_refused(lake: Path, undisturbed: Path):
    code, _, err = run_here("score", lake, undisturbed, "--max-pixels", "5000")
    assert code == 2
    assert "--max-pixels: then" in err
    assert "another output" in err


def test_one_worker_or_two_and_any_order_give_the_same_rows(lake: Path, undisturbed: Path, tmp_path: Path):
    code, _, err = run_here("score", lake, tmp_path / "out", "--shard-size", "8", *SMALL, "--workers", "1")
    assert code == 0, err
    assert scores(tmp_path / "out").equals(scores(undisturbed))


def test_a_full_disk_ends_with_one_line_and_damages_nothing(lake: Path, undisturbed: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", tmp_path / "out"], check=False)
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system takes root")
    try:
        with in_this_process():
            code, _, err = run_here("score", lake, tmp_path / "out", "--shard-size", "8", *SMALL, "--workers", "1")
        assert code == 1
        assert "No space left on device" in err
        assert "Traceback" not in err
        assert not (tmp_path / "out/run.json").exists()
        subprocess.run(["mount", "-o", "remount,size=50m", tmp_path / "out"], check=True)
        code, _, err = run_here("score", lake, tmp_path / "out", "--shard-size", "8", *SMALL, "--workers", "1")
        assert code == 0, err
        assert check_invariants(tmp_path / "out").equals(scores(undisturbed))
    finally:
        subprocess.run(["umount", "--lazy", tmp_path / "out"], check=True)


def test_an_output_that_cannot_be_written_to_is_named(lake: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", tmp_path / "out"], check=False)
    if mounted.returncode != 0:
        pytest.skip("mounting a read-only file system takes root")
    try:
        code, _, err = run_here("score", lake, tmp_path / "out")
        assert code == 2
        assert err == f"grepr: {tmp_path}/out: cannot be written to: Read-only file system\n"
    finally:
        subprocess.run(["umount", "--lazy", tmp_path / "out"], check=True)
