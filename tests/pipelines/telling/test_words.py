"""Numbers in words."""

import pytest

from pipelines.telling.words import counted, duration


def test_one_and_many():
    assert counted(1, "image") == "1 image"
    assert counted(0, "image") == "0 images"
    assert counted(12345, "process", "processes") == "12,345 processes"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (99.4, "99 s"), (100, "2 min"), (5900, "98 min"), (6000, "1 h 40 min")]
)
def test_durations(seconds: float, words: str):
    assert duration(seconds) == words
