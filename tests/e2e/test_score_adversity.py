"""The command ``grepr score`` on images that harm it, and on files that go away."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.test_score import FAULTS, wait_for_shards
from tests.lake import SMALL, check_invariants, make_lake, run_grepr, run_here

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_images_that_kill_or_keep_the_process_cost_a_row_each(tmp_path: Path):
    lake = make_lake(tmp_path / "photos", 24)
    expected = {
        "0003.jpg": (b"KILL THE PROCESS", "crashed"),
        "0011.jpg": (b"HANG", "timeout"),
    }
    for name, (content, _) in expected.items():
        (lake / name).write_bytes(content)
    options = ("--hang-timeout", "5", "--workers", "1", "--max-failed-fraction", "1", *SMALL)
    code, _, err = run_grepr("score", lake, tmp_path / "out", *options, env={"PYTHONPATH": str(FAULTS)})
    assert code == 0, err
    table = check_invariants(tmp_path / "out")
    statuses = dict(zip([Path(uri).name for uri in table["uri"].to_pylist()], table["status"].to_pylist(), strict=True))
    assert {name: found for name, found in statuses.items() if found != "scored"} == {
        name: status for name, (_, status) in expected.items()
    }


@pytest.mark.usefixtures("warm_process")
def test_files_deleted_while_scoring_cost_their_own_rows(tmp_path: Path):
    lake = make_lake(tmp_path / "photos", 160)

    def delete_some() -> None:
        wait_for_shards(tmp_path / "out", 1)
        for i in range(100, 160):
            (lake / f"{i:04d}.jpg").unlink()

    options = ("--shard-size", "8", "--max-failed-fraction", "1", "--workers", "1", *SMALL)
    with ThreadPoolExecutor(1) as pool:
        deleted = pool.submit(delete_some)
        code, _, err = run_here("score", lake, tmp_path / "out", *options)
        deleted.result()
    assert code == 0, err
    statuses = check_invariants(tmp_path / "out")["status"].to_pylist()
    assert statuses[:100] == ["scored"] * 100
    assert statuses.count("missing") > 30
    assert set(statuses) == {"scored", "missing"}
