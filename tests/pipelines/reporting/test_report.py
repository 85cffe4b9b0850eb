"""The report's thumbnails, words and warnings, without a browser."""

import base64
import io
import re
import shlex
import subprocess
import sys
import tarfile
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from PIL import ExifTags, Image

from grepr_core.errors import UserError
from jobs.cli import parse
from pipelines.lake.manifest import image_id
from pipelines.lake.manifest import run as write_manifest
from pipelines.lake.sources import Listing
from pipelines.options import FilterOptions, ManifestOptions, ReportOptions
from pipelines.reporting import thumbnails
from pipelines.reporting.page import (
    breakable,
    format_bytes,
    format_change,
    format_duration,
    format_percent,
    quote,
    shorten,
    visible,
)
from pipelines.reporting.report import run
from pipelines.reporting.shown_photos import ShownPhoto
from pipelines.reporting.thumbnails import ALL_BYTES, LARGE_SIDE, MOST_BYTES, SIDE, Thumbnail, make_thumbnails
from pipelines.running.shard_files import shard_name
from pipelines.selection.filter import run as select
from tests.lake import jpeg, photo
from tests.s3_server import s3_server
from tests.score_rows import random_rows, score_row, write_run

#: Of a page, for pictures.
ROOM = 3_000_000


def report(scores: Path, **options: Any) -> str:
    output = scores.parent / "report.html"
    result = run(ReportOptions(scores=str(scores), output=str(output), **options))
    assert result.bytes == output.stat().st_size
    return output.read_text()


def shown(uri: str, member: str | None = None, etag: str | None = None, shard: int = 0) -> ShownPhoto:
    return ShownPhoto(shard, image_id(uri, member), uri, member, etag, 0.5, None, None, 64, 64)


def picture(thumbnail: Thumbnail) -> Image.Image:
    assert thumbnail.data_uri is not None, thumbnail.note
    image = Image.open(io.BytesIO(base64.b64decode(thumbnail.data_uri.partition("base64,")[2])))
    assert image.size == (thumbnail.width, thumbnail.height)
    return image.convert("RGB")


# --- Thumbnails -------------------------------------------------------------------------------------------------------


def test_a_thumbnail_is_small_upright_and_bare(tmp_path: Path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Model] = "A camera's serial number"
    halves = np.zeros((600, 800, 3), np.uint8)
    halves[:, :400] = 255  # the left half, which turned upright is the upper one
    Image.fromarray(halves).save(tmp_path / "a.jpg", exif=exif)
    (thumbnail,) = make_thumbnails([shown(str(tmp_path / "a.jpg"))], None, {}, room=ROOM).values()
    found = np.asarray(picture(thumbnail))
    assert found.shape == (320, 240, 3)
    assert found[:150].mean() > 240
    assert found[-150:].mean() < 15
    assert thumbnail.note is None
    assert b"serial" not in base64.b64decode(thumbnail.data_uri.partition("base64,")[2])


def test_a_thumbnail_of_a_large_photograph_waits_for_no_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.jpg").write_bytes(jpeg(photo(0, (400, 300)).resize((1200, 900))))
    monkeypatch.setitem(sys.modules, "torch", None)
    (thumbnail,) = make_thumbnails([shown(str(tmp_path / "a.jpg"))], None, {}, room=ROOM).values()
    assert picture(thumbnail).size == (320, 240)


def test_noise_stays_within_the_bytes(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 256, (700, 900, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    (thumbnail,) = make_thumbnails([shown(str(tmp_path / "noise.png"))], None, {}, room=ROOM).values()
    assert thumbnail.data_uri is not None
    assert len(base64.b64decode(thumbnail.data_uri.partition("base64,")[2])) <= MOST_BYTES


def test_a_browser_is_told_where_the_photograph_is_that_it_can_show(tmp_path: Path):
    name = "50% #1?.jpg"
    (tmp_path / name).write_bytes(jpeg(photo(0, (400, 300))))
    Image.fromarray(np.zeros((600, 800, 3), np.uint8)).save(tmp_path / "a.tif")
    jpg, tif = make_thumbnails(
        [shown(str(tmp_path / name)), shown(str(tmp_path / "a.tif"))], None, {}, room=ROOM
    ).values()
    assert jpg.original == f"file://{tmp_path}/50%25%20%231%3F.jpg"
    assert max(jpg.width, jpg.height) == SIDE
    # Of the other there is nothing to be shown large but the picture itself.
    assert (tif.original, tif.width) == (None, 800)


def test_all_pictures_share_the_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(thumbnails, "ALL_BYTES", ALL_BYTES // 20)
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1400, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(noise).save(content, "JPEG", quality=50)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:  # in which no browser looks
        for i in range(30):
            info = tarfile.TarInfo(f"{i}.jpg")
            info.size = len(content.getvalue())
            archive.addfile(info, io.BytesIO(content.getvalue()))
    source = str(tmp_path / "a.tar")
    manifest = write_manifest(ManifestOptions(source=source, manifest=str(tmp_path / "manifest"), shard_size=100))
    photos = [shown(entry.uri, entry.member, entry.etag) for entry in Listing(source)]
    made = make_thumbnails(photos, manifest, {}, room=ROOM).values()
    assert sum(thumbnail.encoded for thumbnail in made) <= ALL_BYTES // 20
    assert all(100 <= thumbnail.width <= SIDE for thumbnail in made)
    (alone,) = make_thumbnails(photos[:1], manifest, {}, room=ROOM).values()
    assert SIDE < alone.width <= LARGE_SIDE


def test_a_picture_counts_as_often_as_it_is_shown_and_names_count_too(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 256, (700, 900, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    one = shown(str(tmp_path / "noise.png"))
    photos = [replace(one, image_id=str(i)) for i in range(20)]
    for room in (300_000, 50_000):
        made = make_thumbnails([*photos, *photos[:10], *photos[:10]], None, {}, room=room)
        times = [3] * 10 + [1] * 10
        written = [len(made[photo.image_id].data_uri or "") for photo in photos]
        assert sum(count * size for count, size in zip(times, written, strict=True)) <= max(room, 40 * 2200)


def test_a_page_of_many_bursts_and_failures_stays_below_3_mb(tmp_path: Path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos of a folder with a long name" / ("日本の写真_" * 10)
    folder.mkdir(parents=True)
    rows, hashes = [], [rng.bytes(8).hex() for _ in range(10)]
    for i in range(60):
        # No browser shows a TIFF, so each has a large copy; and each is a near-copy of others.
        path = folder / f"{i}_{'long-name_' * 15}.tif"
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)).resize((400, 300)).save(path, "TIFF")
        rows.append(score_row(str(path), i / 60, phash=hashes[i // 6]))
    rows += [score_row(f"{folder}/{i}_{'失敗' * 60}.jpg", None, error=f"<'{i}'> & more " * 5) for i in range(1500)]
    before = [row | {"score": row["score"] and row["score"] * (0.8 if i % 2 else 1.1)} for i, row in enumerate(rows)]
    page = report(write_run(tmp_path / "run", rows), compare=str(write_run(tmp_path / "before", before)))
    assert page.count("<img src") > 90
    assert 2_000_000 < len(page.encode()) < 3_000_000


def test_members_of_archives_and_rows_of_tables(tmp_path: Path):
    images = [jpeg(photo(seed)) for seed in range(3)]
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for i, content in enumerate(images):
            info = tarfile.TarInfo(f"{i}.jpg")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    pq.write_table(pa.table({"image": images}), tmp_path / "b.parquet")
    entries = [entry for name in ("a.tar", "b.parquet") for entry in Listing(str(tmp_path / name))]
    assert len(entries) == 6
    for name, i in (("a.tar", slice(0, 3)), ("b.parquet", slice(3, 6))):
        source, folder = str(tmp_path / name), str(tmp_path / f"{name}-manifest")
        manifest = write_manifest(ManifestOptions(source=source, manifest=folder, shard_size=2))
        photos = [shown(e.uri, e.member, e.etag, shard=row // 2) for row, e in enumerate(entries[i])]
        made = make_thumbnails(photos, manifest, {}, room=ROOM)
        for one, content in zip(photos, images, strict=True):
            expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), np.float32)
            found = np.asarray(picture(made[one.image_id]), np.float32)
            assert np.abs(found - expected).mean() < 10


def test_what_cannot_be_shown_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    (tmp_path / "text.jpg").write_text("<html>")
    (tmp_path / "changed.jpg").write_bytes(jpeg(photo(0)))
    names = ("bomb.png", "text.jpg", "gone.jpg", "changed.jpg")
    photos = [shown(str(tmp_path / name), etag="of another day") for name in names]
    archive = shown(str(tmp_path / "gone.tar"), "a.jpg")
    notes = {key: thumbnail.note for key, thumbnail in make_thumbnails([*photos, archive], None, {}, room=ROOM).items()}
    told = [notes[one.image_id] or "" for one in photos]
    assert "limit" in told[0]
    assert "a web page" in told[1]
    assert "not shown: no such file" in told[2]
    assert told[3] == "changed since it was scored"
    assert "not shown" in (notes[archive.image_id] or "")


def test_no_more_are_read_than_the_cap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(thumbnails, "MOST_THUMBNAILS", 3)
    (tmp_path / "a.jpg").write_bytes(jpeg(photo(0)))
    one = shown(str(tmp_path / "a.jpg"))
    photos = [one, one, *(replace(one, image_id=str(i)) for i in range(9))]
    assert list(make_thumbnails(photos, None, {}, room=ROOM)) == [one.image_id, "0", "1"]


# --- The page ---------------------------------------------------------------------------------------------------------


def test_a_finished_run(tmp_path: Path):
    rows = random_rows(300, root=str(tmp_path / "photos"))
    page = report(write_run(tmp_path / "run", rows, source="/photos/of/mine"))
    scored = sum(row["score"] is not None for row in rows)
    assert "<title>Photo quality of mine</title>" in page
    assert f"<strong>{scored}</strong> of 300 photos have a score" in page
    assert f'<a href="#failures">{300 - scored} failed</a>' in page
    assert "meant to hold 90 % of ratings" in page
    assert "BIQ2021" in page  # the model card
    assert "400 photographs not fitted on" in page
    assert "12.5 photos a second" in page
    assert "91.2 %" in page  # of the time, the model's: 36.5 s of 40 s
    assert "not shown: no such file" in page
    assert "Not finished" not in page
    assert "None" not in page


def test_an_unfinished_run_says_so(tmp_path: Path):
    page = report(write_run(tmp_path / "run", random_rows(90), finished=False, images=1000), thumbnails=False)
    assert "<strong>Not finished.</strong> 90 of 1,000 photos" in page
    assert 'id="speed"' not in page
    assert "<img src" not in page
    assert "not shown" not in page


def commands(page: str) -> list[list[str]]:
    texts = re.findall(r"<code[^>]*>(grepr filter .*?)</code>", page)
    return [shlex.split(unescape(re.sub("<[^>]*>", "", text))) for text in texts]


@pytest.mark.parametrize(("finished", "lost"), [(True, False), (False, False), (True, True)])
def test_its_commands_are_such_as_filter_takes(finished: bool, lost: bool, tmp_path: Path):
    alike = [score_row(f"/alike/{i}.jpg", 0.5 + i / 100, phash="0123456789abcdef") for i in range(7)]
    run = write_run(tmp_path / "run", [*alike, *random_rows(90)], finished=finished)
    if lost:
        (run / "scores" / shard_name(1)).unlink()
    found = commands(report(run, thumbnails=False))
    assert len(found) == 2
    for number, command in enumerate(found):
        command[command.index("--output") + 1] = str(tmp_path / f"out-{number}")
        assert ("--unfinished" in command) == (lost or not finished)
        options = parse(command[1:])
        assert isinstance(options, FilterOptions)
        assert select(options).selected > 0


def test_a_selection_says_so_and_of_what(tmp_path: Path):
    alike = [score_row(f"/alike/{i}.jpg", 0.5 + i / 100, phash="0123456789abcdef") for i in range(7)]
    write_run(tmp_path / "run", [*alike, *random_rows(90)], source="/photos/of/mine")
    where = "width >= 400 and uri <> 'it''s'"
    selected = select(
        FilterOptions(scores=str(tmp_path / "run"), output=str(tmp_path / "kept"), min_score=0.5, where=where)
    )
    page = unescape(report(tmp_path / "kept", thumbnails=False)).replace("<wbr>", "")
    assert f"<strong>A selection</strong>, {selected.selected} of 97 photos, from <bdi" in page
    assert f'title="{tmp_path / "run"}"' in page
    (by,) = re.findall("by <code>(.*?)</code>", page)
    assert shlex.split(by) == ["--min-score", "0.5", "--where", where]
    assert "Not finished" not in page
    assert "not finished" not in page
    assert "grepr score" not in page
    assert "BIQ2021" in page  # the card of the model of the run that it is from
    for number, command in enumerate(commands(page)):
        command[command.index("--output") + 1] = str(tmp_path / f"out-{number}")
        assert "--unfinished" not in command
        options = parse(command[1:])
        assert isinstance(options, FilterOptions)
        assert select(options).selected > 0
    page = report(tmp_path / "run", compare=str(tmp_path / "kept"), thumbnails=False)
    assert "The other one is a selection" in page
    # One that was killed, and whose scores are gone.
    (tmp_path / "kept" / "filter.json").unlink()
    (tmp_path / "run" / "run.json").unlink()
    page = report(tmp_path / "kept", thumbnails=False)
    assert "<strong>A selection</strong> from" in page
    assert "The same <code>grepr filter</code> command again goes on" in page
    assert all("--unfinished" in command for command in commands(page))


@pytest.mark.parametrize("archives", [1, 2])
def test_failures_in_archives_are_told_by_the_archive(archives: int, tmp_path: Path):
    rows = [
        score_row(f"/lake/photos/{'ab'[i % archives]}.tar", None if i < 4 else 0.5, member=f"x/{i}.jpg")
        for i in range(8)
    ]
    page = report(write_run(tmp_path / "run", rows), thumbnails=False).replace("<wbr>", "")
    found = re.findall(r'<tr><td><bdi title="(.*?)">(.*?)</bdi>, <bdi title="(.*?)">', page)
    archive = [f"{'ab'[i % archives]}.tar" for i in range(4)]
    assert sorted(found) == sorted((f"/lake/photos/{a}", a, f"x/{i}.jpg") for i, a in enumerate(archive))


def test_a_title(tmp_path: Path):
    page = report(write_run(tmp_path / "run", random_rows(30)), title="Ours & <theirs>", thumbnails=False)
    assert "<title>Ours &amp; &lt;theirs&gt;</title>" in page


@pytest.mark.parametrize("model", ["grepr-lite", "/nowhere/model"])
def test_a_model_that_is_gone_costs_the_card_alone(tmp_path: Path, model: str):
    rows = [row | {"model_id": "0123456789abcdef"} for row in random_rows(30)]
    page = unescape(report(write_run(tmp_path / "run", rows, model=model), thumbnails=False))
    assert "The model card is missing" in page
    assert ("is another model by now" in page) == (model == "grepr-lite")
    assert "0123456789abcdef" in page


def test_what_ails_the_photos(tmp_path: Path):
    rows = [score_row(f"s3://lake/{i:03d}.jpg", i / 100, not_photo=False) for i in range(100)]
    for row in rows[:5]:
        row["reason"] = "low_contrast"
    page = report(write_run(tmp_path / "now", rows), thumbnails=False)
    assert "Faults</h2>" in page
    assert re.search(r"Low contrast<.*?>5<.*?>5 %<.*?>50 %<", page)
    assert '<span class="reason">low contrast</span>' in page
    before = [row | {"reason": "blur" if i < 2 else None} for i, row in enumerate(rows)]
    write_run(tmp_path / "before", before)
    page = report(tmp_path / "now", compare=str(tmp_path / "before"), thumbnails=False)
    assert re.search(r"Low contrast<.*?>5 %<.*?>50 %<.*?>0 %<", page)
    assert "Faults</h2>" not in report(write_run(tmp_path / "untold", random_rows(30)), thumbnails=False)


def test_nothing_scored(tmp_path: Path):
    page = report(write_run(tmp_path / "run", [score_row(f"/a/{i}.jpg", None) for i in range(3)]))
    assert "None of 3 photos has a score" in page
    assert "no such file" in page


def test_two_nights_in_words(tmp_path: Path):
    monday = write_run(tmp_path / "monday", random_rows(200))
    tuesday = write_run(tmp_path / "tuesday", random_rows(200))
    page = report(tuesday, compare=str(monday), thumbnails=False)
    assert "Both runs were scored by the same model in the same way" in page
    assert "distributed as before" in page
    lower = [row | {"score": row["score"] and row["score"] * 0.8} for row in random_rows(200)]
    page = report(write_run(tmp_path / "third", lower), compare=str(monday), thumbnails=False)
    assert "The scores have shifted: the median went from" in page
    assert "Fell most" in page
    assert "Rose most" not in page
    other = [row | {"model_id": "0123456789abcdef"} for row in lower]
    run = write_run(tmp_path / "fourth", other, model="my-model", finished=False)
    page = report(tuesday, compare=str(run), thumbnails=False)
    assert "scored by different models: my-model then, grepr-lite now" in page
    assert "The other run is not finished" in page
    with pytest.raises(UserError, match="no such folder, or nothing in it"):
        report(tuesday, compare=str(tmp_path / "nothing"))


def test_only_pages_are_replaced(tmp_path: Path):
    scores = write_run(tmp_path / "scores", [score_row("/a/b.jpg", 0.5)])
    ratings = tmp_path / "ratings.csv"
    ratings.write_text("image,mos\nb.jpg,4\n")
    with pytest.raises(UserError, match=r"ratings\.csv: is there already, and no page"):
        run(ReportOptions(scores=str(scores), output=str(ratings), thumbnails=False))
    assert ratings.read_text().startswith("image,mos")
    page = tmp_path / "page.html"
    for _ in range(2):
        run(ReportOptions(scores=str(scores), output=str(page), thumbnails=False))
    assert page.read_bytes().startswith(b"<!doctype html>")


def test_near_copies_in_words(tmp_path: Path):
    alike = [score_row(f"/a/{i}.jpg", 0.5 + i / 100, phash="0123456789abcdef") for i in range(7)]
    output = write_run(tmp_path / "run", [*alike, score_row("/b.jpg", 0.1, phash="fedcba9876543210")])
    page = report(output, thumbnails=False).replace("<wbr>", "")
    assert "6 photos are near-copies of a better one, in 1 group:" in page
    assert "<h3>7 photos<span>, 5 of them, the best first</span></h3>" in page
    command = f"grepr filter {output} <span>--output distinct</span> <span>--distinct</span>"
    assert command in page
    assert '<span class="reason">6 near-copies</span>' in page
    assert "<dt>Near-copies</dt><dd>6 other photos</dd>" in page


def test_too_many_failures_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipelines.reporting.failures.MOST_FAILURES", 10)
    output = write_run(tmp_path / "o'run", [score_row(f"/a/{i}.jpg", None if i < 25 else 0.5) for i in range(50)])
    page = unescape(report(output, thumbnails=False)).replace("<wbr>", "")
    assert "10 of them, one by one" in page
    assert "15 more are not on this page" in page
    (query,) = re.findall("SELECT uri.*?;", page)
    assert len(duckdb.sql(query).fetchall()) == 25


@pytest.mark.s3
def test_from_a_store_to_a_store(tmp_path: Path):
    with s3_server(tmp_path):
        store = s3fs.S3FileSystem()
        for bucket in ("lake", "scores"):
            store.mkdir(bucket)
        store.pipe_file("lake/photos/a/0 ü.jpg", jpeg(photo(0)))
        rows = [score_row("s3://lake/photos/a/0 ü.jpg", 0.9), *random_rows(100)]
        write_run("s3://scores/monday", rows)
        result = run(ReportOptions(scores="s3://scores/monday", output="s3://scores/pages/monday.html"))
        page = store.cat_file("scores/pages/monday.html").decode()
    assert result.thumbnails == 1
    assert "<img" in page
    assert len(page.encode()) == result.bytes
    assert "0 ü.jpg" in page


# --- Words ------------------------------------------------------------------------------------------------------------


def test_long_names_lose_their_middle():
    assert shorten("short.jpg", 20) == "short.jpg"
    long = shorten("/a/very/long/path/" + "x" * 4000 + "/IMG_1234.jpg", 40)
    assert len(long) == 40
    assert long.startswith("/a/very/")
    assert long.endswith("/IMG_1234.jpg")


def test_what_acts_unseen_is_made_visible():
    assert visible("a\u202egpj.exe\n\x00\u2028é بحر 👍") == "a⟨U+202E⟩gpj.exe⟨U+000A⟩⟨U+0000⟩⟨U+2028⟩é بحر 👍"


def test_a_name_ends_its_line_where_its_parts_end():
    assert breakable("a/b_c.jpg") == "a/<wbr>b_<wbr>c.<wbr>jpg"
    assert breakable("<b>/&") == "&lt;b&gt;/<wbr>&amp;"


@pytest.mark.parametrize(
    "name", ["plain", "two words", "it's", '$HOME `x` "y" \\', "a\nb", "p\u202egpj'\\.exe", "é\u2028👍\t"]
)
def test_a_shell_reads_what_was_quoted(name: str):
    quoted = quote(f"/x/{name}")
    assert visible(quoted) == quoted
    found = subprocess.run(["bash", "-c", f"printf %s {quoted}"], check=True, capture_output=True).stdout
    assert found.decode() == f"/x/{name}"


def test_numbers_in_words():
    assert [format_percent(f) for f in (0, 0.0001, 0.5, 0.1234, 0.9999, 1)] == [
        *("0 %", "< 0.1 %", "50 %", "12.3 %", "> 99.9 %", "100 %")
    ]
    assert [format_bytes(n) for n in (0, 999, 1500, 858_088_204_800)] == ["0 bytes", "999 bytes", "1.5 kB", "858 GB"]
    assert [format_change(c) for c in (0.0001, -0.05, 0.1)] == ["0", "\N{MINUS SIGN}0.050", "+0.100"]
    assert [format_duration(s) for s in (1.25, 150, 7200)] == ["1.2 s", "2.5 minutes", "2.0 hours"]


@pytest.mark.parametrize(
    ("given", "written"),
    [(None, "scores/report.html"), ("pages/", "pages/report.html"), ("there", "there/report.html"), ("a.htm", "a.htm")],
)
def test_the_page_goes_beside_the_scores_or_where_it_is_told(
    given: str | None, written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    rows = random_rows(20)
    write_run(tmp_path / "scores", rows, shard_size=7)
    for _ in range(2):  # its page does not disturb what reads the scores
        result = run(ReportOptions(scores="scores/", output=given, thumbnails=False))
        assert result.output == str(tmp_path / written)
        assert (tmp_path / written).stat().st_size == result.bytes
        assert result.images == len(rows)
