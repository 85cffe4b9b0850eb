"""What docs/python.md, the README and the docstrings show does what they say."""

import functools
import re
import textwrap
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from PIL import Image

import grepr
from tests.jobs.documented import ROOT, blocks
from tests.lake import make_lake
from tests.made_photos import photo

PAGE = ROOT / "docs" / "python.md"
IN_RAY = "import ray"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with photographs."""
    make_lake(tmp_path / "Pictures", 5)
    photo(0).save(tmp_path / "Pictures" / "0000.png")
    for name in ("a.jpg", "photo.jpg", "b.png", "c.webp"):
        photo(0).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_does_what_it_says(home: Path, capsys: pytest.CaptureFixture[str]):
    found = [block for block in blocks(PAGE, "python") if IN_RAY not in block]
    assert len(found) == 9
    names: dict[str, Any] = {}
    for block in found:
        exec(block, names)
    out = capsys.readouterr().out
    assert "missing - no such file" in out
    assert "photograph 1: a value of type int is no photograph; taken are" in out
    assert "are better than 0.6" in out
    assert names["features"].shape == (5, 4129)
    assert names["sheet"].getcolors(9) is None  # of many colours
    assert len((home / "scores.jsonl").read_text().splitlines()) == 5
    assert names["frame"].score.notna().all()


@pytest.mark.usefixtures("home")
def test_the_readme_does_what_it_says(capsys: pytest.CaptureFixture[str]):
    (block,) = (block for block in blocks(ROOT / "README.md", "python") if "import grepr" in block)
    exec(block, {})
    score, *worst = capsys.readouterr().out.splitlines()
    assert 0 < float(score) < 1
    assert worst[0].split() == ["uri", "score", "reason"]
    assert len(worst) == 1 + 5


@pytest.mark.usefixtures("one_ray")
def test_the_pipeline_does_what_it_says(home: Path):
    (block,) = (block for block in blocks(PAGE, "python") if IN_RAY in block)
    # The processes of this Ray were started in another folder, and the other cores are those of all tests.
    block = re.sub(r'"(Pictures|best-photos)"', lambda name: repr(str(home / name[1])), block)
    exec(block.replace("size=2", "size=1"), {})
    frame = pd.read_parquet(home / "best-photos")
    assert 0 < len(frame) < 6
    assert frame.grepr_score.min() > 0.5
    assert "path" in frame
    assert "bytes" not in frame


@pytest.mark.parametrize(
    "documented", [grepr, grepr.load, grepr.Scorer.score, grepr.Scorer.stream, grepr.to_pandas, grepr.Metric]
)
@pytest.mark.usefixtures("home")
def test_docstrings_do_what_they_say(documented: Any):
    (block,) = re.findall(r"^ *```python\n(.*?)^ *```$", documented.__doc__, re.MULTILINE | re.DOTALL)
    scorer, paths = _scorer(), [*Path("Pictures").glob("*.jpg")]
    exec(
        textwrap.dedent(block),
        {"grepr": grepr, "scorer": scorer, "paths": paths, "Path": Path, "Image": Image, "torch": torch},
    )


@functools.cache
def _scorer() -> grepr.Scorer:
    return grepr.load(device="cpu")
