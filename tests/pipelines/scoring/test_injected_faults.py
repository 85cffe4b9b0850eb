"""Faults that are no kills, put in wherever a run may meet one: what passes costs nothing, what stays is told."""

import errno
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from grepr_core.bundles.bundle import Bundle
from grepr_core.bundles.bundle_files import BundleFiles
from grepr_core.decoding.images import decode
from grepr_core.decoding.view import FULL_SIZE
from grepr_core.errors import UserError
from grepr_core.scoring.scorer import Scorer
from grepr_core.storage import Folder
from pipelines.options import ScoreOptions
from pipelines.running import shard_files
from pipelines.running.shard_pool import ShardError
from pipelines.scoring.run_record import RunRecord
from pipelines.scoring.score import run
from tests.grepr_core.models import small_tower
from tests.lake import check_invariants, make_lake
from tests.pipelines.scoring.in_this_process import in_this_process

IMAGES, SHARD = 12, 3
MODEL = Bundle("small", small_tower(), view=FULL_SIZE, model_id=BundleFiles.read("grepr-lite").header.model_id)
#: The calls that fail, counted from 0.
ONCE, ALWAYS = range(2, 3), range(2, 10**6)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_lake(tmp_path_factory.mktemp("lake") / "photos", IMAGES)


@pytest.fixture(autouse=True)
def one_model() -> Iterator[None]:
    """A small model in place of the one that ships."""
    with in_this_process(processes=2), mock.patch("grepr_core.bundles.bundle.load_bundle", return_value=MODEL):
        yield


def failing(function: Callable[..., Any], calls: range, error: Exception) -> Callable[..., Any]:
    """A function that raises instead of being called for some times."""
    made = iter(range(10**9))

    def call(*arguments: Any, **options: Any) -> Any:
        if next(made) in calls:
            raise error
        return function(*arguments, **options)

    return call


def score(lake: Path, output: Path) -> RunRecord:
    record = run(ScoreOptions(source=str(lake), output=str(output), shard_size=SHARD, workers=2))
    check_invariants(output)
    return record


def shard_writes(error: Exception, calls: range) -> Any:
    """Has the writing of scores fail."""
    write = Folder.write
    fail = failing(lambda: None, calls, error)

    def write_or_fail(folder: Folder, name: str, content: bytes) -> None:
        if name.endswith(".parquet") and folder.url.endswith("/scores"):
            fail()
        write(folder, name, content)

    return mock.patch.object(Folder, "write", write_or_fail)


def footers(error: Exception, calls: range) -> Any:
    return mock.patch("pipelines.scoring.score_table.add_footer", failing(shard_files.add_footer, calls, error))


def manifest_reads(error: Exception, calls: range) -> Any:
    from pipelines.lake.manifest import Manifest

    return mock.patch.object(Manifest, "read_shard", failing(Manifest.read_shard, calls, error))


def models(error: Exception, calls: range) -> Any:
    return mock.patch("grepr_core.bundles.bundle.load_bundle", failing(lambda _: MODEL, calls, error))


def encodes(error: Exception, calls: range) -> Any:
    return mock.patch.object(Scorer, "_encode", failing(Scorer._encode, calls, error))


@pytest.mark.parametrize("where", [shard_writes, footers, encodes])
def test_what_fails_once_costs_nothing(where: Callable[..., Any], lake: Path, tmp_path: Path):
    with where(OSError(errno.EIO, "Input/output error"), ONCE):
        record = score(lake, tmp_path / "out")
    assert record.counts == {"scored": IMAGES}
    assert record.workers["ran"] == 2


def test_a_manifest_that_cannot_be_read_once_costs_nothing(lake: Path, tmp_path: Path):
    score(lake, tmp_path / "first")
    with manifest_reads(TimeoutError("silence"), range(1)):
        record = run(ScoreOptions(source=str(tmp_path / "first/manifest"), output=str(tmp_path / "out"), workers=2))
    assert record.counts == {"scored": IMAGES}


def test_a_model_that_cannot_be_read_at_first_costs_nothing(lake: Path, tmp_path: Path):
    with models(OSError("status 503"), range(3)):
        record = score(lake, tmp_path / "out")
    assert record.counts == {"scored": IMAGES}


def test_a_process_that_cannot_start_is_one_less(lake: Path, tmp_path: Path):
    with models(UserError("no GPU here"), range(1)):
        record = score(lake, tmp_path / "out")
    assert record.counts == {"scored": IMAGES}
    assert record.workers["ran"] == 1


def test_where_no_process_can_start_the_cause_is_told(lake: Path, tmp_path: Path):
    with models(OSError("status 503"), range(10**6)), pytest.raises(ShardError) as raised:
        score(lake, tmp_path / "out")
    assert str(raised.value) == "a process could not start: OSError: status 503"
    assert score(lake, tmp_path / "out").counts == {"scored": IMAGES}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("shapes do not match"), "the model failed: RuntimeError: shapes do not match"),
        (MemoryError(), "the model needs more memory for this image than there is"),
    ],
)
def test_an_exception_of_the_model_is_a_row(error: Exception, reason: str, lake: Path, tmp_path: Path):
    culprit, encode = decode((lake / "0005.jpg").read_bytes()).rgb, Scorer._encode

    def encode_or_raise(scorer: Scorer, photos: Any) -> Any:
        if any(np.array_equal(photo.rgb, culprit) for photo in photos):
            raise error
        return encode(scorer, photos)

    with mock.patch.object(Scorer, "_encode", encode_or_raise):
        record = score(lake, tmp_path / "out")
    assert record.counts == {"scored": IMAGES - 1, "crashed": 1}
    rows = check_invariants(tmp_path / "out").to_pylist()
    assert [row["error"] for row in rows] == [reason if row["uri"].endswith("0005.jpg") else None for row in rows]


def test_a_process_whose_device_is_bad_spoils_no_rows(lake: Path, tmp_path: Path):
    scorers: list[Scorer] = []
    encode = Scorer._encode

    def encode_or_raise(scorer: Scorer, photos: Any) -> Any:
        if scorer not in scorers:
            scorers.append(scorer)
        if scorer is scorers[0]:
            deadline = time.monotonic() + 60
            while len(scorers) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)  # until there is another process that can have its shard
            raise MemoryError
        return encode(scorer, photos)

    with mock.patch.object(Scorer, "_encode", encode_or_raise):
        assert score(lake, tmp_path / "out").counts == {"scored": IMAGES}


def test_a_model_that_always_fails_is_still_a_run(lake: Path, tmp_path: Path):
    with encodes(RuntimeError("no"), range(10**6)):
        assert score(lake, tmp_path / "out").counts == {"crashed": IMAGES}


@pytest.mark.parametrize("where", [shard_writes, footers])
def test_shards_that_fail_always_are_listed_and_the_others_are_done(
    where: Callable[..., Any], lake: Path, tmp_path: Path
):
    with where(OSError(errno.EIO, "Input/output error"), ALWAYS), pytest.raises(ShardError) as raised:
        score(lake, tmp_path / "out")
    assert str(raised.value).startswith("2 of 4 shards failed wherever they were tried; the others are done")
    assert "Input/output error" in str(raised.value)
    assert len(list((tmp_path / "out/scores").iterdir())) == 2
    assert not list((tmp_path / "out/in-progress").iterdir())
    assert score(lake, tmp_path / "out").counts == {"scored": IMAGES}


def test_a_full_disk_ends_the_run_soon(lake: Path, tmp_path: Path):
    with (
        shard_writes(OSError(errno.ENOSPC, "No space left on device"), range(10**6)),
        pytest.raises(ShardError) as raised,
    ):
        score(lake, tmp_path / "out")
    assert str(raised.value).startswith("shard ")
    assert str(raised.value).endswith(": OSError: [Errno 28] No space left on device")
