"""Fixtures of all tests."""

import gc
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

# Tests run side by side: threads of several processes that wait for one another by spinning on the same cores take up
# to ten times as long as one each. Where a command gives a process more threads, they wait asleep.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Where there is no GPU, its kernels run in Triton's interpreter, which is chosen when Triton is imported.
if shutil.which("nvidia-smi") is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Puts modules of many slow tests first, where modules run side by side, so that all processes end together."""
    if hasattr(config, "workerinput"):
        slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
        items.sort(key=lambda item: -slow[item.path])


def pytest_collection_finish() -> None:
    """Keeps what was imported out of all collections of garbage: each would go through it for half a second."""
    gc.freeze()


@pytest.fixture(scope="session")
def photos() -> Path:
    """The folder of real photographs, some of them rated."""
    folder = os.environ.get("GREPR_PHOTOS")
    if not folder or not Path(folder, "rated.csv").is_file():
        pytest.skip("GREPR_PHOTOS names no folder with rated.csv and rated/")
    return Path(folder)


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[ModuleType]:
    """The Ray that this process shares among all tests of whole commands and programs, to be connected to."""
    from tests import one_ray  # most tests need not wait for it, and PyTorch must find the settings above

    yield one_ray
    one_ray.disconnect()


@pytest.fixture(scope="module")
def one_ray(shared_ray: ModuleType) -> None:
    """Has this process connected to it."""
    shared_ray.connect()


@pytest.fixture(scope="module")
def warm_process(shared_ray: ModuleType) -> Iterator[None]:
    """Besides, has all commands of a module work through shards in a process that is there already."""
    with shared_ray.warm_process():
        yield


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """AdamW steps in full along gradients that are nothing but rounding, which differs with the number of threads.

    Each of two workers has one thread on two cores.
    """
    import torch  # most tests need not wait for it

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium without a window; tests that want it are skipped where it is not installed."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium on the path; install Debian's package of that name")
    # A photograph of many megapixels takes more than the usual 5 seconds to be shown where the cores are busy.
    expect.set_options(timeout=30_000)
    # Its sandbox does not work for root, as whom containers run.
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, chromium_sandbox=os.geteuid() != 0)
        yield browser
        browser.close()
