"""What ``grepr score`` makes of work that was done before: nights, repeated failures; and of work to come."""

import json
from pathlib import Path

import pytest

from pipelines.lake.manifest import find_manifest
from tests.lake import SMALL, check_invariants, make_lake, run_here, scores

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm_process")]


def test_a_night_costs_what_has_changed(tmp_path: Path):
    lake = make_lake(tmp_path / "photos", 60)
    (lake / "0007.jpg").write_text("not an image")
    code, _, err = run_here("score", lake, tmp_path / "monday", "--workers", "1", *SMALL)
    assert code == 0, err
    before = scores(tmp_path / "monday")
    (lake / "0003.jpg").unlink()
    (lake / "0004.jpg").write_bytes((lake / "0005.jpg").read_bytes())
    (lake / "new.jpg").write_bytes((lake / "0005.jpg").read_bytes())
    code, _, err = run_here(
        "score", lake, tmp_path / "tuesday", "--since", tmp_path / "monday", "--workers", "1", *SMALL
    )
    assert code == 0, err
    after = check_invariants(tmp_path / "tuesday")
    assert json.loads((tmp_path / "tuesday/run.json").read_text())["images_here"] == 2
    names = [Path(uri).name for uri in after["uri"].to_pylist()]
    assert set(names) == {path.name for path in lake.iterdir()}
    kept = [i for i, name in enumerate(names) if name not in ("0004.jpg", "new.jpg")]
    assert after.take(kept).equals(before.take([i for i in range(60) if i not in (3, 4)]))
    score_of = dict(zip(names, after["score"].to_pylist(), strict=True))
    assert score_of["0004.jpg"] == score_of["new.jpg"] == score_of["0005.jpg"]

    code, _, err = run_here("score", lake, tmp_path / "other", "--since", tmp_path / "monday", "--max-pixels", "5000")
    assert code == 2
    assert "--max-pixels: then" in err


def test_an_output_is_brought_up_to_date_in_place(tmp_path: Path):
    lake, out = make_lake(tmp_path / "photos", 40), tmp_path / "out"
    command = ("score", lake, out, "--features", "--shard-size", "8", "--workers", "1", *SMALL)
    assert run_here(*command)[0] == 0
    before = scores(out)
    (lake / "0003.jpg").unlink()
    (lake / "0004.jpg").write_bytes((lake / "0005.jpg").read_bytes())
    (lake / "new.jpg").write_bytes((lake / "0005.jpg").read_bytes())
    code, told, err = run_here(*command)
    assert (code, told[:10]) == (0, "40 images:")
    assert "finished already; the same command with --update takes in what is new or has changed" in err
    code, _, err = run_here(*command, "--update")
    assert code == 0, err
    after = check_invariants(out)
    names = [Path(uri).name for uri in after["uri"].to_pylist()]
    assert set(names) == {path.name for path in lake.iterdir()}
    assert json.loads((out / "run.json").read_text())["images_here"] == 2
    kept = [i for i, name in enumerate(names) if name not in ("0004.jpg", "new.jpg")]
    assert after.take(kept).equals(before.take([i for i in range(40) if i not in (3, 4)]))
    assert not (out / "update").exists()
    assert run_here(*command)[1].startswith("40 images: 40 scored")


def test_a_plan_is_made_from_a_sample_that_leaves_nothing_behind(tmp_path: Path):
    lake = make_lake(tmp_path / "photos", 100)
    code, out, err = run_here("score", lake, tmp_path / "out", "--shard-size", "8", "--plan", "--within", "1s", *SMALL)
    assert code == 0, err
    assert "images/s here" in out
    assert "of 100 images" in out
    assert "Within 1 second: " in out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["manifest"]
    assert find_manifest(str(tmp_path / "out/manifest")).images == 100


def test_only_passing_failures_are_retried(tmp_path: Path):
    lake = make_lake(tmp_path / "photos", 40)
    hidden = (lake / "0003.jpg").read_bytes()
    (lake / "0003.jpg").unlink()
    (lake / "0003.jpg").symlink_to("nowhere")
    (lake / "0004.jpg").write_text("not an image")
    code, out, _ = run_here("score", lake, tmp_path / "out", "--features", "--workers", "1", *SMALL)
    assert code == 0
    assert "1 missing" in out
    before = scores(tmp_path / "out")
    (lake / "0003.jpg").unlink()
    (lake / "0003.jpg").write_bytes(hidden)
    (lake / "0004.jpg").write_bytes(hidden)
    code, out, err = run_here("score", lake, tmp_path / "out", "--features", "--retry-failed", "--workers", "1", *SMALL)
    assert code == 0, err
    after = check_invariants(tmp_path / "out")
    statuses = after["status"].to_pylist()
    assert statuses[3] == "scored"
    assert statuses[4] == "unreadable"
    assert after.take([i for i in range(40) if i != 3]).equals(before.take([i for i in range(40) if i != 3]))
