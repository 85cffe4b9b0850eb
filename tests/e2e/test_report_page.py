"""The report in a real browser: Chromium without a window."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from grepr_core.storage import Folder
from pipelines.options import ReportOptions
from pipelines.reporting.page import format_percent, format_score
from pipelines.reporting.report import run
from pipelines.reporting.thumbnails import SIDE
from pipelines.scoring.score_table import read_scores
from tests.lake import jpeg, photo
from tests.score_rows import random_rows, score_row, write_run

HOSTILE = [
    "<script>document.title='owned'</script>.jpg",
    '"><img src=x onerror="document.title=\'owned\'">.jpg',
    "' onmouseover='document.title=1' x='.jpg",
    "</style><style>*{display:none}.jpg",
    "{{ 7 * 7 }}{% raw %}.jpg",
    "javascript:document.title='owned'",
    "photo\u202egpj.exe",
    "two\nlines\tand a tab.jpg",
    "شاطئ البحر \u2067.jpg",
    "&lt;b&gt;.jpg",
]
#: Folder of the scores, of whose name a shell would make something else.
SCORES = "it's <b>$HOME</b> & `id`"
LONG = "/lake/" + "long" * 1024 + ".jpg"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of hostile names in all places, with some real photographs, compared with another run."""
    root = tmp_path_factory.mktemp("report")
    rows = random_rows(160, root=str(root / "photos"))
    for name in ("a", "b", "c"):
        (root / "photos" / name).mkdir(parents=True)
    for i, row in enumerate(rows[:40]):
        Path(row["uri"]).write_bytes(jpeg(photo(i, (96, 128) if i % 2 else (160, 96))))
    names = [*HOSTILE, "long" * 1024]
    for i, name in enumerate(names):
        uri = f"{root}/photos/{name.replace('/', '|')}/{name.replace('/', '|')}"
        rows.append(score_row(uri, (i % 2) + i / 100))  # the worst and the best
        rows.append(score_row(uri + ".gone", None, error=f"{name}: {LONG}", status=f"status {i}"))
        rows.append(score_row(uri + ".tar", 0.5, member=name))
    hostile = "".join(HOSTILE)
    before = [row | ({"score": row["score"] - 0.2} if row["score"] and i % 3 else {}) for i, row in enumerate(rows)]
    old = write_run(root / hostile.replace("/", "|")[:60], before)
    scores = write_run(root / SCORES, rows, source=hostile, model=hostile, note=hostile)
    output = root / "report.html"
    run(ReportOptions(scores=str(scores), output=str(output), compare=str(old), title=f"Report {hostile}{LONG}"))
    return output


class Watched:
    """A page, and all that it did."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.messages: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.messages.append(message.text))
        page.on("pageerror", lambda error: self.messages.append(str(error)))
        page.on("dialog", lambda dialog: self.messages.append(dialog.message))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(url)


def open_page(browser: Browser, report: Path, width: int = 1440, scheme: Any = "light") -> Watched:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    return Watched(page, report.as_uri())


def test_it_does_nothing_and_loads_nothing(browser: Browser, report: Path):
    opened = open_page(browser, report)
    page = opened.page
    for element in page.locator("bdi, li, img").all()[:30]:
        element.dispatch_event("mouseover")
    page.locator("button").evaluate_all("all => all.forEach(one => one.matches('.frame') || one.click())")
    page.locator("summary").evaluate_all("all => all.forEach(one => one.click())")
    assert opened.messages == []
    assert [url for url in opened.requests if not url.startswith("data:")] == [report.as_uri()]
    assert page.title().startswith("Report <script>")
    assert page.locator("iframe, object, form, link").count() == 0
    assert page.locator("script").count() == 1
    policy = page.locator("meta[http-equiv]").get_attribute("content") or ""
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[^' ]+';", policy)
    assert page.locator("style").count() == 1
    attributes = page.evaluate("[...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames())")
    assert not [name for name in attributes if name.startswith("on")]
    links = page.locator("[href]").evaluate_all("all => all.map(one => one.getAttribute('href'))")
    photos = (report.parent / "photos").as_uri() + "/"
    assert all(link.startswith(("#", photos)) for link in links)
    shown = page.locator(".shot img")
    assert shown.evaluate_all("all => all.every(i => i.src.startsWith('data:') && i.naturalWidth > 0)")
    assert shown.count() > 10  # which, depends on the paths
    page.close()


def test_names_are_told_as_they_are(browser: Browser, report: Path):
    page = open_page(browser, report).page
    text = page.locator("body").inner_text()
    assert "{{ 7 * 7 }}" in text
    assert "<script>" in text
    assert not re.search("[\u202a-\u202e\u2066-\u2069]", page.content())
    assert "⟨U+202E⟩" in text
    # All of a long name is told on demand.
    titles = page.locator("[title]").evaluate_all("all => all.map(one => one.title.length)")
    assert max(titles) > 4096
    page.close()


@pytest.mark.parametrize("width", [360, 1440])
def test_nothing_sticks_out(browser: Browser, report: Path, width: int):
    page = open_page(browser, report, width).page
    page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    # What is scrolled by itself may be wider than the page.
    wide = page.evaluate(
        """width => [...document.querySelectorAll("body *:not(.skip)")]
            .filter(e => !e.closest(".scroll, .strip, nav, svg") && e.getBoundingClientRect().right > width + 1)
            .map(e => e.outerHTML.slice(0, 200))""",
        width,
    )
    assert wide == []
    charts = page.locator(".chart:visible")
    assert charts.count() == 2
    assert all((chart.bounding_box() or {"height": 0})["height"] > 100 for chart in charts.all())
    page.close()


def test_the_keyboard_reaches_all_there_is_to_reach(browser: Browser, report: Path):
    page = open_page(browser, report).page
    reachable = "a, summary, button:not(:disabled), input, [tabindex]"
    page.evaluate("document.querySelectorAll('.strip').forEach(strip => strip.replaceChildren(strip.children[0]))")
    expected = page.locator(reachable).locator("visible=true").count()
    reached: list[str] = []
    for _ in range(expected):
        page.keyboard.press("Tab")
        # The label says which one it is; the outline, that a person sees it.
        reached.append(
            page.evaluate(
                """() => {
                    const e = document.activeElement;
                    e.dataset.reached = 1;
                    return getComputedStyle(e).outlineStyle;
                }"""
            )
        )
        if page.evaluate("document.activeElement.matches('summary')"):
            page.keyboard.press("Enter")
            assert page.evaluate("document.activeElement.parentElement.open")
            page.keyboard.press("Enter")  # what it shows may hold more to reach
    assert set(reached) == {"solid"}
    assert page.locator("[data-reached]").count() == expected
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_what_is_behind_it(browser: Browser, report: Path, scheme: str):
    page = open_page(browser, report, scheme=scheme).page
    names = ("page", "surface", "warn", "ink", "muted", "accent")
    colours = {
        name: page.evaluate(f"getComputedStyle(document.documentElement).getPropertyValue('--{name}').trim()")
        for name in names
    }
    for text in ("ink", "muted", "accent"):
        for ground in ("page", "surface"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    assert contrast(colours["ink"], colours["warn"]) >= 4.5
    # The charts follow the scheme.
    label = page.locator("#scores .chart .across").first
    red, green, blue = re.findall(r"\d+", label.evaluate("e => getComputedStyle(e).color"))
    assert contrast(f"#{int(red):02x}{int(green):02x}{int(blue):02x}", colours["surface"]) >= 4.5
    page.close()


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two colours by the Web Content Accessibility Guidelines 2."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    darker, lighter = sorted((luminance(first), luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


def test_groups_are_told_apart_without_colour(browser: Browser, report: Path):
    page = open_page(browser, report).page
    # Then is bars and now is a line, with a legend.
    old, new = (page.locator(f"#changes .chart .{name}") for name in ("old", "new"))
    assert new.evaluate("e => getComputedStyle(e).fill") == "none" != old.evaluate("e => getComputedStyle(e).fill")
    legend = page.locator("#changes .legend").inner_text()
    assert "before" in legend
    assert "now" in legend
    page.close()


def test_for_who_does_not_see_it(browser: Browser, report: Path):
    page = open_page(browser, report).page
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.locator("h1").count() == 1
    assert page.locator("img:not([alt])").count() == 0
    assert page.locator(".chart[role=img][aria-label]").count() == page.locator(".chart").count()
    assert page.locator("section").count() == page.locator("section[aria-labelledby]").count() > 5
    ids = page.locator("[id]").evaluate_all("all => all.map(one => one.id)")
    assert len(ids) == len(set(ids))
    page.close()


def test_the_tables_of_the_model_card_can_be_read_on_a_phone(browser: Browser, tmp_path: Path):
    output = tmp_path / "report.html"
    run(ReportOptions(scores=str(write_run(tmp_path / "run", random_rows(30))), output=str(output), thumbnails=False))
    page = open_page(browser, output, 360).page
    page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
    columns = page.locator(".scroll td:first-child").evaluate_all("all => all.map(one => one.clientWidth)")
    assert min(columns) >= 100  # or words are set a letter a line
    page.close()


# --- What is clicked --------------------------------------------------------------------------------------------------


def shown_scores(page: Page, where: str) -> list[float]:
    return [float(score) for score in page.locator(where).evaluate_all("all => all.map(one => one.dataset.score)")]


def test_the_threshold_is_moved(browser: Browser, report: Path):
    page = open_page(browser, report).page
    scores = read_scores(Folder(str(report.parent / SCORES)), ["score"])["score"].drop_null().to_numpy()
    slider = page.get_by_role("slider", name="Least score that is kept")
    slider.focus()
    for key, times in (("ArrowRight", 7), ("Home", 1), ("ArrowRight", 30)):
        for _ in range(times):
            page.keyboard.press(key)
        least = page.locator("[data-at]").inner_text()
        kept = int((scores >= np.float32(least)).sum())
        share = format_percent(kept / len(scores))
        assert f"At least {least} keeps\n{share}: {kept} photos" in page.locator(".kept").inner_text()
        assert slider.get_attribute("aria-valuetext") == f"At least {least} keeps {share}: {kept} photos"
        command = shlex.split(page.locator(".keeps .command code").inner_text())
        scored = str(report.parent / SCORES)
        assert command == ["grepr", "filter", scored, "--output", f"kept-{least}", "--min-score", least]
        # The photographs on the strip are parted at it, and it is where a person looks.
        below, above = (shown_scores(page, f".strip .{which}") for which in ("shot.out", "shot:not(.out)"))
        assert below + above == sorted(below + above)
        assert max(below, default=-1) < np.float32(least) <= min(above)
        box, mark = (page.locator(where).bounding_box() for where in (".strip", ".strip .mark"))
        assert box is not None
        assert mark is not None
        assert box["x"] <= mark["x"] <= box["x"] + box["width"]
    page.close()


def test_the_threshold_is_moved_by_hand(browser: Browser, report: Path):
    page = open_page(browser, report).page
    box = page.get_by_role("slider").bounding_box()
    assert box is not None
    seen = set()
    for part in (0.2, 0.5, 0.8):
        page.mouse.click(box["x"] + part * box["width"], box["y"] + box["height"] / 2)
        seen.add(page.locator("[data-at]").inner_text())
    assert len(seen) == 3
    page.close()


def test_the_command_is_copied(browser: Browser, report: Path):
    page = open_page(browser, report).page
    page.get_by_role("button", name="Copy").first.click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    page.get_by_text("one by one").click()
    page.get_by_role("searchbox").focus()
    page.keyboard.press("Control+V")
    assert page.get_by_role("searchbox").input_value() == page.locator(".keeps .command code").text_content()
    page.close()


def test_a_photo_is_opened_turned_and_closed(browser: Browser, report: Path):
    opened = open_page(browser, report)
    page = opened.page
    opened.requests.clear()
    dialog = page.get_by_role("dialog", name="Photo")
    page.locator("#worst .shot button").nth(10).click()
    scores = shown_scores(page, "#worst .shot")
    for index in (10, 11, 12):
        expect(dialog.get_by_role("status")).to_have_text(f"{index + 1} of {len(scores)}")
        assert dialog.locator(".about b").inner_text() == format_score(scores[index])
        page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    # The page that it is on is turned to, and has the focus there.
    assert page.evaluate("document.activeElement.closest('.shot').dataset.score") == str(scores[12])
    expect(page.locator("#worst .shot").nth(12)).to_be_visible()
    expect(page.locator("#worst .shot").nth(11)).to_be_hidden()
    assert all(url.startswith(("data:", "file:///")) for url in opened.requests)
    assert opened.messages == []
    page.close()


def test_large_is_the_file_itself_where_it_is_here(browser: Browser, tmp_path: Path):
    here, gone, tif = (tmp_path / f"{name} #1%.jpg" for name in ("here", "gone", "tif"))
    for seed, path in enumerate((here, gone)):
        path.write_bytes(jpeg(photo(seed, (400, 300))))
    Image.open(here).save(tif, "TIFF")
    rows = [score_row(str(path), score, bytes=12_345) for path, score in ((here, 0.1), (gone, 0.2), (tif, 0.3))]
    rows[0] |= {"scored_pixels": 512 * 512, "width": 120, "height": 90, "reason": "blur"}
    output = tmp_path / "report.html"
    run(ReportOptions(scores=str(write_run(tmp_path / "run", rows)), output=str(output)))
    gone.unlink()
    page = open_page(browser, output).page
    picture = page.locator("#large img")
    page.locator("#worst .shot button").first.click()
    expect(picture).to_have_attribute("data-shows", "original")
    assert picture.get_attribute("src") == here.as_uri()
    told = page.locator("#large .told").inner_text()
    for words in ("0.10 (0.00 to 0.20)", "blur", "90 pixels, 12.3 kB; seen enlarged", here.name, str(tmp_path)):
        assert words in told
    page.keyboard.press("ArrowRight")
    expect(picture).to_have_attribute("data-shows", "copy")
    assert picture.evaluate("e => e.naturalWidth") == SIDE
    page.get_by_role("button", name="Close").click()
    # No browser shows a TIFF, so its copy is as large as it may be.
    page.locator("#best .shot button").first.click()
    assert (picture.get_attribute("src") or "").startswith("data:")
    assert picture.evaluate("e => e.decode().then(() => e.naturalWidth)") == 400
    page.close()


def test_pages_are_turned(browser: Browser, report: Path):
    page = open_page(browser, report).page
    section = page.locator("#best")
    photos = section.locator(".shot")
    total = photos.count()
    assert total > 24
    expect(section.get_by_role("status")).to_have_text(f"1 to 12 of {total}")
    expect(page.get_by_role("button", name="The best: previous page")).to_be_disabled()
    page.get_by_role("button", name="The best: next page").click()
    expect(section.get_by_role("status")).to_have_text(f"13 to 24 of {total}")
    assert photos.locator("visible=true").count() == 12
    expect(photos.nth(12)).to_be_visible()
    page.get_by_role("button", name="The best: previous page").click()
    expect(photos.first).to_be_visible()
    page.close()


def test_failures_are_searched(browser: Browser, report: Path):
    page = open_page(browser, report).page
    page.get_by_text("All of them, one by one").click()
    rows = page.locator(".search tbody tr")
    total = rows.count()
    page.get_by_role("searchbox", name="Search").fill("STATUS owned")
    found = rows.locator("visible=true").count()
    assert 0 < found < total
    expect(page.locator(".search [role=status]")).to_have_text(f"{found} of {total}")
    page.get_by_role("searchbox").fill("")
    assert rows.locator("visible=true").count() == total
    page.close()


def test_without_javascript_all_is_there(browser: Browser, report: Path):
    page = browser.new_page(java_script_enabled=False)
    page.goto(report.as_uri())
    expect(page.locator(".kept")).to_be_visible()
    expect(page.locator(".keeps .command code")).to_be_visible()
    for unseen in ("input", "button:not(dialog button)", "dialog"):
        assert page.locator(unseen).locator("visible=true").count() == 0
    page.get_by_text("All thresholds").click()
    assert page.locator(".thresholds tbody tr").locator("visible=true").count() > 30
    later = page.locator("#worst .shot").nth(12)
    expect(later).to_be_hidden()
    page.locator("#worst").get_by_text("13 to 24").click()
    expect(later).to_be_visible()
    later.get_by_text("About").click()
    expect(later.locator(".about")).to_contain_text("pixels")
    assert page.locator(".strip .shot").locator("visible=true").count() > 10
    page.get_by_text("All of them, one by one").click()
    assert page.locator(".search tbody tr").locator("visible=true").count() > 10
    page.close()
