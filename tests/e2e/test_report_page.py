"""The report in a real browser: Chromium without a window."""

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from pipelines.options import ReportOptions
from pipelines.reporting.report import run
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
LONG = "/lake/" + "long" * 1024 + ".jpg"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of hostile names in all places, with some real photographs, compared with another run."""
    root = tmp_path_factory.mktemp("report")
    rows = random_rows(60, root=str(root / "photos"))
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
    scores = write_run(root / "scores", rows, source=hostile, model=hostile, note=hostile)
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
    page.locator("summary").evaluate_all("all => all.forEach(one => one.click())")
    assert opened.messages == []
    assert [url for url in opened.requests if not url.startswith("data:")] == [report.as_uri()]
    assert page.title().startswith("Report <script>")
    assert page.locator("script, iframe, object, form, link").count() == 0
    assert page.locator("style").count() == 1
    attributes = page.evaluate("[...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames())")
    assert not [name for name in attributes if name.startswith("on")]
    links = page.locator("[href]").evaluate_all("all => all.map(one => one.getAttribute('href'))")
    assert all(link.startswith("#") for link in links if link)
    assert page.evaluate("[...document.images].every(i => i.src.startsWith('data:') && i.naturalWidth > 0)")
    assert page.locator("img").count() > 10  # which, depends on the paths
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
    # What may be scrolled aside must not stick out of its frame either; only tables of the model card may.
    wide = page.evaluate(
        """width => [...document.querySelectorAll("body *:not(.skip)")]
            .filter(e => !e.closest(".scroll") && !e.closest("svg") && e.getBoundingClientRect().right > width + 1)
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
    expected = page.locator("a, summary, [tabindex]").count()
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
    hidden = page.locator("details:not([open]) [tabindex]").count()
    assert page.locator("[data-reached]").count() >= expected - hidden
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
    (label, *_) = page.locator(".chart.wide text").all()
    red, green, blue = re.findall(r"\d+", label.evaluate("e => getComputedStyle(e).fill"))
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
    # Failed is hatched and named, then is hatched and now is a line, with a legend.
    assert "gradient" in page.locator(".bar.failed").first.evaluate("e => getComputedStyle(e).backgroundImage")
    assert page.locator("#changes .chart.wide pattern").count() > 0
    legend = page.locator("#changes .chart.wide").inner_text()
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
    columns = page.locator(".scroll td:first-child").evaluate_all("all => all.map(one => one.clientWidth)")
    assert min(columns) >= 100  # or words are set a letter a line
    page.close()
