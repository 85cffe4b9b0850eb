"""Every command of the README and the user guide is one that grepr takes; those of its first pages are run."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from jobs import cli
from jobs.exit_codes import DONE
from pipelines.options import SubmitOptions
from pipelines.session import ray_session
from tests.jobs.documented import PAGES, ROOT, commands
from tests.lake import make_lake, run_here

SHOWN = [(page.name, arguments) for page in PAGES for arguments in commands(page)]


def test_pages_have_commands():
    assert {"README.md", "first-lake.md", "own-ratings.md", "filtering.md", "clusters.md"} <= {
        page for page, _ in SHOWN
    }


@pytest.mark.parametrize(("page", "arguments"), SHOWN, ids=[f"{page}: {' '.join(words)}" for page, words in SHOWN])
def test_grepr_takes_every_command(page: str, arguments: list[str]):
    options = cli.parse(arguments)
    if isinstance(options, SubmitOptions) and options.command:
        cli.parse(options.command)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_first_pages_do_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lake = make_lake(tmp_path / "Pictures", 60)
    names = sorted(path.name for path in lake.iterdir())
    mos = np.random.default_rng(0).uniform(1, 5, len(names)).round(2)
    for table in ("ratings.csv", "more-ratings.csv"):
        pd.DataFrame({"image": names, "mos": mos}).to_csv(tmp_path / table, index=False)
    monkeypatch.chdir(tmp_path)
    ran = []
    with ray_session():
        for page in ("first-lake.md", "own-ratings.md"):
            for arguments in commands(ROOT / "docs" / page):
                if arguments[0] == "label":  # waits for a person; its page is tested in a browser
                    continue
                here = [str(lake) if word in ("~/Pictures", "s3://bucket/photos") else word for word in arguments]
                code, _, err = run_here(*here)
                assert code == DONE, (arguments, err)
                ran.append(arguments[0])
    assert {"score", "report", "filter", "fit", "evaluate"} <= set(ran)
    scores = pd.read_parquet(tmp_path / "scores/scores")
    assert len(scores) == len(names)
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert len(pd.read_parquet(tmp_path / "best/scores")) == 6
    assert pd.read_parquet(tmp_path / "scores-mine/scores").model_id.iloc[0] != scores.model_id.iloc[0]
