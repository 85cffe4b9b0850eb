"""What ``grepr score`` and those that read its output make of records of other versions, and of broken ones."""

import json
from pathlib import Path

import pytest

from grepr_core.errors import UserError
from grepr_core.storage import Folder
from jobs.cli import parse
from pipelines.lake.manifest import find_manifest, write_manifest
from pipelines.lake.sources import Entry
from pipelines.options import ScoreOptions
from pipelines.running.shard_files import BrokenShard, shard_name
from pipelines.scoring import score as scoring
from pipelines.scoring import update
from pipelines.scoring.run_record import RunRecord
from pipelines.scoring.score_table import read_scores, read_summary
from tests.lake import run_here
from tests.pipelines.scoring.without_ray import ALL, interrupted_after, without_ray
from tests.score_rows import random_rows, write_run


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    (tmp_path / "lake").mkdir()
    for i in range(12):
        (tmp_path / "lake" / f"{i}.jpg").write_text("x" * i)
    return tmp_path / "lake"


def score(source: Path, output: Path, *options: str, shards: int = ALL) -> RunRecord:
    command = parse(["score", str(source), str(output), "--shard-size", "4", *options])
    assert isinstance(command, ScoreOptions)
    with without_ray(), interrupted_after(shards):
        return update.run(command) if command.update else scoring.run(command)


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


@pytest.mark.parametrize("option", ["--update", "--retry-failed"])
def test_what_another_version_has_recorded_is_kept(lake: Path, tmp_path: Path, option: str):
    out = tmp_path / "out"
    score(lake, out)
    settings = json.loads((out / "settings.json").read_text())
    settings |= {"tone_map": True, "limits": settings["limits"] | {"frames": 3}}
    edit(out / "settings.json", **settings)
    edit(out / "run.json", of_a_later_version=1, settings=settings)
    if option == "--update":
        (lake / "new.jpg").write_text("new")
    record = score(lake, out, option)
    written = json.loads((out / "run.json").read_text())
    assert (written["of_a_later_version"], written["images"]) == (1, record.images)
    assert json.loads((out / "settings.json").read_text()) == written["settings"]
    assert written["settings"]["tone_map"]
    assert written["settings"]["limits"] == settings["limits"]
    assert written["settings"]["images"] == record.images


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


def test_rows_of_a_version_that_did_not_record_their_precision_are_taken_over(
    lake: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    out, later = tmp_path / "out", tmp_path / "later"
    score(lake, out)
    for name in ("run.json", "settings.json"):
        record = json.loads((out / name).read_text())
        settings = record.get("settings", record) | {"precision": "auto"}
        edit(out / name, **({"settings": settings} if name == "run.json" else settings))
    for i in range(12, 24):
        (lake / f"{i}.jpg").write_text("x" * i)
    for output, options in ((later, ("--since", str(out))), (out, ("--update",))):
        with pytest.raises(KeyboardInterrupt):
            score(lake, output, *options, shards=4)
        score(lake, output, *options)
        assert len(read_scores(Folder(str(output)))) == 24
        assert json.loads((output / "run.json").read_text())["settings"]["precision"] in ("fp32", "bf16")
    assert f"{out}: is of an earlier version, whose rows may be fp32 or bf16; both are taken over" in caplog.text


def test_what_cannot_be_taken_over_is_told_without_an_option_that_was_not_given(lake: Path, tmp_path: Path):
    score(lake, tmp_path / "out")
    for message in (r"made otherwise \(--max-pixels", "no finished run there"):
        with pytest.raises(UserError, match=f"{tmp_path}/out: .*{message}") as told:
            score(lake, tmp_path / "later", "--max-pixels", "7000", "--since", str(tmp_path / "out"))
        assert "--since" not in str(told.value)
        assert not (tmp_path / "later/settings.json").exists()  # another command may begin it otherwise
        (tmp_path / "out/run.json").unlink(missing_ok=True)


def test_a_retry_that_is_refused_leaves_the_record(lake: Path, tmp_path: Path):
    score(lake, tmp_path / "out")
    score(lake, tmp_path / "other", "--max-pixels", "7000")
    with pytest.raises(UserError, match=f"{tmp_path}/other: .*made otherwise"):
        score(lake, tmp_path / "out", "--retry-failed", "--since", str(tmp_path / "other"))
    assert score(lake, tmp_path / "out").images == 12
    assert (tmp_path / "out/run.json").exists()


def test_sources_that_differ_in_a_secret_are_two(tmp_path: Path):
    def rows(token: str) -> list[Entry]:
        return [Entry(f"https://photos.example/{token}{i}.jpg", 1, "a") for i in range(3)]

    url, out = "https://photos.example/list.csv?token=", tmp_path / "out"
    for token in ("anna", "bob"):
        write_manifest(rows(token), Folder(str(tmp_path / token)), source=url + token, largest_shard=4)
    score(tmp_path / "anna", out)
    assert "anna" not in (out / "run.json").read_text().replace(str(tmp_path / "anna"), "")
    for options in ((), ("--update",)):
        with pytest.raises(UserError, match=r"made otherwise .*something else in place of the \*\*\*"):
            score(tmp_path / "bob", out, *options)
    score(tmp_path / "bob", tmp_path / "other", "--since", str(out))
