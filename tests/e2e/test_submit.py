"""Commands as jobs of a real cluster with token authentication, followed over a connection that breaks.

What commands make of scores can be submitted at the end of the first test, where they are.
"""

import os
import time
from collections.abc import Iterator

import psutil
import pytest
import s3fs
from safetensors.torch import load

from grepr_core.low_level import LowLevelEncoder
from grepr_core.storage import Folder
from pipelines.score_table import read_scores
from tests.cut_proxy import cut_proxy
from tests.e2e.test_pretrain_low import ARGUMENTS
from tests.lake import grepr, jpeg, photo, run_grepr
from tests.ray_cluster import RayCluster, ray_cluster
from tests.s3_server import s3_server

pytestmark = [pytest.mark.slow, pytest.mark.s3]

SCORE = ("score", "s3://lake/photos", "--shard-size", "4", "--workers", "2")


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
def cluster(store: dict[str, str]) -> Iterator[RayCluster]:
    # The credentials are here and not there.
    environment = {name: value for name, value in os.environ.items() if name not in store}
    with ray_cluster(4, environment) as cluster:
        yield cluster


@pytest.fixture
def submit(cluster: RayCluster, store: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    monkeypatch.setenv("RAY_AUTH_TOKEN", cluster.token)
    return ("submit", "--address", cluster.address, "--env", ",".join(store), "--follow", "--submission-id")


def shards(lake: s3fs.S3FileSystem, run: str) -> int:
    return len(lake.glob(f"results/{run}/scores/*.parquet"))


def driver(run: str) -> psutil.Process:
    """Finds the process of a job that computes; the shell that started it has the same command line."""
    found = [p for p in psutil.process_iter(["cmdline", "name"]) if f"s3://results/{run}" in (p.info["cmdline"] or [])]
    (process,) = (p for p in found if "submit" not in p.info["cmdline"] and "-c" not in p.info["cmdline"])
    return process


def test_a_job_that_dies_is_followed_to_its_end_and_submitted_again(
    cluster: RayCluster, lake: s3fs.S3FileSystem, submit: tuple[str, ...]
):
    with cut_proxy(cluster.address) as proxy:
        through_proxy = tuple(proxy.address if part == cluster.address else part for part in submit)
        process = grepr(*through_proxy, "first", "--", *SCORE[:2], "s3://results/killed", *SCORE[2:])
        deadline, cut = time.monotonic() + 200, 0
        while shards(lake, "killed") < 4:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "no shard was finished in time"
            if cluster.folder.joinpath("session_latest/logs/job-driver-first.log").exists() and cut < 3:
                proxy.cut()
                cut += 1
            time.sleep(0.5)
        assert cut
        proxy.cut()
        driver("killed").kill()
        out, err = process.communicate(timeout=120)
    assert process.returncode == 137, err
    assert "first ended with exit code 137" in err
    assert out == cluster.job_log("first")  # no line lost, none twice
    assert not lake.exists("results/killed/run.json")

    code, out, err = run_grepr(*submit, "first", "--", *SCORE[:2], "s3://results/killed", *SCORE[2:])
    assert code == 2
    assert "has a job of this id already, which ended as FAILED" in err

    code, out, err = run_grepr(*submit, "second", "--", *SCORE[:2], "s3://results/killed", *SCORE[2:])
    assert code == 0, err
    assert out == cluster.job_log("second")
    assert "of 121 images are done already" in out
    assert "121 images: 120 scored, 1 unreadable" in out
    code, out, err = run_grepr("score", "s3://lake/photos", "s3://results/undisturbed")
    assert code == 0, err
    table = read_scores(Folder("s3://results/undisturbed"))
    assert read_scores(Folder("s3://results/killed")).equals(table)


def test_pretraining_uses_the_cluster_that_runs_the_job(
    cluster: RayCluster, lake: s3fs.S3FileSystem, submit: tuple[str, ...]
):
    few = ("--epochs", "1", "--num-workers", "2", "--workers", "2")
    job = ("pretrain", "low", "s3://lake/photos/000*.jpg", "--output", "s3://results/low", *ARGUMENTS, *few)
    code, out, err = run_grepr(*submit, "pretrain", "--", *job)
    assert code == 0, out + err
    assert "1 epochs, 1 steps: loss" in out
    LowLevelEncoder().load_state_dict(load(lake.cat_file("results/low/low_level.safetensors")))


def test_a_job_keeps_its_exit_code_and_no_secret_is_in_its_log(
    cluster: RayCluster, store: dict[str, str], submit: tuple[str, ...]
):
    code, out, err = run_grepr(*submit, "wrong", "--", "model", "show", "s3://results/no-such-bundle")
    assert code == 2, err
    assert "grepr: s3://results/no-such-bundle: " in out
    for name in ("first", "second", "pretrain", "wrong"):
        assert store["AWS_SECRET_ACCESS_KEY"] not in cluster.job_log(name)
        assert cluster.token not in cluster.job_log(name)


def test_another_token_is_told_and_an_unknown_job_too(
    cluster: RayCluster, submit: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
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
