"""Commands as jobs of a real cluster with token authentication, followed over a connection that breaks."""

import io
import os
import re
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import s3fs

from grepr_core.storage import Folder
from pipelines.scoring.score_table import read_scores
from tests.cut_proxy import cut_proxy
from tests.e2e.test_score import FAULTS
from tests.lake import SMALL, grepr, jpeg, photo, run_grepr
from tests.ray_cluster import RayCluster, ray_cluster
from tests.s3_server import s3_server

pytestmark = [pytest.mark.slow, pytest.mark.s3]

SCORE = ("score", "s3://lake/photos", "s3://results/killed", "--shard-size", "4", "--workers", "2", *SMALL)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with s3_server(tmp_path_factory.mktemp("store")) as environment:
        yield environment


@pytest.fixture(scope="module")
def lake(store: dict[str, str]) -> s3fs.S3FileSystem:
    fs = s3fs.S3FileSystem(use_listings_cache=False)
    fs.mkdir("lake")
    for i in range(120):
        fs.pipe_file(f"lake/photos/{i:04d}.jpg", jpeg(photo(i)))
    fs.pipe_file("lake/photos/broken.jpg", b"not an image")
    fs.mkdir("results")
    return fs


@pytest.fixture(scope="module")
def hold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """While this file exists, jobs decode no image."""
    return tmp_path_factory.mktemp("faults") / "hold"


@pytest.fixture(scope="module")
def cluster(store: dict[str, str], hold: Path) -> Iterator[RayCluster]:
    # The credentials are here and not there.
    environment = {name: value for name, value in os.environ.items() if name not in store}
    environment |= {"PYTHONPATH": str(FAULTS), "GREPR_TEST_HOLD": str(hold)}
    with ray_cluster(4, environment) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def submit(cluster: RayCluster, store: dict[str, str]) -> Iterator[tuple[str, ...]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN", cluster.token)
        yield ("submit", "--address", cluster.address, "--env", ",".join(store), "--follow", "--submission-id")


def driver() -> psutil.Process:
    """Finds the process of the first job, other than the shell that started it and the command that follows it."""
    lines = ((process, process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"]))
    (found,) = (process for process, line in lines if SCORE[2] in line and "submit" not in line)
    return found


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


def wait(process: subprocess.Popen[str], happened: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + 200
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.1)


@pytest.fixture(scope="module")
def killed(cluster: RayCluster, lake: s3fs.S3FileSystem, submit: tuple[str, ...], hold: Path) -> Ended:
    """The first job: who submits it leaves, who follows it has a bad connection, and its process is killed."""
    hold.touch()
    left = grepr(*submit, "first", "--", *SCORE)
    wait(left, lambda: cluster.has_job_log("first"), "the job did not begin")
    left.send_signal(signal.SIGINT)
    _, err = left.communicate(timeout=60)
    assert left.returncode == 130
    # The job may begin before its submission is answered.
    assert re.search(r"first (runs on|may have been handed over already)\. Follow it: grepr submit", err)
    assert f"Stop it: ray job stop --address {cluster.address} first" in err
    with cut_proxy(cluster.address) as proxy:
        through_proxy = tuple(proxy.address if part == cluster.address else part for part in submit)
        process = grepr(*through_proxy, "first")
        for _ in range(3):
            seen = proxy.connections
            wait(process, lambda seen=seen: proxy.connections > seen, "it did not connect")
            proxy.cut()
        hold.unlink()
        wait(process, lambda: len(lake.glob("results/killed/scores/*.parquet")) > 3, "no shard was finished in time")
        hold.touch()
        proxy.cut()
        driver().kill()
        out, err = process.communicate(timeout=60)
        hold.unlink()
    return Ended(process.returncode, out, err)


def test_a_job_that_dies_is_followed_to_its_end(cluster: RayCluster, lake: s3fs.S3FileSystem, killed: Ended):
    assert killed.code == 137, killed.err
    assert "first ended with exit code 137" in killed.err
    assert "connection to the job server lost" in killed.err
    assert killed.out == cluster.job_log("first")  # no line lost, none twice
    assert not lake.exists("results/killed/run.json")


def test_it_is_submitted_again_under_another_id(
    cluster: RayCluster, lake: s3fs.S3FileSystem, submit: tuple[str, ...], killed: Ended
):
    code, out, err = run_grepr(*submit, "first", "--", *SCORE)
    assert code == 2
    assert "has a job of this id already, which ended as FAILED" in err

    code, out, err = run_grepr(*submit, "second", "--", *SCORE)
    assert code == 0, out + err
    assert out == cluster.job_log("second")
    assert "of 121 images done already" in out
    assert "121 images: 120 scored, 1 unreadable" in out


def test_its_rows_are_those_of_an_undisturbed_run(lake: s3fs.S3FileSystem):
    # Without --address the Ray that runs here is left alone.
    code, _, err = run_grepr("score", "s3://lake/photos", "s3://results/undisturbed", *SMALL)
    assert code == 0, err
    assert read_scores(Folder("s3://results/killed")).equals(read_scores(Folder("s3://results/undisturbed")))


def test_its_scores_are_filtered_and_reported_by_jobs(lake: s3fs.S3FileSystem, submit: tuple[str, ...]):
    job = ("filter", "s3://results/killed", "--output", "s3://results/best", "--top", "10", "--format", "webdataset")
    code, out, err = run_grepr(*submit, "filter", "--", *job)
    assert code == 0, out + err
    best = read_scores(Folder("s3://results/best"))
    scores = read_scores(Folder("s3://results/killed"))["score"].drop_null().to_pylist()
    assert sorted(best["score"].to_pylist()) == sorted(scores)[-10:]
    with tarfile.open(fileobj=io.BytesIO(lake.cat_file("results/best/tars/000000.tar"))) as tar:
        photos = {member.name: tar.extractfile(member).read() for member in tar if member.name.endswith(".jpg")}
    assert photos == {row["uri"].rpartition("/")[2]: lake.cat_file(row["uri"]) for row in best.to_pylist()}

    job = ("report", "s3://results/killed", "--output", "s3://results/report.html")
    code, out, err = run_grepr(*submit, "report", "--", *job)
    assert code == 0, out + err
    page = lake.cat_file("results/report.html").decode()
    assert "Photo quality of photos" in page
    assert page.count("data:image/webp;base64,") > 10


def test_a_job_keeps_its_exit_code_and_no_secret_is_in_its_log(
    cluster: RayCluster, store: dict[str, str], submit: tuple[str, ...]
):
    code, out, err = run_grepr(*submit, "wrong", "--", "model", "show", "s3://results/no-such-bundle")
    assert code == 2, err
    assert "grepr: s3://results/no-such-bundle: " in out
    for name in ("first", "second", "filter", "wrong"):
        assert store["AWS_SECRET_ACCESS_KEY"] not in cluster.job_log(name)
        assert cluster.token not in cluster.job_log(name)


def test_another_token_is_told_and_an_unknown_job_too(
    cluster: RayCluster, lake: s3fs.S3FileSystem, submit: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
):
    code, _, err = run_grepr(*submit, "nobody")
    assert code == 2
    assert "knows no job nobody" in err
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 32)
    code, _, err = run_grepr(*submit, "nobody")
    assert code == 2
    assert "the cluster wants its token" in err
    assert cluster.token not in err
    assert "0" * 32 not in err
    # A command that is no job says it in the same words, before it lists anything.
    where = ("score", "s3://lake/photos", "s3://results/elsewhere", "--address")
    code, _, err = run_grepr(*where, cluster.head)
    assert code == 2
    assert f"--address {cluster.head}: the cluster wants its token" in err
    code, _, err = run_grepr(*where, cluster.address.removeprefix("http://"))
    assert code == 1
    assert "no Ray cluster" in err
