"""Scoring from and to an object store, spoken to over the network by the client of production."""

import io
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs

from grepr_core.storage import Folder
from pipelines.scoring.score_table import read_scores
from tests.lake import SMALL, jpeg, photo, run_here
from tests.s3_server import ALL, s3_server

pytestmark = [pytest.mark.slow, pytest.mark.s3, pytest.mark.timeout(600)]


@pytest.fixture(scope="module", params=ALL or ["moto"])
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, shared_ray: ModuleType
) -> Iterator[dict[str, str]]:
    with s3_server(tmp_path_factory.mktemp("store"), request.param) as environment, shared_ray.warm_process():
        yield environment


@pytest.fixture(scope="module")
def lake(store: dict[str, str]) -> s3fs.S3FileSystem:
    fs = s3fs.S3FileSystem()
    fs.mkdir("lake")
    for i in range(120):
        fs.pipe_file(f"lake/photos/{i % 3}/{i:04d} ü.jpg", jpeg(photo(i)))
    fs.pipe_file("lake/photos/0/broken.jpg", b"not an image")
    fs.pipe_file("lake/photos/notes.txt", b"no image at all")
    fs.mkdir("scores")
    return fs


@pytest.fixture(scope="module")
def undisturbed(lake: s3fs.S3FileSystem) -> pa.Table:
    code, out, err = run_here("score", "s3://lake/photos", "s3://scores/all", *SMALL)
    assert code == 0, err
    assert "121 images: 120 scored, 1 unreadable" in out
    return read_scores(Folder("s3://scores/all"))


def test_a_prefix_is_scored_into_another(store: dict[str, str], lake: s3fs.S3FileSystem, undisturbed: pa.Table):
    table = undisturbed
    assert len(table) == 121
    assert table["uri"][0].as_py() == "s3://lake/photos/0/0000 ü.jpg"
    assert json.loads(lake.cat_file("scores/all/run.json"))["counts"] == {"scored": 120, "unreadable": 1}
    assert lake.find("scores/all/in-progress") == []
    for path in lake.find("scores/all"):
        assert store["AWS_SECRET_ACCESS_KEY"].encode() not in lake.cat_file(path)
    manifest = pq.read_table(io.BytesIO(lake.cat_file("scores/all/manifest/part-00000.parquet")))
    assert manifest["etag"].null_count == manifest["size"].null_count == 0


def test_objects_that_vanish_after_the_listing_are_missing(lake: s3fs.S3FileSystem, tmp_path: Path):
    code, _, err = run_here("manifest", "s3://lake/photos/1", tmp_path / "manifest")
    assert code == 0, err
    lake.rm_file("lake/photos/1/0001 ü.jpg")
    code, out, err = run_here("score", tmp_path / "manifest", tmp_path / "out", "--workers", "1", *SMALL)
    assert code == 0, err
    assert "40 images: 1 missing, 39 scored" in out


def test_a_source_that_is_not_there(store: dict[str, str], lake: s3fs.S3FileSystem, tmp_path: Path):
    assert urllib.request.urlopen(store["AWS_ENDPOINT_URL"], timeout=10).status == 200  # the server is well
    for source, message in (
        ("s3://nowhere/photos", "The specified bucket does not exist"),
        ("s3://lake/**.jpg", "Invalid pattern"),
    ):
        code, _, err = run_here("score", source, tmp_path / "out")
        assert code == 2
        told = err.removeprefix(f"listing {source}\n")
        assert told.startswith(f"grepr: {source}: {message}")  # and nothing of the libraries below
