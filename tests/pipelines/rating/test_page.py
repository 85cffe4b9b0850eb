"""The page in a real browser: rate, undo, reload, finish; and the fit that follows."""

import json
import os
import shlex
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Queue

import numpy as np
import pytest
import requests
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from grepr_core.decoding.images import Limits
from grepr_core.pretraining.distortions import distort
from pipelines.lake.image_reader import ImageReader
from pipelines.lake.sources import Entry
from pipelines.models import fit
from pipelines.models.rated_features import read_ratings
from pipelines.options import FitOptions, LabelOptions
from pipelines.rating.journal import Photo, RatingJournal
from pipelines.rating.label import fit_command
from pipelines.rating.page import serve
from tests.lake import jpeg, photo
from tests.pipelines.rating.full_disk import files_up_to

PHOTOS, REPEATS = 21, 2
BROKEN = 3
TIMES = "\N{MULTIPLICATION SIGN}"
HOSTILE = '<img src=x onerror="document.title=1">\u202e.jpg'


class Served:
    """A page that is served by a thread."""

    def __init__(self, journal: RatingJournal, folder: Path) -> None:
        self.journal = journal
        self.folder = folder
        addresses: Queue[str] = Queue()
        limits = Limits()
        reader = ImageReader(limits=limits, timeout=5)
        self.thread = threading.Thread(
            target=serve,
            args=(journal, reader),
            kwargs={"limits": limits, "host": "127.0.0.1", "port": 0, "announce": addresses.put},
        )
        self.thread.start()
        self.address = addresses.get(timeout=30).split()[-1]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Photographs in five degrees of noise, one with a name made to harm, and one that cannot be shown."""
    names = [f"{i:02d}.jpg" for i in range(PHOTOS)]
    names[1] = HOSTILE
    for i, name in enumerate(names):
        noisy = distort(np.asarray(photo(i, (128, 96))), "gaussian_noise", i % 5 + 1, seed=i)
        (tmp_path / name).write_bytes(jpeg(Image.fromarray(noisy)) if i != BROKEN else b"not an image")
    journal = RatingJournal(tmp_path / "ratings.csv")
    photos = [Photo(name, Entry(str(tmp_path / name))) for name in names]
    journal.add_photos({"images": str(tmp_path)}, photos, REPEATS)
    served = Served(journal, tmp_path)
    yield served
    if served.thread.is_alive():
        requests.post(served.address + "api/finish", json={}, timeout=10)
        served.thread.join(timeout=30)
    journal.close()


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    """The page, opened; nothing may go wrong on it but a photo that cannot be shown, or a command that has ended."""
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("request", lambda r: None if r.url.startswith((served.address, "data:", "blob:")) else wrong.append(r.url))
    page.goto(served.address)
    yield page
    context.close()
    expected = ("422 (Unprocessable", "ERR_CONNECTION_REFUSED", "ERR_INTERNET_DISCONNECTED", "500 (Internal")
    assert all(any(words in text for words in expected) for text in wrong), wrong


def start(page: Page, name: str) -> None:
    page.get_by_label("Your name").fill(name)
    page.keyboard.press("Enter")
    expect(page.locator("#photo:not(.loading)")).to_be_visible()


def look(page: Page, name: str) -> None:
    """Keeps a picture of the page where GREPR_SCREENSHOTS says, for people to look at."""
    if folder := os.environ.get("GREPR_SCREENSHOTS"):
        page.screenshot(path=Path(folder, f"{name}.png"))


def expect_place(page: Page, number: int) -> None:
    expect(page.locator("#count")).to_have_text(f"{number} / {PHOTOS + REPEATS}")


def rate_all(page: Page, served: Served) -> None:
    """Rates by the noise that is there, and skips the photo that cannot be shown."""
    for number, slot in enumerate(served.journal.slots, 1):
        expect_place(page, number)
        if slot.photo == BROKEN:
            expect(page.get_by_text("cannot be shown (unreadable: not an image: text)")).to_be_visible()
            expect(page.get_by_role("button", name="good")).to_be_disabled()
            look(page, "broken")
            page.get_by_role("button", name="skip").click()
        else:
            expect(page.get_by_role("button", name="good")).to_be_enabled()
            page.keyboard.press(str(5 - slot.photo % 5))


@pytest.mark.slow
def test_rate_undo_reload_finish_fit(page: Page, served: Served, tmp_path: Path, warm_process: None):
    look(page, "name")
    start(page, "Ann")
    expect_place(page, 1)
    look(page, "rate")
    page.keyboard.press("4")
    expect_place(page, 2)
    expect(page.get_by_role("status")).to_have_text("Saved: 4, good.")
    expect(page.get_by_role("button", name="excellent")).to_be_enabled()
    page.get_by_role("button", name="excellent").click()
    expect_place(page, 3)
    page.keyboard.press("u")
    expect_place(page, 2)
    expect(page.get_by_role("status")).to_have_text("Taken back: 5, excellent.")
    page.reload()
    expect_place(page, 2)
    expect(page.get_by_role("status")).to_have_text("Last: 4, good; saved.")
    assert [slot for slot in range(3) if slot not in served.journal.upcoming("Ann")] == [0]
    page.get_by_role("button", name="undo").click()
    expect_place(page, 1)
    expect(page.get_by_role("button", name="undo")).to_be_disabled()
    rate_all(page, served)
    expect(page.get_by_role("heading", name="All rated")).to_be_focused()
    expect(page.locator("#consistency")).to_contain_text("Ann: 2 of 2 photos shown twice got the same rating again")
    number = 5 - served.journal.slots[-1].photo % 5
    expect(page.locator("#last")).to_contain_text(f"Every rating is saved, the last one too: {number}, ")
    look(page, "end")
    page.keyboard.press("u")
    expect_place(page, PHOTOS + REPEATS)
    expect(page.get_by_role("button", name="good")).to_be_enabled()
    page.keyboard.press(str(number))
    page.get_by_role("button", name="Rate as another person").click()
    start(page, "Ben")
    for number in (1, 2):
        expect_place(page, number)
        expect(page.get_by_role("button", name="good")).to_be_enabled()
        page.keyboard.press("3")
    expect_place(page, 3)
    page.locator("#switch").click()
    page.get_by_label("Your name").fill("Ann")
    page.get_by_role("button", name="Start").click()
    page.get_by_role("button", name="Finish").click()
    expect(page.get_by_role("heading", name="Finished")).to_be_visible()
    served.thread.join(timeout=30)
    assert not served.thread.is_alive()

    ratings = read_ratings(str(tmp_path / "ratings.csv"), str(tmp_path))
    assert len(ratings) == PHOTOS - 1
    assert ratings.iloc[0][["mos", "count"]].tolist() == pytest.approx([13 / 3, 3])
    options = LabelOptions(source="", output=str(tmp_path / "ratings.csv"))
    words = shlex.split(fit_command(served.journal, options))
    result = fit.run(FitOptions(ratings=words[2], images=words[4], output=str(tmp_path / "model"), workers=1))
    assert result.ratings == PHOTOS - 1


@pytest.mark.slow
def test_zoom_shows_every_pixel_where_one_points(page: Page, served: Served):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (3000, 4000, 3), np.uint8)).save(served.folder / "00.jpg", quality=80)
    start(page, "Ann")
    fitting = page.locator("#photo").bounding_box()
    assert fitting is not None
    assert fitting["width"] < 1200
    page.locator("#frame").click(position={"x": 750, "y": 400})
    zoomed = page.locator("#photo").bounding_box()
    assert zoomed is not None
    assert zoomed["width"] == pytest.approx(4000, abs=1)
    frame = page.locator("#frame").bounding_box()
    assert frame is not None
    # What was pointed at is in the middle of the frame.
    pointed = (750 + frame["x"] - fitting["x"]) / fitting["width"]
    middle = (frame["x"] + frame["width"] / 2 - zoomed["x"]) / zoomed["width"]
    assert middle == pytest.approx(pointed, abs=0.02)
    look(page, "zoomed")
    page.keyboard.press("z")
    assert page.locator("#photo").bounding_box() == fitting
    page.keyboard.press("2")
    expect_place(page, 2)
    # Of a small photo every pixel is seen as it is, and it is not made larger.
    expect(page.locator("#size")).to_have_text(f"128 {TIMES} 96")
    expect(page.locator("#zoom")).to_be_disabled()
    page.locator("#frame").click()
    assert page.locator("#photo").evaluate("photo => photo.offsetWidth") == 128


def test_what_could_not_be_saved_is_told_and_tried_again(page: Page, served: Served):
    start(page, "Ann")
    page.context.set_offline(True)
    page.keyboard.press("5")
    expect(page.get_by_role("alert")).to_contain_text("Not saved: no answer from the command.")
    expect(page.get_by_role("alert")).to_contain_text("Trying again")
    look(page, "not-saved")
    expect_place(page, 1)
    page.context.set_offline(False)
    expect_place(page, 2)
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(page.get_by_role("status")).to_have_text("Saved: 5, excellent.")
    expect(page.get_by_role("button", name="fair")).to_be_enabled()
    with files_up_to(served.journal.path.stat().st_size + 20):
        page.keyboard.press("3")
        expect(page.get_by_role("alert")).to_contain_text("Not saved: File too large. Trying again")
        expect_place(page, 2)
    expect_place(page, 3)
    expect(page.get_by_role("alert")).to_be_hidden()
    assert [served.journal.last("Ann"), served.journal.upcoming("Ann")[0]] == [(1, 3), 2]
    journal = served.journal.path.read_text().splitlines()
    assert [json.loads(line)["type"] for line in journal] == ["photos", "rating", "rating"]


def test_nobody_leaves_before_the_rating_is_saved(page: Page, served: Served):
    start(page, "Ann")
    page.context.set_offline(True)
    page.keyboard.press("5")
    expect(page.get_by_role("alert")).to_contain_text("Not saved: no answer from the command.")
    switch = page.locator("#switch")
    switch.dispatch_event("click")
    page.context.set_offline(False)
    expect_place(page, 2)
    expect(switch).to_have_text("Ann")
    assert (served.journal.raters(), served.journal.last("Ann")) == (["Ann"], (0, 5))
    switch.click()
    start(page, "Ben")
    expect_place(page, 1)


def test_the_command_is_not_ended_before_an_undo_is_saved(page: Page, served: Served):
    for slot in range(PHOTOS + REPEATS):
        served.journal.rate("Ann", slot, 3)
    page.get_by_label("Your name").fill("Ann")
    page.keyboard.press("Enter")
    undo, finish = page.locator("#undo-last"), page.locator("#finish")
    expect(undo).to_be_visible()
    page.context.set_offline(True)
    undo.click()
    expect(page.get_by_role("alert")).to_contain_text("Not saved: no answer from the command.")
    expect(finish).to_be_disabled()
    for button in (finish, page.locator("#another")):
        button.dispatch_event("click")
    page.context.set_offline(False)
    expect_place(page, PHOTOS + REPEATS)
    expect(page.locator("#switch")).to_have_text("Ann")
    assert served.thread.is_alive()


def test_the_state_of_one_rater_is_not_taken_for_that_of_another(page: Page, served: Served):
    for slot in range(2):
        served.journal.rate("Ann", slot, 3)
    held: list[Route] = []
    page.route("**/api/state?rater=Ann", lambda route: held.append(route))  # noqa: PLW0108 - no method of C
    name = page.get_by_label("Your name")
    name.fill("Ann")
    with page.expect_request("**/api/state?rater=Ann"):
        page.keyboard.press("Enter")
    name.fill("Ben")
    page.keyboard.press("Enter")
    held[0].continue_()
    expect_place(page, 3)
    expect(page.locator("#switch")).to_have_text("Ann")


def test_a_double_click_rates_one_photo(page: Page, served: Served):
    start(page, "Ann")
    page.get_by_role("button", name="good").dblclick()
    expect_place(page, 2)
    expect(page.locator("#photo:not(.loading)")).to_be_visible()
    assert served.journal.upcoming("Ann")[0] == 1


def test_the_end_of_the_command_is_told(page: Page, served: Served):
    start(page, "Ann")
    requests.post(served.address + "api/finish", json={}, timeout=10)
    served.thread.join(timeout=30)
    page.keyboard.press("5")
    expect(page.get_by_role("alert")).to_contain_text("If it has ended, run it again and open the address it prints")
    expect_place(page, 1)
    assert served.journal.raters() == []


@pytest.mark.slow
def test_photos_of_every_shape_fit_a_phone(browser: Browser, served: Served):
    """A portrait photo, a panorama, and one of 50 megapixels, of which a phone gets a copy, and all where it zooms."""
    sizes = [(4000, 6000), (9000, 1500), (8688, 5792), (64, 48)]
    for i, size in enumerate(sizes):
        photo(i, (128, 96)).resize(size).save(served.folder / served.journal.photos[i].image, quality=95)
    context = browser.new_context(
        viewport={"width": 390, "height": 844}, device_scale_factor=3, has_touch=True, is_mobile=True
    )
    page = context.new_page()
    got: dict[str, int] = {}
    page.on("response", lambda r: got.update({r.url.split("/")[-1]: int(r.headers.get("content-length", 0))}))
    page.goto(served.address)
    start(page, "Ann")
    footer = page.locator("footer").bounding_box()
    for i, (width, height) in enumerate(sizes):
        expect(page.locator("#photo:not(.loading)")).to_be_visible()
        expect(page.locator("#size")).to_contain_text(f"{width} {TIMES} {height}")
        look(page, f"phone-shape-{i}")
        box, frame = page.locator("#photo").bounding_box(), page.locator("#frame").bounding_box()
        assert box is not None
        assert frame is not None
        assert box["width"] / box["height"] == pytest.approx(width / height, rel=0.02)
        # It touches two sides of the frame, or has a pixel of the page for each of its own.
        fitting = min(frame["width"] / width, frame["height"] / height, 1)
        assert box["width"] == pytest.approx(fitting * width, abs=1)
        assert page.locator("footer").bounding_box() == footer
        copied = got[f"{i}?pixels={390 * 844 * 9}"]
        sent = Path(served.journal.photos[i].entry.uri).stat().st_size
        assert copied < sent if sent > 2**20 else copied == sent, (copied, sent)
        if i == 2:
            assert str(i) not in got
            page.locator("#frame").tap()
            expect(page.locator("#size")).to_have_text(f"{width} {TIMES} {height}")
            zoomed = page.locator("#photo").bounding_box()
            assert zoomed is not None
            assert zoomed["width"] == pytest.approx(width / 3, abs=1)
            page.wait_for_function("document.querySelector('#photo').naturalWidth == 8688")
            assert page.locator("#photo").bounding_box() == zoomed
            assert got[str(i)] == sent
        # Not twice the same one: a machine is so quick that it would be a double tap.
        page.get_by_role("button", name=("good", "fair")[i % 2]).tap()
        expect_place(page, i + 2)
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_is_in_reach_on_a_phone(browser: Browser, served: Served, scheme: str):
    # Held upright, or on its side.
    width, height = (360, 640) if scheme == "light" else (844, 390)
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, has_touch=True, is_mobile=True
    )
    page = context.new_page()
    page.goto(served.address)
    start(page, "A name that is a good deal longer than most names are")
    look(page, f"phone-{scheme}")
    for button in page.get_by_role("button").all():
        box = button.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert box["y"] + box["height"] <= height
    page.get_by_role("button", name="fair").tap()
    expect_place(page, 2)
    context.close()
