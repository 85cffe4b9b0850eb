"""Choosing photos and rating them, up to the fit, with real features and a real server."""

import contextlib
import io
import json
import re
import shlex
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image
from starlette.testclient import TestClient

from grepr_core.decoding.images import Limits
from grepr_core.errors import UserError
from grepr_core.pretraining.distortions import distort
from pipelines.lake.image_reader import ImageReader
from pipelines.lake.sources import Entry
from pipelines.models import fit
from pipelines.options import FitOptions, LabelOptions, ScoreOptions
from pipelines.rating.journal import Photo, RatingJournal
from pipelines.rating.label import fit_command, plan
from pipelines.rating.label import run as run_label
from pipelines.rating.page import make_app
from pipelines.scoring.score import run as score
from tests.lake import SMALL_VIEW, grepr, jpeg, photo

PHOTOS = 30
TOKEN, NAME = "secret", "photos.home.arpa"


def noisy(i: int) -> bytes:
    """A photograph in one of five degrees of noise."""
    return jpeg(Image.fromarray(distort(np.asarray(photo(i, (96, 96))), "gaussian_noise", i % 5 + 1, seed=i)))


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory, warm_process: None) -> Path:
    """Photographs, one that is none, and their scores with features."""
    folder = tmp_path_factory.mktemp("lake")
    (folder / "photos/sub").mkdir(parents=True)
    for i in range(PHOTOS):
        (folder / "photos" / (f"sub/{i:02d}.jpg" if i % 2 else f"{i:02d}.jpg")).write_bytes(noisy(i))
    (folder / "photos/broken.jpg").write_bytes(b"not an image")
    score(
        ScoreOptions(
            source=str(folder / "photos"),
            output=str(folder / "scores"),
            features=True,
            workers=1,
            max_pixels=SMALL_VIEW,
        )
    )
    return folder


def options(lake: Path, output: Path, **others: object) -> LabelOptions:
    return LabelOptions(**{"source": str(lake / "scores"), "output": str(output), "count": 20, **others})


def planned(chosen: LabelOptions) -> RatingJournal:
    journal = RatingJournal(Path(chosen.output))
    plan(journal, chosen)
    return journal


def rate_all(journal: RatingJournal) -> None:
    """Rates by the noise that is there, which the number in a photo's name tells."""
    for slot in journal.upcoming("Ann"):
        photo = journal.photos[journal.slots[slot].photo]
        number = re.findall(r"(\d+)\.jpg", photo.entry.member or photo.entry.uri)[-1]
        journal.rate("Ann", slot, 5 - int(number) % 5)


def fit_by(command: str, output: Path) -> fit.FitResult:
    """Fits as the printed command says, in this process."""
    words = shlex.split(command)
    assert words[:2] == ["grepr", "fit"]
    assert words[3] == "--images"
    return fit.run(FitOptions(ratings=words[2], images=words[4], output=str(output), workers=1, max_pixels=SMALL_VIEW))


@pytest.mark.slow
def test_chosen_by_features_of_scores_rated_and_fitted(lake: Path, tmp_path: Path):
    chosen = options(lake, tmp_path / "ratings.csv")
    journal = planned(chosen)
    assert len(journal.photos) == 20
    assert len({photo.image for photo in journal.photos}) == 20
    assert all((lake / "photos" / photo.image).exists() for photo in journal.photos)
    assert "broken.jpg" not in {photo.image for photo in journal.photos}
    assert sum(slot.repeat for slot in journal.slots) == 2
    # The same options choose the same; and more photos are the next best, found from where it ended.
    assert planned(options(lake, tmp_path / "again.csv")).photos == journal.photos
    more = planned(options(lake, tmp_path / "more.csv", count=25)).photos
    assert more[:20] == journal.photos
    plan(journal, options(lake, tmp_path / "ratings.csv", count=25))
    assert journal.photos == more
    rate_all(journal)
    result = fit_by(fit_command(journal, chosen), tmp_path / "model")
    assert result.ratings == 25
    journal.close()
    with pytest.raises(UserError, match=r"chosen otherwise .*--seed: then 0, now 1"):
        planned(options(lake, tmp_path / "ratings.csv", seed=1))


def test_the_command_to_go_on_with_tells_no_secrets(tmp_path: Path):
    secrets = {"key": "SECRET", "headers": {"X-Api-Key": "SECRET"}}
    source = "https://me:SECRET@photos.example/"
    chosen = LabelOptions(source=source, output="r.csv", storage_options=secrets, allow_link_local=True)
    journal = RatingJournal(tmp_path / "r.csv")
    journal.add_photos({"images": source}, [], repeats=0)
    command = fit_command(journal, chosen)
    journal.close()
    assert "SECRET" not in command
    words = shlex.split(command)
    assert json.loads(words[words.index("--storage-options") + 1]) == {"key": "...", "headers": "..."}
    assert "--allow-link-local" in words


@pytest.mark.slow
def test_without_features_of_that_model_a_sample_is_scored(lake: Path, tmp_path: Path):
    """Members of a tar, which the table of ratings must lead back to."""
    with tarfile.open(tmp_path / "lake.tar", "w") as archive:
        for i in range(24):
            content = noisy(i)
            info = tarfile.TarInfo(f"{i:02d}.jpg")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    chosen = options(lake, tmp_path / "r.csv", source=str(tmp_path / "lake.tar"), pool=22, count=21, workers=1)
    journal = planned(chosen)
    assert len({photo.entry.member for photo in journal.photos}) == 21
    rate_all(journal)
    assert fit_by(fit_command(journal, chosen), tmp_path / "model").ratings == 21


def test_scores_lead_back_to_a_manifest(lake: Path, tmp_path: Path):
    shutil.copytree(lake / "scores", tmp_path / "s")
    # As it is where the scores were made from a manifest that lies elsewhere.
    (tmp_path / "s/manifest").rename(tmp_path / "m")
    record = json.loads((tmp_path / "s/run.json").read_text())
    record["options"]["source"] = str(tmp_path / "m")
    (tmp_path / "s/run.json").write_text(json.dumps(record))
    by_manifest = planned(options(lake, tmp_path / "r.csv", source=str(tmp_path / "s"), count=5))
    assert by_manifest.photos == planned(options(lake, tmp_path / "r2.csv", count=5)).photos
    (tmp_path / "m/manifest.json").unlink()
    with pytest.raises(UserError, match=r"manifest it was scored from, .* is gone"):
        planned(options(lake, tmp_path / "r3.csv", source=str(tmp_path / "s")))
    (tmp_path / "s/run.json").unlink()
    with pytest.raises(UserError, match="not finished"):
        planned(options(lake, tmp_path / "r4.csv", source=str(tmp_path / "s")))


def test_a_small_lake_is_rated_whole(lake: Path, tmp_path: Path):
    journal = planned(options(lake, tmp_path / "r.csv", count=40))
    assert len(journal.photos) == PHOTOS
    # Asked for the same again, it looks for no more.
    plan(journal, options(lake, tmp_path / "r.csv", count=40))
    assert len(journal.photos) == PHOTOS


@pytest.mark.slow
def test_no_copies_are_chosen_of_photos_that_left_the_source(lake: Path, tmp_path: Path):
    """The list of photos leads to copies now, and to five others."""

    def listing(*contents: bytes, folder: str) -> None:
        (tmp_path / folder).mkdir()
        paths = [tmp_path / folder / f"{i:02d}.jpg" for i in range(len(contents))]
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
        (tmp_path / "list.csv").write_text("\n".join(["path", *map(str, paths)]))

    def chosen(count: int) -> LabelOptions:
        source = str(tmp_path / "list.csv")
        return options(lake, tmp_path / "r.csv", source=source, count=count, workers=1, max_pixels=SMALL_VIEW)

    photos = [noisy(i) for i in range(25)]
    listing(*photos[:20], folder="then")
    journal = planned(chosen(20))
    copies = [jpeg(Image.open(io.BytesIO(content)), quality=50) for content in photos[:20]]
    listing(*copies, *photos[20:], folder="now")
    plan(journal, chosen(40))
    assert {photo.entry.uri for photo in journal.photos[20:]} == {str(tmp_path / f"now/{i}.jpg") for i in range(20, 25)}
    # Where there are copies alone, there is no more to rate, which is no error.
    listing(*copies, folder="later")
    plan(journal, chosen(50))
    assert len(journal.photos) == 25
    journal.close()


def test_what_is_left_out_is_told(lake: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "photos").mkdir()
    for name, level in (("black", 0), ("white", 255)):
        Image.new("RGB", (96, 96), (level,) * 3).save(tmp_path / f"photos/{name}.png")
    mixed = options(lake, tmp_path / "r.csv", source=str(tmp_path / "photos"), workers=1, max_pixels=SMALL_VIEW)
    with pytest.raises(UserError, match="there is no photo to rate: 2 blank pictures among 2"):
        planned(mixed)
    (tmp_path / "photos/photo.jpg").write_bytes(noisy(0))
    with caplog.at_level("INFO"):
        journal = planned(options(lake, tmp_path / "r2.csv", source=mixed.source, workers=1, max_pixels=SMALL_VIEW))
    assert [photo.image for photo in journal.photos] == ["photo.jpg"]
    assert "there is no more to rate than 1 photo" in caplog.text
    assert "left out: 2 blank pictures" in caplog.text


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    """The page of six photos: a plain JPEG, others, a bomb, and one that is not there."""
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "0.jpg")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "1.tif", exif=turned)
    Image.fromarray(np.zeros((40, 60, 4), np.uint8)).save(tmp_path / "2.png")
    Image.new("1", (5000, 5000)).save(tmp_path / "3.png")
    names = ["0.jpg", "1.tif", "2.png", "3.png", "4.jpg"]
    journal = RatingJournal(tmp_path / "ratings.csv")
    journal.add_photos({}, [Photo(name, Entry(str(tmp_path / name))) for name in names], repeats=1)
    limits = Limits(max_pixels=10**6)
    reader = ImageReader(limits=limits, timeout=5)
    finished: list[bool] = []
    app = make_app(journal, reader, limits=limits, token=TOKEN, host=NAME, finish=lambda: finished.append(True))
    client = TestClient(app, base_url=f"http://127.0.0.1:8000/{TOKEN}/")
    client.finished = finished
    return client


def test_photos_come_as_a_browser_shows_them(client: TestClient, tmp_path: Path):
    plain = client.get("photos/0")
    assert (plain.content, plain.headers["content-type"]) == ((tmp_path / "0.jpg").read_bytes(), "image/jpeg")
    upright = client.get("photos/1")
    assert upright.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(upright.content)).size == (40, 60)
    assert Image.open(io.BytesIO(client.get("photos/2").content)).getpixel((0, 0)) == (255, 255, 255)
    bomb, missing = client.get("photos/3"), client.get("photos/4")
    assert (bomb.status_code, missing.status_code) == (422, 422)
    assert bomb.text.startswith("too_large: 5,000 x 5,000 pixels")
    assert missing.text.startswith("missing")
    assert client.get("photos/5").status_code == 404


def test_a_large_photo_comes_as_a_copy_of_the_size_of_a_screen(client: TestClient, tmp_path: Path):
    rng = np.random.default_rng(0)
    turned = Image.Exif()
    turned[0x0112] = 6
    photo = Image.fromarray(rng.integers(0, 255, (800, 1200, 3), np.uint8))
    photo.save(tmp_path / "0.jpg", quality=95, exif=turned)
    content = (tmp_path / "0.jpg").read_bytes()
    assert len(content) > 2**20
    copy = client.get("photos/0", params={"pixels": 60_000})
    assert (copy.headers["content-type"], copy.headers["x-full-size"]) == ("image/jpeg", "800x1200")
    assert Image.open(io.BytesIO(copy.content)).size == (200, 300)
    assert len(copy.content) < 200_000
    for pixels in ({}, {"pixels": 960_000}, {"pixels": 10**8}):
        whole = client.get("photos/0", params=pixels)
        assert (whole.content, "x-full-size" in whole.headers) == (content, False)
    for pixels in ("", "0", "-1", "1e6", "9999", "1" * 30, "\u0663" * 6):
        assert client.get("photos/0", params={"pixels": pixels}).status_code == 400


def test_only_the_token_opens_the_page(client: TestClient):
    for path in (
        "/",
        "/favicon.ico",
        "/wrong/",
        "/wrong/photos/0",
        f"/{TOKEN}x/photos/0",
        f"//{TOKEN}/photos/0",
        "/\u00fc/",
    ):
        assert client.get(f"http://127.0.0.1:8000{path}").status_code == 403, path
    answer = client.get("")
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    for name in ("page.js", "page.css"):
        assert client.get(name).status_code == 200
    assert client.get("%2e%2e/server.py").status_code == 404


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "192.168.1.20.evil.example:8000",
        "evil.example:8000@127.0.0.1",
        "127.0.0.1/evil.example",
        "localhost.evil.example",
        "[::1].evil.example",
        "[::1",
        "2130706433",
        "",
    ],
)
def test_a_name_made_to_point_here_is_turned_away(client: TestClient, host: str):
    answer = client.get("photos/0", headers={"Host": host})
    assert answer.status_code == 400
    assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    "host", ["localhost:99", "127.0.0.1", "192.168.1.20:8000", "[fd00::1]:8000", "[::1]", "Photos.home.arpa:8000"]
)
def test_an_address_and_the_name_that_was_given_are_answered(client: TestClient, host: str):
    assert client.get("photos/0", headers={"Host": host}).status_code == 200
    assert client.get("http://127.0.0.1:8000/wrong/photos/0", headers={"Host": host}).status_code == 403


def test_rating_by_several_people(client: TestClient, tmp_path: Path):
    state = client.get("api/state", params={"rater": " Ann  B "}).json()
    first = {"slot": 0, "photo": 0}
    assert state == {"total": 6, "done": 0, "upcoming": [first, {"slot": 1, "photo": 1}], "last": None}
    state = client.post("api/rate", json={"rater": "Ann B", "slot": 0, "rating": 4}).json()
    assert (state["done"], state["upcoming"][0]["slot"], state["last"]) == (1, 1, {"slot": 0, "rating": 4})
    again = client.post("api/rate", json={"rater": "Ann B", "slot": 0, "rating": 1}).json()
    assert again == state
    other = client.post("api/rate", json={"rater": "Ben", "slot": 0, "rating": 2}).json()
    assert other == {**state, "last": {"slot": 0, "rating": 2}}
    assert client.get("api/raters").json() == ["Ann B", "Ben"]
    assert (tmp_path / "ratings.csv").read_text().splitlines()[1] == "0.jpg,3,1.41421,2"
    assert client.post("api/undo", json={"rater": "Ben", "slot": 0}).json()["done"] == 0
    assert (tmp_path / "ratings.csv").read_text() == "image,mos\n0.jpg,4\n"
    for slot in range(1, 6):
        state = client.post("api/rate", json={"rater": "Ann B", "slot": slot, "rating": None}).json()
    assert state["upcoming"] == []
    assert state["consistency"] == "no photo was rated twice"
    assert not client.finished
    client.post("api/finish", json={})
    assert client.finished


@pytest.mark.parametrize(
    "body",
    [
        {"rater": "Ann", "slot": 0, "rating": 6},
        {"rater": "Ann", "slot": 0, "rating": 2.5},
        {"rater": "Ann", "slot": 0, "rating": True},
        {"rater": "Ann", "slot": 6, "rating": 1},
        {"rater": "Ann", "slot": -1, "rating": 1},
        {"rater": "Ann", "rating": 1},
        {"rater": "", "slot": 0, "rating": 1},
        {"rater": "x" * 65, "slot": 0, "rating": 1},
        {"rater": "a\u202eb", "slot": 0, "rating": 1},
        {"slot": 0, "rating": 1},
        [],
    ],
)
def test_what_is_no_rating_is_refused(client: TestClient, body: object, tmp_path: Path):
    before = (tmp_path / "ratings.events.jsonl").read_bytes()
    assert client.post("api/rate", json=body).status_code == 400
    assert client.post("api/rate", content=b"{").status_code == 400
    assert client.post("api/rate", content=b" " * 5000).status_code == 413
    assert (tmp_path / "ratings.events.jsonl").read_bytes() == before


@contextlib.contextmanager
def labelling(*arguments: str | Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Runs the command; gives it and the address of its page."""
    process = grepr("label", *arguments)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("rate here: http://127.0.0.1:"), line
        yield process, line.split()[-1]
    finally:
        process.kill()
        process.wait()


def rate(page: str, slots: range) -> None:
    for slot in slots:
        rating = {"rater": "Ann", "slot": slot, "rating": slot % 5 + 1}
        assert requests.post(page + "api/rate", json=rating, timeout=60).status_code == 200


@pytest.mark.slow
def test_the_command_goes_on_after_it_was_killed(lake: Path, tmp_path: Path):
    arguments = (lake / "scores", "--output", tmp_path / "ratings.csv", "--count", "21")
    with labelling(*arguments) as (_, page):
        rate(page, range(20))
    with labelling(*arguments) as (process, page):
        state = requests.get(page + "api/state?rater=Ann", timeout=60).json()
        assert (state["done"], state["total"]) == (20, 23)
        rate(page, range(20, 23))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "21 of 21 photos rated" in out
    assert "Ann: " in out
    assert f"next: grepr fit {tmp_path / 'ratings.csv'} --images {lake / 'photos'} --output my-model" in out
    events = [json.loads(line) for line in (tmp_path / "ratings.events.jsonl").read_text().splitlines()]
    assert [event["slot"] for event in events[1:]] == list(range(23))


def test_a_host_that_is_none_is_told_before_photos_are_looked_at(tmp_path: Path):
    options = LabelOptions(
        source=str(tmp_path / "not-looked-at"), output=str(tmp_path / "new" / "ratings.csv"), host="192.0.2.7"
    )
    with pytest.raises(UserError, match=r"--host 192\.0\.2\.7: .*give an address of this machine"):
        run_label(options, announce=print)
    assert not (tmp_path / "new").exists()
