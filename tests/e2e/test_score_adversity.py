"""The command ``grepr score`` on images that harm it, on files that go away, and on machines unlike this one."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.e2e.test_score import FAULTS, wait_for_shards
from tests.lake import check_invariants, make_lake, run_grepr, run_here

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_images_that_kill_or_keep_the_process_cost_a_row_each(tmp_path: Path):
    lake = make_lake(tmp_path / "photos", 24)
    expected = {
        "0003.jpg": (b"KILL THE PROCESS", "crashed"),
        "0011.jpg": (b"HANG", "timeout"),
    }
    for name, (content, _) in expected.items():
        (lake / name).write_bytes(content)
    options = ("--hang-timeout", "5", "--workers", "1", "--max-failed-fraction", "1")
    code, _, err = run_grepr("score", lake, tmp_path / "out", *options, env={"PYTHONPATH": str(FAULTS)})
    assert code == 0, err
    table = check_invariants(tmp_path / "out")
    statuses = dict(zip([Path(uri).name for uri in table["uri"].to_pylist()], table["status"].to_pylist(), strict=True))
    assert {name: found for name, found in statuses.items() if found != "scored"} == {
        name: status for name, (_, status) in expected.items()
    }


@pytest.mark.usefixtures("warm_process")
def test_files_deleted_while_scoring_cost_their_own_rows(tmp_path: Path):
    lake = make_lake(tmp_path / "photos", 400)

    def delete_some() -> None:
        wait_for_shards(tmp_path / "out", 1)
        for i in range(300, 400):
            (lake / f"{i:04d}.jpg").unlink()

    options = ("--shard-size", "8", "--max-failed-fraction", "1", "--workers", "1")
    with ThreadPoolExecutor(1) as pool:
        deleted = pool.submit(delete_some)
        code, _, err = run_here("score", lake, tmp_path / "out", *options)
        deleted.result()
    assert code == 0, err
    statuses = check_invariants(tmp_path / "out")["status"].to_pylist()
    assert statuses[:300] == ["scored"] * 300
    assert statuses.count("missing") > 50
    assert set(statuses) == {"scored", "missing"}


def test_a_machine_with_one_core(tmp_path: Path):
    lake = make_lake(tmp_path / "photos", 20)
    code, _, err = run_grepr("score", lake, tmp_path / "out", prefix=["taskset", "-c", "0"])
    assert code == 0, err
    check_invariants(tmp_path / "out")
    workers = json.loads((tmp_path / "out/run.json").read_text())["workers"]
    assert (workers["count"], workers["cpus"], workers["gpus"]) == (1, 1, 0)


def test_a_machine_with_more_cores_than_this(tmp_path: Path):
    """More as far as Ray knows; short of memory for as many processes, each gets several threads."""
    lake = make_lake(tmp_path / "photos", 40)
    program = f"""
import pipelines.running.local_ray
pipelines.running.local_ray.available_cores = lambda: 3
from jobs.cli import main
main(["score", {str(lake)!r}, {str(tmp_path / "out")!r}, "--shard-size", "2"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    check_invariants(tmp_path / "out")
    workers = json.loads((tmp_path / "out/run.json").read_text())["workers"]
    assert workers["count"] > 2 or psutil.virtual_memory().total < 8 * 2**30
    assert workers["count"] * workers["cpus"] <= 3
