"""The scoring pipeline in this process; on a real Ray where that decides something."""

import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grepr_core.bundles.bundle import save_bundle
from grepr_core.bundles.bundle_files import BundleHeader
from grepr_core.encoders.precision import has_bf16
from grepr_core.errors import UserError
from grepr_core.storage import Folder
from pipelines.lake.manifest import Manifest
from pipelines.lake.manifest import run as make_manifest
from pipelines.options import ManifestOptions, ScoreOptions
from pipelines.scoring.score import _record, _settings, run, scored_otherwise
from pipelines.scoring.score_table import ShardSummary, read_scores
from tests.grepr_core.models import full_bundle
from tests.lake import SMALL_VIEW, check_invariants, jpeg, make_lake, photo
from tests.pipelines.scoring.in_this_process import in_this_process


@pytest.fixture
def pool_in_this_process() -> Iterator[None]:
    with in_this_process():
        yield


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_lake(tmp_path_factory.mktemp("lake") / "photos", 70)


@pytest.mark.usefixtures("pool_in_this_process")
def test_a_model_with_both_paths_fills_every_column(lake: Path, tmp_path: Path):
    save_bundle(full_bundle(), str(tmp_path / "model"))
    where = {"source": str(lake), "output": str(tmp_path / "out"), "model": str(tmp_path / "model")}
    # In bfloat16, as a CPU that has it computes, features are rounded already.
    exact = {"features": True, "features_dtype": "float32", "precision": "fp32"}
    options = ScoreOptions(**where, **exact, zero_shot=True, workers=1)
    record = run(options)
    table = check_invariants(tmp_path / "out")
    assert record.counts == {"scored": 70}
    for name in ("score", "score_low", "score_high", "features", "width", "scored_pixels", "bytes"):
        assert table[name].null_count == 0
    assert len(set(table["score"].to_pylist())) == 70
    assert len(table["features"][0]) == 32 + 128
    features = np.stack(table["features"].to_numpy())
    assert not np.array_equal(features, features.astype(np.float16)), "they are rounded"
    assert set(table["model_id"].to_pylist()) == {record.settings["model_id"]}


@pytest.mark.usefixtures("pool_in_this_process")
def test_a_manifest_is_a_source(lake: Path, tmp_path: Path):
    manifest = make_manifest(ManifestOptions(source=str(lake), manifest=str(tmp_path / "manifest")))
    record = run(
        ScoreOptions(
            source=f"file://{tmp_path}/manifest", output=f"file://{tmp_path}/out", workers=1, max_pixels=SMALL_VIEW
        )
    )
    assert record.images == manifest.images == 70
    assert not (tmp_path / "out/manifest").exists()
    assert len(read_scores(Folder(str(tmp_path / "out")))) == 70


@pytest.mark.usefixtures("pool_in_this_process")
def test_notes_of_processes_that_died_are_cleared_away(lake: Path, tmp_path: Path):
    notes = tmp_path / "out/in-progress"
    notes.mkdir(parents=True)
    (notes / "shard=000000.json").write_text('{"image": null, "deaths": {}}')
    (notes / "shard=000099.json").write_text('{"image": null, "deaths": {}}')
    (notes / ".shard=000001.json.abc").touch()
    run(ScoreOptions(source=str(lake), output=str(tmp_path / "out"), workers=1, max_pixels=SMALL_VIEW))
    check_invariants(tmp_path / "out")


def test_outputs_of_before_hold_half_precision(tmp_path: Path):
    model = BundleHeader("m")
    options = ScoreOptions(source="/lake", output=str(tmp_path), features=True)
    before = _settings("/lake", 1, "digest", model, options, "float16")
    del before["features_dtype"]
    assert scored_otherwise(before | {"precision": "auto"}, "/lake", options, model) == ""
    changed = scored_otherwise(before, "/lake", replace(options, features_dtype="float32"), model)
    assert "--features-dtype: then float16, now float32" in changed
    with pytest.raises(ValueError, match="--features-dtype is for --features"):
        ScoreOptions(source="/lake", output=str(tmp_path), features_dtype="float32")


@pytest.mark.usefixtures("pool_in_this_process")
def test_secrets_stay_out_of_the_record(lake: Path, tmp_path: Path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one/a.jpg").write_bytes(jpeg(photo(0)))
    options = ScoreOptions(
        source=str(tmp_path / "one"), output=str(tmp_path / "out"), storage_options={"auto_mkdir": "SECRET"}
    )
    run(options)
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or b"SECRET" not in path.read_bytes()


def test_so_do_those_of_urls(tmp_path: Path):
    source = "https://me:SECRET@photos.example/a.csv?sig=SECRET"
    options = ScoreOptions(source=source, output=str(tmp_path / "out"))
    manifest = Manifest(Folder(str(tmp_path)), source, 1, 0, (), "digest")
    settings = _settings(manifest.source, 1, "digest", BundleHeader("m"), options, None)
    record = _record(ShardSummary(), ShardSummary(), settings, options, None, 1.0)
    assert record.options["source"] == settings["source"] == "https://***@photos.example/a.csv?sig=***"


class _Guarded(http.server.BaseHTTPRequestHandler):
    """Gives a photograph, and a table of photographs here, on another server and at a link-local address."""

    other: str
    told_other: list[str | None]

    def do_GET(self):
        key, body = self.headers["X-Api-Key"], jpeg(photo(0))
        if other := self.headers["Host"] != self.server.server_name_and_port:  # type: ignore[attr-defined]
            self.told_other.append(key)
        if self.path == "/photos.csv":
            body = f"uri\na.jpg\n{self.other}/b.jpg\nhttp://169.254.169.254/c.jpg\n".encode()
        missing = self.path.endswith(".json")
        self.send_response(404 if missing else 200 if key or other else 403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *arguments: object):
        pass


@pytest.mark.usefixtures("pool_in_this_process")
def test_headers_reach_the_source_and_no_other_that_its_table_names(tmp_path: Path):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Guarded) as server:
        server.server_name_and_port = f"127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        _Guarded.other, _Guarded.told_other = f"http://localhost:{server.server_port}", []
        options = ScoreOptions(
            source=f"http://127.0.0.1:{server.server_port}/photos.csv",
            output=str(tmp_path / "out"),
            storage_options={"headers": {"X-Api-Key": "SECRET"}},
            workers=1,
            max_failed_fraction=1,
        )
        run(options)
        server.shutdown()
    rows = read_scores(Folder(str(tmp_path / "out"))).to_pylist()
    found = {row["uri"].rpartition("/")[2]: (row["status"], row["error"]) for row in rows}
    assert found.keys() == {"a.jpg", "b.jpg", "c.jpg"}
    assert found["a.jpg"] == found["b.jpg"] == ("scored", None)
    assert found["c.jpg"][0] == "denied"
    assert "--allow-link-local" in found["c.jpg"][1]
    assert set(_Guarded.told_other) == {None}


@pytest.mark.usefixtures("one_ray")
def test_more_workers_than_there_are_cores_are_refused(lake: Path, tmp_path: Path):
    with pytest.raises(UserError, match="--workers 999"):
        run(ScoreOptions(source=str(lake), output=str(tmp_path / "out"), workers=999))


@pytest.mark.usefixtures("pool_in_this_process")
def test_nothing_but_failures_is_still_a_run(tmp_path: Path):
    (tmp_path / "lake").mkdir()
    for i in range(3):
        (tmp_path / "lake" / f"{i}.jpg").write_bytes(b"")
    record = run(ScoreOptions(source=str(tmp_path / "lake"), output=str(tmp_path / "out"), workers=1))
    assert record.counts == {"unreadable": 3}
    assert record.failed_fraction == 1
    check_invariants(tmp_path / "out")


@pytest.mark.usefixtures("one_ray")
def test_a_run_has_one_precision_and_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "one").mkdir()
    (tmp_path / "one/a.jpg").write_bytes(jpeg(photo(0)))
    options = ScoreOptions(source=str(tmp_path / "one"), output=str(tmp_path / "out"), workers=1)

    def stopped(*_: object) -> Iterator[dict[str, Any]]:
        raise KeyboardInterrupt

    # A machine of another kind begins and is stopped; this one goes on.
    with monkeypatch.context() as patches:
        patches.setattr("pipelines.scoring.score.ShardRun", stopped)
        patches.setattr("pipelines.running.precision.has_bf16", lambda _device: not has_bf16("cpu"))
        with pytest.raises(KeyboardInterrupt):
            run(options)
    other = "fp32" if has_bf16("cpu") else "bf16"
    settings = json.loads((tmp_path / "out/settings.json").read_text())
    assert settings["precision"] == other
    with pytest.raises(UserError, match=f"--precision: then {other}, now"):
        run(replace(options, precision="bf16" if other == "fp32" else "fp32"))
    jobs = []
    monkeypatch.setattr("pipelines.scoring.score.ShardRun", lambda _kind, job, *_: jobs.append(job) or stopped())
    with pytest.raises(KeyboardInterrupt):
        run(options)
    assert [job.precision for job in jobs] == [other]
    assert json.loads((tmp_path / "out/settings.json").read_text()) == settings
