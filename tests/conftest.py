"""Fixtures of all tests."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

# Tests run side by side: threads of several processes that wait for one another by spinning on the same cores take
# four times as long as one each.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def photos() -> Path:
    """The folder of real photographs, some of them rated."""
    folder = os.environ.get("GREPR_PHOTOS")
    if not folder or not Path(folder, "rated.csv").is_file():
        pytest.skip("GREPR_PHOTOS names no folder with rated.csv and rated/")
    return Path(folder)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium without a window; tests that want it are skipped where it is not installed."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium on the path; install Debian's package of that name")
    # Its sandbox does not work for root, as whom containers run.
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, chromium_sandbox=os.geteuid() != 0)
        yield browser
        browser.close()
