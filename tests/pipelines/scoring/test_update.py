"""An output that is brought up to date in place: killed at any moment it is the old state or the new one."""

import contextlib
import os
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from fsspec.implementations.memory import MemoryFileSystem

from grepr_core.bundles.bundle_files import BundleFiles
from grepr_core.errors import Unavailable, UserError
from grepr_core.storage import Folder
from pipelines.lake import manifest as manifests
from pipelines.lake.manifest import MANIFEST_FOLDER, find_manifest
from pipelines.lake.sources import Entry
from pipelines.options import FilterOptions, LabelOptions, ManifestOptions, ReportOptions, ScoreOptions
from pipelines.rating import label_pool
from pipelines.reporting import database, report
from pipelines.reporting.database import load_scores, open_database
from pipelines.running.shard_files import finished_shards
from pipelines.scoring import old_scores, score, update
from pipelines.scoring.current import UPDATE_FOLDER, current_folder, settle
from pipelines.scoring.old_scores import OldScores
from pipelines.scoring.score_table import SCORES_FOLDER, read_scores, read_shard
from pipelines.selection import filter as selection
from pipelines.selection import rows as selected_rows
from pipelines.selection.scores import open_scores
from tests.pipelines.scoring.without_ray import without_ray
from tests.s3_server import s3_server
from tests.score_rows import score_row, write_run

IMAGES = 12


class Killed(BaseException):
    """The process is no more."""


@pytest.fixture(autouse=True)
def scored_here() -> Iterator[None]:
    lock = contextlib.nullcontext(mock.Mock())  # a killed process does not release it
    lite = BundleFiles.read("grepr-lite")
    with (
        without_ray(),
        mock.patch.object(BundleFiles, "read", return_value=lite),  # many times
        mock.patch("os.fsync"),
        mock.patch.object(score, "run_lock", return_value=lock),
        mock.patch.object(update, "run_lock", return_value=lock),
    ):
        yield


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    folder = tmp_path / "lake"
    folder.mkdir()
    for i in range(IMAGES):
        (folder / f"{i:04d}.jpg").write_text("old" * i)
    return folder


@pytest.fixture(params=["local", "store"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where outputs go."""
    yield str(tmp_path) if request.param == "local" else "memory://scores"
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def change(lake: Path) -> None:
    """Adds, changes and deletes photos."""
    for i in range(IMAGES, IMAGES + 2):
        (lake / f"{i:04d}.jpg").write_text("new" * i)
    (lake / "0003.jpg").write_text("another")
    for i in range(4, 11):
        (lake / f"{i:04d}.jpg").unlink()


def options(source: Path | str, output: str, **others: Any) -> ScoreOptions:
    return ScoreOptions(source=str(source), output=output, **{"shard_size": 4} | others)


def rows(folder: Folder) -> pa.Table:
    return pa.concat_tables(read_shard(folder, shard) for shard in sorted(finished_shards(folder)))


def copy(output: Folder, to: Folder) -> None:
    if output.url.startswith("/"):
        shutil.copytree(output.url, to.url)
    for path in output.fs.find(output.path("")) if not output.url.startswith("/") else ():
        output.fs.cp_file(path, path.replace(output.path(""), to.path("")))


@contextlib.contextmanager
def killed_after(steps: int) -> Iterator[list[str]]:
    """Ends what is done inside after so many changes to files; gives those that were made."""
    done: list[str] = []

    def step(change: Callable[..., Any], what: str) -> Callable[..., Any]:
        def changed(*arguments: Any, **named: Any) -> Any:
            if len(done) >= steps:
                raise Killed
            result = change(*arguments, **named)
            done.append(what)
            if len(done) >= steps:
                raise Killed
            return result

        return changed

    def one_by_one(change: Callable[..., Any], what: str) -> Callable[..., Any]:
        def changed(fs: Any, *lists: Any, **named: Any) -> Any:
            if isinstance(lists[0], str):  # a whole folder, which is empty by now
                return change(fs, *lists, **named)
            for paths in zip(*lists, strict=True):
                step(change, what)(fs, *([path] for path in paths), **named)
            return None

        return changed

    def remove(folder: Folder) -> None:
        for path in folder.fs.find(folder.path("")):
            step(folder.fs.rm_file, "remove a file of a folder")(path)
        real_remove(folder)

    real_remove = Folder.remove
    with (
        mock.patch.object(Folder, "write", step(Folder.write, "write")),
        mock.patch.object(Folder, "delete", step(Folder.delete, "delete")),
        mock.patch.object(Folder, "remove", remove),
        mock.patch.object(os, "rename", step(os.rename, "rename")),
        mock.patch.object(MemoryFileSystem, "copy", one_by_one(MemoryFileSystem.copy, "copy")),
        mock.patch.object(MemoryFileSystem, "rm", one_by_one(MemoryFileSystem.rm, "delete what is over")),
        contextlib.suppress(Killed),
    ):
        yield done


def test_killed_at_any_moment_an_output_is_the_old_or_the_new_one(lake: Path, place: str):
    old, new, out = (Folder(f"{place}/{name}") for name in ("old", "new", "out"))
    score.run(options(lake, old.url))
    change(lake)
    score.run(options(lake, new.url))
    before, after = read_scores(old), read_scores(new)
    assert len(before) == IMAGES
    assert len(after) == 7
    command, steps, seen = options(lake, out.url, update=True), 1, set()
    while True:
        out.remove()
        copy(old, out)
        with killed_after(steps) as done:
            update.run(command)
        found = read_scores(out)
        assert found.equals(before) or found.equals(after), done
        seen.add(len(found))
        listed = find_manifest(current_folder(out, MANIFEST_FOLDER).url)
        assert listed is not None
        assert listed.images == len(found)
        # The command without --update changes nothing, and leaves the scores where everyone looks for them.
        assert score.run(options(lake, out.url)).images == len(found)
        assert rows(out.child(SCORES_FOLDER)).equals(found)
        assert update.run(command).counts == {"scored": 7}
        assert rows(out.child(SCORES_FOLDER)).equals(after)
        assert find_manifest(out.child(MANIFEST_FOLDER).url).images == 7
        assert out.read_json("settings.json") == new.read_json("settings.json") == out.read_json("run.json")["settings"]
        assert not out.exists(UPDATE_FOLDER)
        if len(done) < steps:
            break
        steps += 1
    assert seen == {7, IMAGES}
    assert steps > 15


@pytest.mark.slow
@pytest.mark.s3
def test_in_an_object_store_nothing_is_left_of_before(tmp_path: Path):
    with s3_server(tmp_path):
        fs = s3fs.S3FileSystem()
        fs.mkdir("lake")
        for i in range(IMAGES):
            fs.pipe_file(f"lake/{i:04d} ü.jpg", b"old" * i)
        out, anew = (f"s3://lake-scores/{name}" for name in ("out", "anew"))
        fs.mkdir("lake-scores")
        update.run(options("s3://lake", out, update=True))
        for i in range(8):
            fs.rm_file(f"lake/{i:04d} ü.jpg")
        fs.pipe_file("lake/new.jpg", b"new")
        fs.pipe_file("lake/0009 ü.jpg", b"another")
        assert update.run(options("s3://lake", out, update=True)).images_here == 2
        score.run(options("s3://lake", anew))
        assert read_scores(Folder(out)).equals(read_scores(Folder(anew)))
        fs.invalidate_cache()
        names = [{path.partition(name)[2] for path in fs.find(f"lake-scores/{name}")} for name in ("out", "anew")]
        assert names[0] == names[1]


def test_every_reader_finds_an_update_that_holds_already(lake: Path, tmp_path: Path):
    out = Folder(str(tmp_path / "out"))
    score.run(options(lake, out.url))
    change(lake)
    with mock.patch.object(update, "settle", side_effect=[None, Killed]), pytest.raises(Killed):
        update.run(options(lake, out.url, update=True))
    assert len(rows(out.child(SCORES_FOLDER))) == IMAGES
    assert len(OldScores.read(out, {}).keys) == 7
    selected_from = open_scores(out.url, {}, unfinished=False)
    assert len(rows(selected_from.folder)) == selected_from.manifest().images == selected_from.images == 7
    with open_database() as connection:
        load_scores(connection, "now", out)
        assert len(connection.table("now")) == 7


def report_of(out: str, to: Path) -> None:
    report.run(ReportOptions(scores=out, output=f"{to}/report.html"))


def best_of(out: str, to: Path) -> None:
    selection.run(FilterOptions(scores=out, output=f"{to}/best", top=3))


def photos_to_rate_of(out: str, to: Path) -> None:
    lite = mock.Mock(model_id=score.scoring_model("grepr-lite").model_id)
    label_pool.find_pool(LabelOptions(source=out, output=f"{to}/ratings.csv"), lite)


def night_after(out: str, to: Path) -> None:
    score.run(options(to / "lake", f"{to}/later", since=out))


@pytest.mark.parametrize(
    ("read", "module", "file_gone"),
    [
        (report_of, database, False),
        (best_of, selected_rows, False),
        (best_of, selected_rows, True),
        (photos_to_rate_of, label_pool, True),
        (night_after, old_scores, False),
        (night_after, old_scores, True),
    ],
)
def test_a_reader_that_an_update_overtakes_is_to_be_run_again(
    lake: Path, tmp_path: Path, read: Callable[[str, Path], None], module: ModuleType, file_gone: bool
):
    out = Folder(str(tmp_path / "out"))
    score.run(options(lake, out.url))
    change(lake)
    record = out.read_json("run.json")
    if read is photos_to_rate_of:
        out.write_json("run.json", record | {"settings": record["settings"] | {"features": True}})
    real, overtaken = module.read_shard, threading.Lock()

    def read_shard(*arguments: Any, **named: Any) -> pa.Table:
        if overtaken.acquire(blocking=False):
            out.write_json("run.json", record)
            update.run(options(lake, out.url, update=True))
            if file_gone:
                raise FileNotFoundError(arguments[0].url)
        return real(*arguments, **named)

    message = f"{out.url}: was brought up to date while it was read; run the same command again"
    with mock.patch.object(module, "read_shard", read_shard), pytest.raises(Unavailable, match=message):
        read(out.url, tmp_path)
    if read in (best_of, night_after):  # nothing of the first attempt is in their way
        read(out.url, tmp_path)


def test_only_what_is_new_or_has_changed_is_scored(lake: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    out = str(tmp_path / "out")
    assert update.run(options(lake, out, update=True)).images_here == IMAGES  # as without, where there is nothing
    change(lake)
    assert score.run(options(lake, out)).images == IMAGES
    assert "finished already; the same command with --update takes in what is new or has changed" in caplog.text
    record = update.run(options(lake, out, update=True))
    assert (record.images, record.images_here) == (7, 3)
    assert update.run(options(lake, out, update=True)).images_here == 0


def test_an_unfinished_output_is_finished_by_an_update(lake: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    command = options(lake, str(tmp_path / "out"), update=True)
    with killed_after(5):
        update.run(command)
    assert not (tmp_path / "out/run.json").exists()
    assert update.run(command).images == IMAGES
    assert "not finished yet" in caplog.text


def test_an_update_that_was_begun_goes_on(lake: Path, tmp_path: Path):
    command = options(lake, str(tmp_path / "out"), update=True)
    update.run(command)
    change(lake)
    with killed_after(6):
        update.run(command)
    assert (tmp_path / "out/update/scores").exists()
    with mock.patch.object(manifests, "Listing", side_effect=AssertionError("listed again")):
        assert update.run(command).images == 7


def test_an_update_that_was_complete_is_followed_by_another(
    lake: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    command = options(lake, str(tmp_path / "out"), update=True)
    update.run(command)
    change(lake)
    with mock.patch.object(update, "_put_in_place", side_effect=Killed), pytest.raises(Killed):
        update.run(command)
    (lake / "newer.jpg").write_text("newer")
    assert update.run(command).images == 8
    assert "an update was complete already, and takes its place now; then what is new since is scored" in caplog.text


def test_an_update_of_unknown_beginning_is_begun_anew(lake: Path, tmp_path: Path):
    command = options(lake, str(tmp_path / "out"), update=True)
    update.run(command)
    change(lake)
    with killed_after(6):
        update.run(command)
    begun = tmp_path / "out/update/begun.json"
    begun.write_text("")
    with pytest.raises(UserError, match=f"{begun}: not JSON .*; delete it and run the command that wrote it again"):
        update.run(command)
    begun.unlink()
    assert update.run(command).images == 7


@pytest.mark.parametrize("notices", ["lock", "record"])
def test_a_command_that_was_suspended_while_it_settled_spoils_nothing(lake: Path, tmp_path: Path, notices: str):
    old, out = Folder(str(tmp_path / "old")), Folder(str(tmp_path / "out"))
    score.run(options(lake, old.url))
    change(lake)
    with mock.patch.object(update, "settle", side_effect=[None, Killed]), pytest.raises(Killed):
        update.run(options(lake, old.url, update=True))
    old_url, steps = old.url, 1
    while True:
        out.remove()
        shutil.copytree(old_url, out.url)
        lock, after = mock.Mock(), {}

        def check(lock: mock.Mock = lock, steps: int = steps, after: dict[str, bytes] = after) -> None:
            if lock.check.call_count == steps:
                (lake / f"new-{steps}.jpg").write_text("of the one that took over")
                update.run(options(lake, out.url, update=True))
                after |= {path: out.fs.cat_file(path) for path in out.fs.find(out.path(""))}
                if notices == "lock":
                    raise Unavailable("taken over")

        lock.check.side_effect = check
        with contextlib.suppress(Unavailable):
            settle(out, lock)
        if lock.check.call_count < steps:
            break
        assert {path: out.fs.cat_file(path) for path in out.fs.find(out.path(""))} == after
        steps += 1
    assert steps > 5


def test_an_update_by_other_options_is_refused_before_anything_is_listed(lake: Path, tmp_path: Path):
    out = str(tmp_path / "out")
    score.run(options(lake, out))
    with pytest.raises(UserError, match=r"holds scores made otherwise \(--max-pixels: then \d+, now 5000\)"):
        update.run(options(lake, out, update=True, max_pixels=5000))
    with pytest.raises(UserError, match=r"holds scores made otherwise \(source"):
        update.run(options(tmp_path, out, update=True))
    assert not (tmp_path / "out/update").exists()


def test_a_manifest_is_followed_by_another(lake: Path, tmp_path: Path):
    def list_lake(name: str) -> str:
        manifests.run(ManifestOptions(source=str(lake), manifest=str(tmp_path / name), shard_size=4))
        return str(tmp_path / name)

    out = str(tmp_path / "out")
    score.run(options(lake, out))
    change(lake)
    second = list_lake("second")
    with pytest.raises(UserError, match=r"of another manifest than .*second \(then 12 images, now 7\); --update"):
        score.run(options(second, out))
    assert update.run(options(second, out, update=True)).images_here == 3
    assert not (tmp_path / "out/manifest").exists()  # it would be of other images
    assert len(read_scores(Folder(out))) == 7

    (lake / "0000.jpg").write_text("of the third")
    third = list_lake("third")
    with killed_after(4):
        update.run(options(second, out, update=True))
    assert (tmp_path / "out/update/scores/shard=000000.parquet").exists()
    assert update.run(options(third, out, update=True)).images_here == 1  # goes on with nothing of the second
    assert read_scores(Folder(out))["etag"][0] == find_manifest(third).read_shard(0)["etag"][0]


def test_a_manifest_made_anew_of_as_many_images_is_another_one(lake: Path, tmp_path: Path):
    def list_lake() -> str:
        shutil.rmtree(tmp_path / "listed", ignore_errors=True)
        manifests.run(ManifestOptions(source=str(lake), manifest=str(tmp_path / "listed"), shard_size=4))
        return str(tmp_path / "listed")

    def swap(old: int, new: int) -> str:
        (lake / f"{old:04d}.jpg").unlink()
        (lake / f"{new:04d}.jpg").write_text("new" * new)
        return list_lake()

    out = str(tmp_path / "out")
    score.run(options(list_lake(), out))
    with pytest.raises(UserError, match=r"another manifest than .*listed \(another .* of as many images\); --update"):
        score.run(options(swap(0, 20), out))
    with killed_after(4):
        update.run(options(tmp_path / "listed", out, update=True))
    assert (tmp_path / "out/update/scores/shard=000000.parquet").exists()
    assert update.run(options(swap(1, 21), out, update=True)).images_here == 2
    names = [Path(uri).name for uri in read_scores(Folder(out))["uri"].to_pylist()]
    assert names == sorted(path.name for path in lake.iterdir())


def test_a_lake_that_was_moved_or_copied_is_not_scored_again(lake: Path, tmp_path: Path):
    (lake / "d").mkdir()
    (lake / "d/0001.jpg").write_text("of the same name")
    with tarfile.open(lake / "t.tar", "w") as archive:
        for name in ("0002.jpg", "0003.jpg"):
            archive.add(lake / name, name)
    before, moved = Folder(str(tmp_path / "before")), tmp_path / "moved"
    shutil.copytree(lake, moved)  # with the times, as cp -a does
    for source, out, images in (("", "all", IMAGES + 1), ("*.tar", "tars", 2)):
        score.run(options(lake / source, before.child(out).url))
        record = score.run(options(moved / source, f"{tmp_path}/{out}", since=before.child(out).url))
        assert (record.images, record.images_here) == (images, 0)
        score.run(options(moved / source, f"{tmp_path}/anew-{out}"))
        assert read_scores(Folder(f"{tmp_path}/{out}")).equals(read_scores(Folder(f"{tmp_path}/anew-{out}")))
    change(moved)
    (moved / "0000.jpg").rename(moved / "renamed.jpg")
    record = score.run(options(moved, f"{tmp_path}/changed", since=before.child("all").url))
    assert (record.images, record.images_here) == (8, 4)
    with pytest.raises(UserError, match=f"--since {before.url}/all takes the rows of a lake that was moved over"):
        update.run(options(moved, before.child("all").url, update=True))


def test_the_uri_counts_before_the_path(lake: Path, tmp_path: Path):
    (lake / "d").mkdir()
    shutil.copy2(lake / "0001.jpg", lake / "d/0001.jpg")
    out = str(tmp_path / "out")
    score.run(options(lake, out))
    (lake / "d/0001.jpg").write_text("another")
    # Below the new source it has the path that the other had below the old one, and that one's time and size are known.
    assert score.run(options(lake / "d", f"{tmp_path}/d", since=out)).images_here == 1


def test_a_path_of_several_images_tells_none(tmp_path: Path):
    rows = [score_row(f"s3://old/{i}.jpg", 0.5, path=path) for i, path in enumerate(["a.jpg", "a.jpg", "b.jpg", None])]
    old = OldScores.read(Folder(write_run(str(tmp_path), rows)), {"source": "s3://new"})
    images = [Entry(f"s3://new/{name}", etag="1", path=name) for name in ("a.jpg", "b.jpg", "c.jpg")]
    images.append(Entry("s3://new/none.jpg", etag="1"))
    manifest = manifests.write_manifest(images, Folder(str(tmp_path / "m")), source="s3://new", largest_shard=9)
    kept = old.unchanged(manifest.read_shard(0))
    assert kept.rows.tolist() == [1]
    assert kept.table.select(["uri", "path", "score"]).to_pylist() == [
        {"uri": "s3://new/b.jpg", "path": "b.jpg", "score": 0.5}
    ]
    assert len(OldScores.read(Folder(str(tmp_path)), {"source": "s3://lake/photos"}).paths) == 0  # needs no more memory


def test_scores_of_an_earlier_version_have_no_paths(lake: Path, tmp_path: Path):
    old, out = Folder(str(tmp_path / "old")), Folder(str(tmp_path / "out"))
    score.run(options(lake, old.url))
    for folder in (old.child("scores"), old.child("manifest")):
        for name in folder.names():
            if name.endswith(".parquet"):
                file = pq.ParquetFile(folder.path(name))
                groups = [file.read_row_group(i).drop_columns("path") for i in range(file.num_row_groups)]
                with pq.ParquetWriter(folder.path(name), groups[0].schema) as writer:
                    for group in groups:
                        writer.write_table(group)
    assert read_scores(old)["path"].to_pylist() == [None] * IMAGES
    assert score.run(options(lake, out.url, since=old.url)).images_here == 0
    assert read_scores(out)["path"].to_pylist() == sorted(path.name for path in lake.iterdir())
    old.delete("run.json")  # and one that is gone on with
    old.child("scores").delete("shard=000001.parquet")
    assert score.run(options(lake, old.url)).images_here == 4
    best_of(old.url, tmp_path)
    with open_database() as connection:
        load_scores(connection, "now", old)
        assert len(connection.table("now")) == IMAGES


def test_it_tells_how_many_rows_of_an_earlier_version_have_no_hash(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    rows = [score_row(f"s3://lake/{i}.jpg", 0.5, phash=f"{i:016x}" if i else None) for i in range(3)]
    for name, part in (("some", [*rows, score_row("s3://lake/gone.jpg", None)]), ("all", rows[1:])):
        OldScores.read(Folder(write_run(str(tmp_path / name), part)), {"source": "s3://lake/photos"})
    assert [record.getMessage().split(",")[0] for record in caplog.records] == [
        f"{tmp_path}/some: an earlier version scored 1 of its images"
    ]


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"since": "monday"}, "leave --since out"),
        ({"plan": True}, "--plan"),
        ({"retry_failed": True}, "--retry-failed"),
    ],
)
def test_what_does_not_go_with_an_update_is_refused(others: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        options("lake", "out", update=True, **others)
