"""The commands of the README, as a newcomer runs them."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from tests.lake import check_invariants, run_grepr, run_here

pytestmark = pytest.mark.slow


def test_demo_puts_most_originals_above_their_distorted_versions(tmp_path: Path):
    code, out, err = run_grepr("demo", tmp_path / "demo")
    assert code == 0, err
    check_invariants(tmp_path / "demo")
    scores = [float(score) for score in re.findall(r"\.png +(-?\d\.\d+)", out)]
    assert len(scores) == 52
    assert scores == sorted(scores, reverse=True)
    found = re.search(r"(\d+) of (\d+) distorted versions score below their original", out)
    assert found is not None
    assert int(found[2]) == 48
    assert int(found[1]) > 36
    page = (tmp_path / "demo/report.html").read_text()
    assert "52 of 52 photos have a score" in re.sub("<[^>]+>", "", page)
    assert page.count("<img") >= 52
    assert all(name in page for name in re.findall(r"\S+\.png", out))
    # Nothing but progress on standard error: no advice of the libraries below.
    progress = r"listing |.*: 52 images in \d+ shards?$|starting Ray|scoring[ :]|reading the "
    assert all(re.match(progress, line) for line in err.splitlines()), err


@pytest.mark.photos
@pytest.mark.usefixtures("warm_process")
def test_evaluation_on_real_photographs(photos: Path, tmp_path: Path):
    pd.read_csv(photos / "rated.csv").iloc[::3].to_csv(tmp_path / "third.csv", index=False)
    code, out, err = run_here(
        *("evaluate", tmp_path / "third.csv", "--images", photos / "rated"),
        *("--labels", "50,200", "--splits", "10", "--no-zero-shot", "--json"),
    )
    assert code == 0, err
    results = json.loads(out)
    srocc = {result["labels"]: result["srocc"]["median"] for result in results["few_labels"]}
    assert srocc[50] > 0.57
    assert srocc[200] > 0.71
    assert results["as_it_is"][0]["srocc"] > 0.76
    assert 0.84 <= results["intervals"]["held"] <= 0.94
    assert results["intervals"]["width_srocc"] > 0.15
