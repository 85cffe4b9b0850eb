"""Every command of the README and the user guide is one that grepr takes, and what needs no cloud is run.

What submits is run in tests/e2e/test_submit.py, what pretrains in test_pretrain_to_scores.py.
"""

import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest import mock

import duckdb
import numpy as np
import pandas as pd
import pytest
import s3fs

from grepr_core.storage import Folder
from jobs import cli
from jobs.exit_codes import DONE
from pipelines.options import SubmitOptions
from pipelines.scoring.score_table import read_scores
from tests.jobs.documented import PAGES, ROOT, blocks, commands
from tests.lake import SMALL, make_lake, run_here
from tests.s3_server import s3_server

DOCS = ROOT / "docs"
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


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, shared_ray: ModuleType) -> Iterator[Path]:
    """A folder with photographs, ratings and metadata, the buckets of the guide, and a Ray that can reach them."""
    home = tmp_path_factory.mktemp("home")
    lake = make_lake(home / "Pictures", 60)
    names = sorted(path.name for path in lake.iterdir())
    mos = np.random.default_rng(0).uniform(1, 5, len(names)).round(2)
    for table in ("ratings.csv", "more-ratings.csv"):
        pd.DataFrame({"image": names, "mos": mos}).to_csv(home / table, index=False)
    licences = ["CC0" if i % 2 else "none" for i in range(len(names))]
    pd.DataFrame({"uri": [f"Pictures/{name}" for name in names], "licence": licences}).to_csv(home / "photos.csv")
    (home / "store").mkdir()
    with s3_server(home / "store"), pytest.MonkeyPatch.context() as patch:
        fs = s3fs.S3FileSystem()
        for bucket in ("bucket", "lake", "scores", "datasets"):
            fs.mkdir(bucket)
        for name in names[:40]:
            for prefix in ("bucket/photos", "lake/2026"):
                fs.put_file(str(lake / name), f"{prefix}/{name}")
        patch.chdir(home)
        with shared_ray.warm_process():
            yield home


@pytest.fixture
def scored(home: Path) -> None:
    """Scores, where the first pages have not made them."""
    if not Path("scores").exists():
        run_all(home, [["score", "~/Pictures", "scores/"]])


def run_all(home: Path, shown: Iterable[list[str]]) -> Counter[str]:
    """Runs commands, but for those that wait for a person; gives how many there were of each.

    Those that score see photographs small.
    """
    ran: Counter[str] = Counter()
    for arguments in shown:
        if arguments[0] != "label":  # its page is tested in a browser
            words = [str(home / "Pictures") if word == "~/Pictures" else word for word in arguments]
            view = SMALL if arguments[0] in ("score", "nightly", "fit", "evaluate") else ()
            code, _, err = run_here(*words, *view)
            assert code == DONE, (arguments, err)
            ran[arguments[0]] += 1
    return ran


@pytest.mark.slow
@pytest.mark.s3
@pytest.mark.timeout(600)
def test_the_first_pages_do_what_they_say(home: Path):
    ran = run_all(home, [words for page in ("first-lake.md", "own-ratings.md") for words in commands(DOCS / page)])
    assert set(ran) == {"score", "report", "filter", "fit", "evaluate"}
    scores = pd.read_parquet("scores/scores")
    assert len(scores) == 60
    assert Path("report.html").stat().st_size > 10_000
    assert len(pd.read_parquet("best/scores")) == 6
    assert pd.read_parquet("scores-mine/scores").model_id.iloc[0] != scores.model_id.iloc[0]


@pytest.mark.slow
@pytest.mark.s3
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("scored")
def test_nights_and_what_is_made_of_them_are_as_they_say(home: Path):
    nights = [
        words for words in commands(ROOT / "README.md") if "s3://lake/" in words or "s3://scores/tuesday" in words
    ]
    assert run_all(home, nights) == {"score": 3, "report": 1}
    run_all(home, (words for words in commands(DOCS / "clusters.md") if words[0] == "score"))
    crontab = next(block for block in blocks(DOCS / "clusters.md") if "grepr nightly" in block)
    places = re.search(r"grepr (nightly \S+ \S+)", crontab)
    assert places is not None
    for day in (1, 2):
        now = datetime(2026, 1, day, 22, tzinfo=UTC)
        with mock.patch("jobs.cli.datetime", SimpleNamespace(now=lambda _, now=now: now)):
            assert run_all(home, [places[1].split()]) == {"nightly": 1}
    assert len(read_scores(Folder("s3://scores/nightly/2026-01-02"))) == 40

    for words in commands(DOCS / "filtering.md"):
        shutil.rmtree("best", ignore_errors=True)
        assert run_all(home, [words]) == {"filter": 1}
    assert s3fs.S3FileSystem().exists("datasets/best/tars/000000.tar")


@pytest.mark.slow
@pytest.mark.s3
@pytest.mark.usefixtures("scored")
def test_scores_are_read_as_they_say(capsys: pytest.CaptureFixture[str]):
    for page in PAGES:
        for block in blocks(page, "python"):
            if "pandas as pd" in block:  # tests/grepr/test_docs.py has the others
                exec(block, {})
        for block in blocks(page, "sql"):
            assert duckdb.sql(block).fetchall()
    assert "scored" in capsys.readouterr().out


def anchors(page: Path) -> set[str]:
    """Gives the anchors that GitHub makes of a page's headings."""
    titles = re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    for place, _, anchor in re.findall(r"\]\((?!\w+:)([^)#]*)(#?)([^)]*)\)", page.read_text()):
        target = page.parent / place if place else page
        assert target.exists(), place
        assert not anchor or anchor in anchors(target), (place, anchor)
