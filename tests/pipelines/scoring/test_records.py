"""What ``grepr score`` and those that read its output make of records of other versions, and of broken ones."""

import json
from pathlib import Path

import pytest

from grepr_core.errors import UserError
from grepr_core.storage import Folder
from jobs.cli import parse
from pipelines.lake.manifest import find_manifest
from pipelines.options import ScoreOptions
from pipelines.running.shard_files import BrokenShard, shard_name
from pipelines.scoring.score import run
from pipelines.scoring.score_table import read_scores, read_summary
from tests.lake import run_here
from tests.pipelines.scoring.without_ray import without_ray
from tests.score_rows import random_rows, write_run


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    (tmp_path / "lake").mkdir()
    for i in range(12):
        (tmp_path / "lake" / f"{i}.jpg").write_text("x" * i)
    return tmp_path / "lake"


def score(lake: Path, output: Path, *options: str) -> None:
    command = parse(["score", str(lake), str(output), "--shard-size", "4", *options])
    assert isinstance(command, ScoreOptions)
    with without_ray():
        run(command)


def edit(path: Path, *without: str, **added: object) -> None:
    record = {name: value for name, value in json.loads(path.read_text()).items() if name not in without}
    path.write_text(json.dumps(record | added))


def test_an_output_of_another_version_is_gone_on_with(lake: Path, tmp_path: Path):
    out = tmp_path / "out"
    score(lake, out)
    for name in ("run.json", "settings.json", "manifest/manifest.json"):
        edit(out / name, of_a_later_version=[1])
    settings = json.loads((out / "settings.json").read_text())
    del settings["gpu_decode"]
    edit(out / "run.json", "changed", settings=settings)
    score(lake, out)  # is finished
    edit(out / "settings.json", "gpu_decode")
    record = json.loads((out / "manifest/manifest.json").read_text())
    edit(out / "manifest/manifest.json", files=[file | {"new": 1} for file in record["files"]])
    assert find_manifest(str(out / "manifest")).images == 12
    (out / "scores" / shard_name(0)).unlink()
    (out / "run.json").unlink()
    score(lake, out)  # is finished again
    score(lake, tmp_path / "later", "--since", str(out))
    assert len(read_scores(Folder(str(tmp_path / "later")))) == 12


@pytest.mark.parametrize("content", [b"", b'{"images": 3', b"{}"])
def test_a_broken_record_of_a_run_is_named(tmp_path: Path, content: bytes):
    write_run(tmp_path / "scores", random_rows(20))
    (tmp_path / "scores/run.json").write_bytes(content)
    for command in (
        ("score", tmp_path, tmp_path / "scores"),
        ("report", tmp_path / "scores", "--output", tmp_path / "report.html"),
    ):
        code, _, err = run_here(*command)
        assert code == 2
        assert f"{tmp_path}/scores/run.json: not " in err
        assert "delete it and run the command that wrote it again" in err


@pytest.mark.parametrize("name", ["settings.json", "manifest/manifest.json"])
def test_other_broken_records_are_named(lake: Path, tmp_path: Path, name: str):
    score(lake, tmp_path / "out")
    (tmp_path / "out/run.json").unlink()
    (tmp_path / "out" / name).write_text("{")
    with pytest.raises(UserError, match=f"{name}: not JSON"):
        score(lake, tmp_path / "out")


@pytest.mark.parametrize("how", ["empty", "cut", "another"])
def test_a_broken_file_of_scores_is_scored_again(
    lake: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
):
    out = tmp_path / "out"
    score(lake, out)
    table = read_scores(Folder(str(out)))
    path = out / "scores" / shard_name(1)
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": whole[:-100], "another": b"x" * 50_000}[how])
    with pytest.raises(BrokenShard, match=f"{path}: no whole file of a shard .*; delete it, and beside its folder run"):
        read_scores(Folder(str(out)))
    with pytest.raises(BrokenShard, match=str(path)):
        read_summary(Folder(str(out / "scores")), 1)
    code, _, err = run_here("report", out, "--output", tmp_path / "report.html")
    assert (code, str(path) in err) == (2, True)
    code, _, err = run_here("filter", out, "--output", tmp_path / "best", "--top", "3")
    assert (code, str(path) in err) == (2, True)
    with pytest.raises(BrokenShard, match=str(path)):
        score(lake, tmp_path / "later", "--since", str(out))

    (out / "run.json").unlink()
    score(lake, out)
    assert f"{path}: no whole file of a shard" in caplog.text
    assert "It is scored again" in caplog.text
    assert read_scores(Folder(str(out))).equals(table)
