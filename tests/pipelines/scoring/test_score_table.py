import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grepr_core.decoding.images import Failure, Status
from grepr_core.reasons.probes import SEVERITIES
from grepr_core.scoring.image_score import ImageScore
from grepr_core.storage import Folder
from pipelines.lake.manifest import SCHEMA as MANIFEST_SCHEMA
from pipelines.running.shard_files import finished_shards, shard_name
from pipelines.scoring.kept_rows import KeptRows
from pipelines.scoring.score_table import (
    ShardSummary,
    count_reasons,
    make_table,
    read_scores,
    read_shard,
    read_summary,
    schema,
    write_shard,
)

SCORED = ImageScore(
    Status.SCORED,
    score=0.5,
    severities={name: i / 8 for i, name in enumerate(SEVERITIES)},
    not_photo=False,
    reason="pixelation",
    width=4,
    height=3,
    scored_pixels=12,
    bytes=99,
    phash="c3a50f0ff0f05a3c",
    features=np.arange(3, dtype=np.float32),
)
FAILED = ImageScore.from_failure(Failure(Status.MISSING, "no such file"))


def images(n: int) -> pa.Table:
    rows = [{"image_id": f"{i:032x}", "uri": f"/lake/{i}.jpg", "shard": 0} for i in range(n)]
    return pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA)


@pytest.mark.parametrize("feature_size", [None, 3])
@pytest.mark.parametrize("scores", [[SCORED], [FAILED], [FAILED, SCORED, FAILED], []])
def test_schema_is_the_same_whatever_the_rows_hold(scores: list[ImageScore], feature_size: int | None, tmp_path: Path):
    table = make_table(images(len(scores)), scores, model_id="m", feature_size=feature_size)
    folder = Folder(str(tmp_path))
    write_shard(folder, 3, table, ShardSummary(len(scores)))
    read = pq.read_table(tmp_path / shard_name(3))
    assert read.schema.remove_metadata().equals(schema(feature_size))
    assert len(read) == len(scores)


def test_values_land_in_their_columns():
    rows = make_table(images(2), [SCORED, FAILED], model_id="m", feature_size=3).to_pylist()
    assert rows[0] == {
        **dict.fromkeys(schema(3).names),
        "image_id": "0" * 32,
        "uri": "/lake/0.jpg",
        "status": "scored",
        "score": 0.5,
        **SCORED.severities,
        "not_photo": False,
        "reason": "pixelation",
        "width": 4,
        "height": 3,
        "scored_pixels": 12,
        "bytes": 99,
        "phash": "c3a50f0ff0f05a3c",
        "features": [0, 1, 2],
        "model_id": "m",
    }
    assert (rows[1]["status"], rows[1]["error"]) == ("missing", "no such file")
    assert rows[1]["features"] is rows[1]["phash"] is None


def test_features_are_rounded_to_half_precision_unless_told_otherwise(tmp_path: Path):
    exact = replace(SCORED, features=np.array([1 / 3, 2e5, 1e-9], np.float32))
    rounded = make_table(images(1), [SCORED], model_id="m", feature_size=3)
    assert rounded.schema.field("features").type.value_type == pa.float16()
    folder = Folder(str(tmp_path))
    table = make_table(images(2), [exact, FAILED], model_id="m", feature_size=3, features_dtype="float32")
    write_shard(folder, 0, table, ShardSummary(2))
    read = read_shard(folder, 0)
    assert read.schema.equals(schema(3, "float32"))
    assert read["features"].to_pylist() == [exact.features.tolist(), None]


def test_rows_of_a_version_that_told_less_are_null_there(tmp_path: Path):
    folder = Folder(str(tmp_path))
    told = make_table(images(2), [SCORED, FAILED], model_id="m")
    write_shard(folder, 0, told.drop_columns([*SEVERITIES, "not_photo", "reason", "phash"]), ShardSummary(2))
    old = read_shard(folder, 0)
    assert old.schema.equals(schema())
    assert [old[name].null_count for name in ("blur", "not_photo", "reason", "phash")] == [2] * 4
    assert count_reasons(old) == {}
    rows = KeptRows(np.array([1]), old.slice(0, 1)).joined_by(told.slice(0, 1))
    assert rows["reason"].to_pylist() == ["pixelation", None]
    assert count_reasons(rows) == {"pixelation": 1}


def test_only_whole_files_count_as_finished(tmp_path: Path):
    folder = Folder(str(tmp_path))
    table = make_table(images(1), [SCORED], model_id="m")
    for shard in (0, 7, 1_234_567):
        write_shard(folder, shard, table, ShardSummary(1))
    for name in (".shard=000003.parquet.abc", "shard=000004.parquet.tmp", "other.parquet"):
        (tmp_path / name).touch()
    assert finished_shards(folder) == {0, 7, 1_234_567}
    assert finished_shards(folder.child("nowhere")) == set()


def test_summaries_are_kept_and_add_up(tmp_path: Path):
    folder = Folder(str(tmp_path))
    summary = ShardSummary(2, {"scored": 1, "missing": 1}, {"decode": 0.5}, began=10.0, ended=12.0)
    write_shard(folder, 0, make_table(images(2), [SCORED, FAILED], model_id="m"), summary)
    assert read_summary(folder, 0) == summary
    long = ShardSummary(1, {"x" * 100_000: 1})  # as names of columns and statuses never are
    write_shard(folder, 1, make_table(images(1), [SCORED], model_id="m"), long)
    assert read_summary(folder, 1) == long
    blurred = ShardSummary(reasons={"blur": 2}) + ShardSummary(reasons={"blur": 1, "noise": 1})
    assert blurred.reasons == {"blur": 3, "noise": 1}
    total = ShardSummary() + summary + ShardSummary(3, {"scored": 3}, {"decode": 1.0, "model": 2.0}, 9.0, 11.0)
    assert total == ShardSummary(5, {"scored": 4, "missing": 1}, {"decode": 1.5, "model": 2.0}, 9.0, 12.0)
    assert math.isinf(ShardSummary().began)


def test_all_scores_are_read_in_order(tmp_path: Path):
    folder = Folder(str(tmp_path)).child("scores")
    for shard in (2, 10, 1):
        one = ImageScore(Status.SCORED, score=float(shard))
        write_shard(folder, shard, make_table(images(1), [one], model_id="m"), ShardSummary(1))
    assert read_scores(Folder(str(tmp_path)), ["score"])["score"].to_pylist() == [1, 2, 10]


def test_ordinary_readers_read_it(tmp_path: Path):
    import pandas as pd

    folder = Folder(str(tmp_path))
    for shard, score in enumerate((SCORED, FAILED)):
        write_shard(folder, shard, make_table(images(1), [score], model_id="m", feature_size=3), ShardSummary(1))
    frame = pd.read_parquet(tmp_path)
    assert frame["status"].tolist() == ["scored", "missing"]
    assert list(frame.columns) == schema(3).names
