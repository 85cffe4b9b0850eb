"""Fixtures of all tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def photos() -> Path:
    """The folder of real photographs, some of them rated."""
    folder = os.environ.get("GREPR_PHOTOS")
    if not folder or not Path(folder, "rated.csv").is_file():
        pytest.skip("GREPR_PHOTOS names no folder with rated.csv and rated/")
    return Path(folder)
