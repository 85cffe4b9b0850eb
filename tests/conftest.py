"""Fixtures of all tests."""

import os
from pathlib import Path

import pytest

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
