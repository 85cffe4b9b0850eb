"""Nights: what each builds on, and that a lake which takes longer than a night gets done."""

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from grepr_core.errors import Unavailable
from grepr_core.storage import Folder
from jobs.cli import parse
from pipelines.lake.manifest import Manifest, write_manifest
from pipelines.lake.sources import Entry
from pipelines.options import NightlyOptions, ScoreOptions
from pipelines.running.shard_pool import ShardError
from pipelines.scoring import score
from pipelines.scoring.nightly import night_options
from pipelines.scoring.score_table import read_scores
from tests.lake import run_here
from tests.pipelines.scoring.without_ray import ALL, interrupted_after, without_ray

OPTIONS = ("--workers", "8", "--features", "--shard-size", "7")


def night(scores: Path, day: int, hour: int = 22, source: str = "/lake") -> list[ScoreOptions]:
    options = parse(["nightly", source, str(scores), *OPTIONS])
    assert isinstance(options, NightlyOptions)
    return night_options(options, datetime(2026, 3, day, hour, tzinfo=UTC))


def command(scores: Path, day: int, since: int | None = None) -> object:
    earlier = () if since is None else ("--since", f"{scores}/2026-03-{since:02d}")
    return parse(["score", "/lake", f"{scores}/2026-03-{day:02d}", *earlier, *OPTIONS])


def begin(scores: Path, day: int, **others: Any) -> Folder:
    """Leaves a night as the command leaves it when it ends before its time."""
    folder = Folder(f"{scores}/2026-03-{day:02d}")
    (options,) = night(scores / "nowhere", day)
    settings = score._settings("/lake", 9, "digest", score.scoring_model("grepr-lite"), options, "float16")
    folder.write_json("settings.json", settings | others)
    return folder


def finish(scores: Path, day: int) -> None:
    Folder(f"{scores}/2026-03-{day:02d}").write_json("run.json", {})


def test_a_night_builds_on_the_last_one_that_was_finished(tmp_path: Path):
    assert night(tmp_path, 1) == night(tmp_path, 2, hour=4) == [command(tmp_path, 1)]
    finish(tmp_path, 1)
    (tmp_path / "2026-03-02").mkdir()  # ended while it listed
    assert night(tmp_path, 3) == [command(tmp_path, 3, since=1)]
    finish(tmp_path, 3)
    assert night(tmp_path, 4, hour=3) == [command(tmp_path, 3, since=1)]  # started again in the same night


def test_a_night_that_was_not_finished_is_finished_first(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    finish(tmp_path, 1)
    begin(tmp_path, 2)
    begin(tmp_path, 3)
    (tmp_path / "2026-03-04").mkdir()
    assert night(tmp_path, 5) == [command(tmp_path, 3, since=1), command(tmp_path, 5, since=3)]
    assert "2026-03-03: was not finished; this is done first, and then the night 2026-03-05" in caplog.text
    begin(tmp_path, 5)
    assert night(tmp_path, 5) == [command(tmp_path, 3, since=1), command(tmp_path, 5, since=3)]
    finish(tmp_path, 3)
    assert night(tmp_path, 5) == [command(tmp_path, 5, since=3)]
    finish(tmp_path, 5)
    assert night(tmp_path, 6) == [command(tmp_path, 6, since=5)]  # the second is left alone


def test_a_night_that_was_begun_otherwise_blocks_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    finish(tmp_path, 1)
    begin(tmp_path, 2, model_id="another")
    assert night(tmp_path, 3) == [command(tmp_path, 3, since=1)]
    assert "2026-03-02: was begun otherwise (content of --model: then another, now" in caplog.text


def test_a_night_of_another_manifest_is_not_gone_on_with(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    def list_photos(last: int) -> Manifest:
        photos = [Entry(f"/lake/{i}.jpg") for i in (*range(8), last)]
        return write_manifest(photos, Folder(str(tmp_path / "listed")), source="/lake", largest_shard=7)

    begin(tmp_path, 2, manifest=list_photos(8).digest)
    listed = str(tmp_path / "listed")
    (first, second) = night(tmp_path, 3, source=listed)
    assert (Path(first.output).name, Path(second.output).name) == ("2026-03-02", "2026-03-03")
    list_photos(9)
    (only,) = night(tmp_path, 3, source=listed)
    assert Path(only.output).name == "2026-03-03"
    assert "2026-03-02: was begun otherwise (another manifest of as many images), so it stays" in caplog.text
    begin(tmp_path, 2, manifest=None)  # of an earlier version
    assert len(night(tmp_path, 3, source=listed)) == 2


def test_an_earlier_version_did_not_know_every_setting(tmp_path: Path):
    folder = begin(tmp_path, 2)
    settings = folder.read_json("settings.json")
    del settings["gpu_decode"], settings["zero_shot"], settings["limits"]["min_side"]
    folder.write_json("settings.json", settings | {"of_a_later_version": 1})
    assert night(tmp_path, 3) == [command(tmp_path, 2), command(tmp_path, 3, since=2)]


class Nights:
    """A lake of 40 photos, and the command that scores its nights."""

    def __init__(self, folder: Path) -> None:
        self.lake, self.scores = folder / "lake", folder / "nights"
        self.lake.mkdir()
        for i in range(40):
            (self.lake / f"{i:04d}.jpg").write_text("x" * i)

    def run(self, day: int, *options: str, shards: int = ALL) -> tuple[int, str]:
        clock = SimpleNamespace(now=lambda _: datetime(2026, 3, day, 22, tzinfo=UTC))
        with mock.patch("jobs.cli.datetime", clock), without_ray(), interrupted_after(shards):
            code, out, err = run_here("nightly", self.lake, self.scores, "--shard-size", "4", *options)
        return code, out + err

    def add(self, name: str) -> None:
        (self.lake / name).write_text(name)


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    return Nights(tmp_path)


def test_a_lake_that_takes_longer_than_a_night_gets_done(nights: Nights):
    for day in (1, 2, 3):
        assert nights.run(day, shards=3)[0] == 130
        nights.add(f"new-{day}.jpg")
    assert [path.name for path in sorted(nights.scores.iterdir())] == ["2026-03-01"]
    code, told = nights.run(4)
    assert code == 0, told
    assert "2026-03-01: was not finished; this is done first, and then the night 2026-03-04" in told
    assert f"40 images: 40 scored; 4.0 images/s. Scores: {nights.scores}/2026-03-01/scores" in told
    assert f"43 images: 43 scored; 3.0 images/s. Scores: {nights.scores}/2026-03-04/scores" in told
    names = [Path(uri).name for uri in read_scores(Folder(f"{nights.scores}/2026-03-04"))["uri"].to_pylist()]
    assert names == sorted(path.name for path in nights.lake.iterdir())


@pytest.mark.parametrize("file", ["manifest/manifest.json", "settings.json", "manifest gone", "a shard"])
def test_a_night_that_cannot_be_finished_blocks_none(nights: Nights, file: str):
    assert nights.run(1)[0] == 0
    nights.add("new.jpg")
    assert nights.run(2, shards=3)[0] == 130
    nights.add("newer.jpg")
    second = nights.scores / "2026-03-02"
    reason = f"{second}/{file}: not JSON"
    if file == "manifest gone":
        (second / "manifest/manifest.json").unlink()
        reason = "holds scores made otherwise"
    elif file != "a shard":
        (second / file).write_text("{")
    scored: list[Any] = [mock.DEFAULT, mock.DEFAULT]
    if file == "a shard":
        reason = "the disk said no"
        scored[0] = ShardError(reason)
    with mock.patch.object(score, "run", wraps=score.run, side_effect=scored):
        code, told = nights.run(3)
    assert code == 1, told
    assert f"{second}: cannot be finished, and this night goes on without it: " in told
    assert reason in told
    assert f"42 images: 42 scored; 2.0 images/s. Scores: {nights.scores}/2026-03-03/scores" in told
    assert nights.run(4)[0] == 0


def test_a_night_in_use_or_a_cluster_that_is_away_is_waited_for(nights: Nights):
    assert nights.run(1, shards=3)[0] == 130
    with mock.patch.object(score, "check_cluster", side_effect=Unavailable("no cluster")):
        code, told = nights.run(2)
    assert code == 1
    assert "grepr: no cluster" in told
    assert not (nights.scores / "2026-03-02").exists()


def test_a_night_whose_manifest_is_gone_is_listed_anew_where_nothing_was_scored(nights: Nights):
    assert nights.run(1)[0] == 0
    nights.add("new.jpg")
    assert nights.run(2, shards=1)[0] == 130
    second = nights.scores / "2026-03-02"
    (second / "manifest/manifest.json").unlink()
    for path in (second / "scores").iterdir():
        path.unlink()
    nights.add("newer.jpg")
    code, told = nights.run(3)
    assert code == 0, told
    assert f"42 images: 42 scored; 2.0 images/s. Scores: {second}/scores" in told


def test_a_night_that_is_finished_names_no_option_that_there_is_not(nights: Nights):
    assert nights.run(1)[0] == 0
    code, told = nights.run(1)
    assert code == 0
    assert "2026-03-01: finished already; what is new or has changed comes in with the next night" in told
    assert "--update" not in told
