"""Scoring a lake in an object store that answers as badly as object stores do, through the client of production."""

import functools
import http.server
import json
import shutil
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import s3fs

from grepr_core.storage import Folder
from pipelines.lake.manifest import write_manifest
from pipelines.lake.sources import Entry
from tests.fault_proxy import KINDS, FaultProxy, fault_proxy
from tests.lake import SMALL, jpeg, make_lake, photo, run_here, scores
from tests.s3_server import ALL, s3_server

pytestmark = [pytest.mark.slow, pytest.mark.s3, pytest.mark.timeout(600)]

PHOTOS = 150
ONLY = "GET /lake/photos/"
#: One process starts sooner than two.
ONE = ("--workers", "1", *SMALL)


@pytest.fixture(scope="module", params=ALL or ["s3rver" if shutil.which("s3rver") else "moto"])
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, shared_ray: ModuleType
) -> Iterator[FaultProxy]:
    folder = tmp_path_factory.mktemp("store")
    with s3_server(folder, request.param) as server, fault_proxy(server["AWS_ENDPOINT_URL"]) as proxy:
        fs = s3fs.S3FileSystem()
        fs.mkdir("lake")
        fs.mkdir("few")
        for i in range(PHOTOS):
            fs.pipe_file(f"lake/photos/{i:04d} ü.jpg", jpeg(photo(i)))
        for i in range(8):
            fs.pipe_file(f"few/photos/{i}.jpg", jpeg(photo(i)))
        proxy.only = ONLY
        with shared_ray.warm_process():
            yield proxy


@pytest.fixture
def proxy(store: FaultProxy) -> FaultProxy:
    store.share, store.kinds, store.forbidden, store.only = 0, KINDS, None, ONLY
    store.requests.clear()
    return store


def test_a_store_that_harms_every_tenth_request_costs_no_image(proxy: FaultProxy, tmp_path: Path):
    code, _, err = run_here("score", "s3://lake/photos", tmp_path / "undisturbed", *ONE)
    assert code == 0, err
    # Each stall is longer than a request may take.
    proxy.share, proxy.stall = 0.1, 6
    for attempt in range(3):  # for every kind of harm to have come up
        code, out, err = run_here("score", "s3://lake/photos", tmp_path / f"out{attempt}", *ONE, "--timeout", "16")
        assert code == 0, err
        assert f"{PHOTOS} images: {PHOTOS} scored" in out
        assert scores(tmp_path / f"out{attempt}").equals(scores(tmp_path / "undisturbed"))
        if proxy.counts.keys() == set(KINDS):
            break
    assert proxy.counts.keys() == set(KINDS)


def test_missing_and_denied_are_not_asked_for_again(proxy: FaultProxy, tmp_path: Path):
    code, _, err = run_here("manifest", "s3://few/photos", tmp_path / "manifest")
    assert code == 0, err
    s3fs.S3FileSystem().mv("few/photos/3.jpg", "few/elsewhere.jpg")
    proxy.requests.clear()
    proxy.forbidden = "GET /few/photos/5"
    code, out, err = run_here("score", tmp_path / "manifest", tmp_path / "out", *ONE)
    s3fs.S3FileSystem().mv("few/elsewhere.jpg", "few/photos/3.jpg")
    assert code == 3, err
    assert "8 images: 1 denied, 1 missing, 6 scored" in out
    assert [proxy.requests[f"GET /few/photos/{i}.jpg"] for i in range(8)] == [1] * 8


def test_a_stall_beyond_the_timeout_is_a_row_that_can_be_mended(proxy: FaultProxy, tmp_path: Path):
    proxy.share, proxy.kinds, proxy.stall, proxy.only = 1, ("stall",), 20, "GET /few/photos/6.jpg"
    code, out, err = run_here("score", "s3://few/photos", tmp_path / "out", *ONE, "--timeout", "4")
    assert code == 3, err
    assert "8 images: 7 scored, 1 timeout" in out
    (row,) = (row for row in scores(tmp_path / "out").to_pylist() if row["status"] == "timeout")
    assert (row["error"], row["etag"]) == ("not read within 4 seconds", None)
    assert proxy.requests["GET /few/photos/6.jpg"] > 1
    proxy.share = 0
    code, out, err = run_here("score", "s3://few/photos", tmp_path / "out", *ONE, "--timeout", "4", "--retry-failed")
    assert code == 0, err
    assert "8 images: 8 scored" in out
    assert scores(tmp_path / "out")["etag"].null_count == 0


def test_objects_that_change_after_the_listing_are_told(proxy: FaultProxy, tmp_path: Path):
    code, _, err = run_here("manifest", "s3://few/photos", tmp_path / "manifest")
    assert code == 0, err
    new = jpeg(photo(77, (200, 160)))
    s3fs.S3FileSystem().pipe_file("few/photos/2.jpg", new)
    code, out, err = run_here("score", tmp_path / "manifest", tmp_path / "out", *ONE)
    s3fs.S3FileSystem().pipe_file("few/photos/2.jpg", jpeg(photo(2)))
    assert code == 0, err
    assert "8 images: 8 scored" in out
    assert "1 object changed after being listed; the scores are of the new content" in err
    assert json.loads((tmp_path / "out/run.json").read_text())["changed"] == 1
    row = scores(tmp_path / "out").to_pylist()[2]
    assert (row["bytes"], row["width"]) == (len(new), 200)
    assert row["etag"]


def test_members_of_a_tar_and_images_of_the_web_score_as_files_do(proxy: FaultProxy, tmp_path: Path):
    folder = make_lake(tmp_path / "photos", 12)
    with tarfile.open(tmp_path / "lake.tar", "w") as tar:
        tar.add(folder, arcname="")
    with tarfile.open(tmp_path / "lake.tar") as tar:
        members = sorted((m for m in tar.getmembers() if m.isfile()), key=lambda member: member.name)
        packed = [Entry(str(tmp_path / "lake.tar"), m.size, None, m.name, m.offset_data) for m in members]
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        served = [Entry(f"http://127.0.0.1:{server.server_port}/{i:04d}.jpg?token=1") for i in range(12)]
        manifest = Folder(str(tmp_path / "manifest"))
        write_manifest([*packed, *served], manifest, source="both", largest_shard=32)
        code, out, err = run_here("score", manifest.url, tmp_path / "out", *ONE)
        server.shutdown()
    assert code == 0, err
    assert "24 images: 24 scored" in out
    code, _, err = run_here("score", folder, tmp_path / "files", *ONE)
    assert code == 0, err
    assert scores(tmp_path / "out")["score"].to_pylist() == 2 * scores(tmp_path / "files")["score"].to_pylist()
