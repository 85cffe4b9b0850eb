"""The page in a real browser: rate, undo, reload, finish; and the fit that follows."""

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
from playwright.sync_api import Browser, Page, expect

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

PHOTOS, REPEATS = 21, 2
BROKEN = 3
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
            target=serve, args=(journal, reader), kwargs={"limits": limits, "port": 0, "announce": addresses.put}
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
    page.on("request", lambda r: None if r.url.startswith((served.address, "data:")) else wrong.append(r.url))
    page.goto(served.address)
    yield page
    context.close()
    expected = ("422 (Unprocessable", "ERR_CONNECTION_REFUSED")
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
    page.reload()
    expect_place(page, 2)
    assert [slot for slot in range(3) if slot not in served.journal.upcoming("Ann")] == [0]
    page.get_by_role("button", name="undo").click()
    expect_place(page, 1)
    expect(page.get_by_role("button", name="undo")).to_be_disabled()
    rate_all(page, served)
    expect(page.get_by_role("heading", name="All rated")).to_be_focused()
    expect(page.locator("#consistency")).to_contain_text("Ann: 2 of 2 photos shown twice got the same rating again")
    look(page, "end")
    page.keyboard.press("u")
    expect_place(page, PHOTOS + REPEATS)
    expect(page.get_by_role("button", name="good")).to_be_enabled()
    page.keyboard.press(str(5 - served.journal.slots[-1].photo % 5))
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
    page.keyboard.press("z")
    expect(page.locator("#frame.zoomed")).to_be_visible()


def test_the_end_of_the_command_is_told(page: Page, served: Served):
    start(page, "Ann")
    requests.post(served.address + "api/finish", json={}, timeout=10)
    served.thread.join(timeout=30)
    page.keyboard.press("5")
    expect(page.get_by_role("alert")).to_contain_text("Not saved: the command has ended")
    expect_place(page, 1)
    assert served.journal.raters() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_is_in_reach_on_a_phone(browser: Browser, served: Served, scheme: str):
    context = browser.new_context(
        viewport={"width": 360, "height": 640}, color_scheme=scheme, has_touch=True, is_mobile=True
    )
    page = context.new_page()
    page.goto(served.address)
    start(page, "A name that is a good deal longer than most names are")
    look(page, f"phone-{scheme}")
    for button in page.get_by_role("button").all():
        box = button.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360
        assert box["y"] + box["height"] <= 640
    page.get_by_role("button", name="fair").tap()
    expect_place(page, 2)
    context.close()
