"""Selecting by scores, compared with pandas; and the forms that a selection is written in."""

import dataclasses
import gzip
import io
import itertools
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs

from grepr_core.errors import UserError
from grepr_core.reasons.probes import SEVERITIES
from grepr_core.storage import Folder
from jobs import cli
from pipelines.lake.manifest import image_id, write_manifest
from pipelines.lake.sources import Listing
from pipelines.lake.sources.column_choice import ColumnChoice
from pipelines.lake.sources.duplicates import Seen
from pipelines.lake.sources.tables import list_table
from pipelines.lake.sources.versions import file_etag
from pipelines.options import FilterOptions
from pipelines.scoring.score_table import read_scores, schema
from pipelines.selection.filter import FilterRecord, run
from pipelines.selection.names import common_root, first_and_last, relative_name, sample_key
from tests.lake import jpeg, photo
from tests.pipelines.made_scores import MODEL, frame, write_scores
from tests.s3_server import s3_server
from tests.score_rows import score_row, write_run

ROWS = frame(500)
SCORED = ROWS[ROWS.status == "scored"]


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scores")
    write_scores(folder, ROWS)
    return folder


def select(scores: Path | str, output: Path, **options: Any) -> FilterRecord:
    return run(FilterOptions(scores=str(scores), output=str(output), **options))


def selected(output: Path) -> list[str]:
    return read_scores(Folder(str(output)), ["uri"])["uri"].to_pylist()


def best(rows: pd.DataFrame, n: int) -> pd.DataFrame:
    return rows.sort_values(["score", "image_id"], ascending=[False, True]).head(n)


def best_of_each(rows: pd.DataFrame, key: Any, fraction: float) -> pd.DataFrame:
    groups = rows.groupby(key, dropna=False)
    return pd.concat([best(group, math.ceil(round(fraction * len(group), 6))) for _, group in groups])


# --- Reasons ----------------------------------------------------------------------------------------------------------


def ailing_rows() -> list[dict[str, Any]]:
    """Ten scored photos, of which three are blurred, and one that failed."""
    told = dict.fromkeys(SEVERITIES, 0.0) | {"not_photo": False}
    rows = [
        score_row(f"/lake/{i}.jpg", i / 10, **told | ({"blur": 0.8, "reason": "blur"} if i < 3 else {}))
        for i in range(10)
    ]
    return [*rows, score_row("/lake/gone.jpg", None)]


def test_what_ails_photos_is_a_condition_and_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write_scores(tmp_path / "scores", ailing_rows(), shard_size=4)
    record = select(tmp_path / "scores", tmp_path / "sharp", where="blur < 0.4 and not not_photo")
    assert selected(tmp_path / "sharp") == [f"/lake/{i}.jpg" for i in range(3, 10)]
    assert record.reasons == {"scored": {"blur": 3}, "selected": {}}
    record = select(tmp_path / "scores", tmp_path / "low", max_score=0.45)
    assert record.reasons == {"scored": {"blur": 3}, "selected": {"blur": 3}}
    assert not caplog.records
    again = select(tmp_path / "low", tmp_path / "again", where="reason is not null")
    assert (again.selected, again.reasons["selected"]) == (3, {"blur": 3})


def test_scores_that_tell_no_reasons_are_told_where_one_is_asked_for(
    scores: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    assert select(scores, tmp_path / "out", where="blur < 0.4").selected == 0
    assert f"{len(SCORED)} of {len(SCORED)} scored images without blur" in caplog.text


# --- Criteria -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"min_score": 0.7}, lambda r: r[r.score >= np.float32(0.7)]),
        ({"max_score": 0.3}, lambda r: r[r.score <= np.float32(0.3)]),
        ({"min_score": 0.2, "max_score": 0.45}, lambda r: r[r.score.between(np.float32(0.2), np.float32(0.45))]),
        ({"top": 37}, lambda r: best(r, 37)),
        ({"top": 10_000}, lambda r: r),
        ({"top_fraction": 0.1}, lambda r: best(r, math.ceil(0.1 * len(r)))),
        ({"top_fraction": 1.0}, lambda r: r),
        ({"min_interval_lower": 0.5}, lambda r: r[r.score_lower >= np.float32(0.5)]),
        ({"where": "width >= 1000 and height < width"}, lambda r: r[(r.width >= 1000) & (r.height < r.width)]),
        ({"where": "uri LIKE '/lake/3/%'", "top": 5}, lambda r: best(r[r.uri.str.startswith("/lake/3/")], 5)),
        ({"where": "score > (SELECT avg(score) FROM scores)"}, lambda r: r[r.score > r.score.astype(float).mean()]),
        ({"where": 'COLUMNS(\'width|height\') > 900 -- both'}, lambda r: r[(r.width > 900) & (r.height > 900)]),
        ({"where": "false"}, lambda r: r.head(0)),
        ({"top_fraction": 0.2, "per": "split_part(uri, '/', 3)"}, lambda r: best_of_each(r, r.uri.str[6], 0.2)),
        ({"top": 2, "per": "width >= height"},
         lambda r: pd.concat([best(group, 2) for _, group in r.groupby(r.width >= r.height)])),
        ({"top_fraction": 0.5, "where": "width > 1500", "min_interval_lower": 0.2},
         lambda r: best(r[(r.width > 1500) & (r.score_lower >= np.float32(0.2))],
                        math.ceil(((r.width > 1500) & (r.score_lower >= np.float32(0.2))).sum() / 2))),
    ],
)  # fmt: skip
def test_the_same_rows_as_pandas_selects(
    scores: Path, tmp_path: Path, options: dict[str, Any], expected: Callable[[pd.DataFrame], pd.DataFrame]
):
    record = select(scores, tmp_path / "out", **options)
    wanted = expected(SCORED).sort_index()
    assert selected(tmp_path / "out") == wanted.uri.tolist()
    assert (record.images, record.failed, record.selected) == (500, 500 - len(SCORED), len(wanted))
    if len(wanted):
        assert (record.lowest_score, record.highest_score) == (wanted.score.min(), wanted.score.max())
    else:
        assert record.lowest_score is None
    failed = pq.read_table(tmp_path / "out/failed.parquet").to_pandas()
    assert failed.uri.tolist() == ROWS[ROWS.status != "scored"].uri.tolist()
    assert set(failed.status) == {"missing"}
    assert set(failed.error) == {"no such file"}


def test_a_tenth_of_thirty_is_three(tmp_path: Path):
    rows = frame(40)
    write_scores(tmp_path / "scores", rows[rows.status == "scored"].head(30))
    assert select(tmp_path / "scores", tmp_path / "out", top_fraction=0.1).selected == 3


@pytest.mark.parametrize("shard_size", [1, 7, 16, 1000])
def test_rows_are_the_same_whatever_the_shards(scores: Path, tmp_path: Path, shard_size: int):
    record = select(scores, tmp_path / "out", min_score=0.5, shard_size=shard_size)
    before, after = read_scores(Folder(str(scores))), read_scores(Folder(str(tmp_path / "out")))
    wanted = [
        status == "scored" and score >= 0.5
        for status, score in zip(*(before[c].to_pylist() for c in ("status", "score")), strict=True)
    ]
    assert after.equals(before.filter(wanted))
    assert after.schema.equals(schema())
    files = list((tmp_path / "out/scores").glob("*.parquet"))
    assert len(files) == math.ceil(record.selected / shard_size)
    assert len(pd.read_parquet(tmp_path / "out/scores")) == record.selected


def test_nothing_selected_is_a_selection_with_a_schema(scores: Path, tmp_path: Path):
    record = select(scores, tmp_path / "out", min_score=7, format="webdataset")
    assert (record.selected, record.met, record.model_ids) == (0, 0, [])
    assert read_scores(Folder(str(tmp_path / "out"))).schema.equals(schema())
    assert not (tmp_path / "out/tars").exists()


def test_features_are_copied_as_they_are(tmp_path: Path):
    rows = [
        {"image_id": f"{i:032x}", "uri": f"/{i}", "status": "scored", "score": i / 10, "model_id": MODEL}
        | {"features": np.full(3, i / 3, np.float16)}
        for i in range(10)
    ]
    write_scores(tmp_path / "scores", rows)
    select(tmp_path / "scores", tmp_path / "out", top=2)
    table = read_scores(Folder(str(tmp_path / "out")))
    assert table.schema.equals(schema(3))
    assert table["features"].to_pylist() == [[np.float16(i / 3)] * 3 for i in (8, 9)]


def test_a_selection_is_scores_to_select_from_again(scores: Path, tmp_path: Path):
    select(scores, tmp_path / "half", top_fraction=0.5)
    select(tmp_path / "half", tmp_path / "tenth", top=50)
    assert selected(tmp_path / "tenth") == best(SCORED, 50).sort_index().uri.tolist()


def test_nothing_but_failures(tmp_path: Path):
    rows = ROWS[ROWS.status != "scored"]
    write_scores(tmp_path / "scores", rows)
    record = select(tmp_path / "scores", tmp_path / "out", top=3)
    assert (record.selected, record.failed) == (0, len(rows))


def test_rows_are_the_same_whatever_the_chunks(scores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipelines.selection.rows.CHUNK_ROWS", 50)
    monkeypatch.setattr("pipelines.selection.criteria.CHUNK_ROWS", 50)
    record = select(scores, tmp_path / "out", top_fraction=0.3)
    assert selected(tmp_path / "out") == best(SCORED, record.selected).sort_index().uri.tolist()


# --- Metadata -------------------------------------------------------------------------------------------------------


def metadata_of(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"uri": rows.uri, "camera": rows.uri.str[-5].map({"0": "A", "1": "B"}), "width": 1})


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
@pytest.mark.parametrize("by", ["uri", "path", "image_id"])
def test_columns_of_metadata_are_joined(scores: Path, tmp_path: Path, kind: str, by: str):
    table = metadata_of(SCORED).drop(columns="uri")
    table[by] = SCORED["image_id" if by == "image_id" else "uri"]
    path = tmp_path / f"meta.{kind}"
    if kind == "parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, sep="\t" if kind == "tsv" else ",", index=False)
    record = select(scores, tmp_path / "out", metadata=str(path), where="camera = 'A' AND metadata.width = 1")
    assert selected(tmp_path / "out") == SCORED[SCORED.uri.str.endswith("0.jpg")].uri.tolist()
    assert record.without_metadata == 0


def test_images_without_metadata_are_counted_and_never_multiplied(scores: Path, tmp_path: Path):
    table = metadata_of(SCORED.head(100))
    # Rows of no image, and without a name, are of no account.
    extra = pd.DataFrame({"uri": ["/elsewhere.jpg", None, None], "camera": ["A", "A", "A"], "width": 1})
    pd.concat([table, extra]).to_csv(tmp_path / "meta.csv", index=False)
    record = select(scores, tmp_path / "out", metadata=str(tmp_path / "meta.csv"), top=3, per="camera")
    assert record.without_metadata == len(SCORED) - 100
    keys = SCORED.uri.map(dict(zip(table.uri, table.camera, strict=True)))
    wanted = pd.concat([best(group, 3) for _, group in SCORED.groupby(keys, dropna=False)])
    assert selected(tmp_path / "out") == wanted.sort_index().uri.tolist()
    assert record.groups == 3


def test_paths_in_metadata_are_relative_to_its_folder(tmp_path: Path):
    (tmp_path / "lake").mkdir()
    rows = frame(60, prefix=str(tmp_path / "lake"))
    write_scores(tmp_path / "scores", rows)
    table = pd.DataFrame({"file_name": [os.path.relpath(uri, tmp_path) for uri in rows.uri], "n": range(60)})
    table.to_csv(tmp_path / "meta.csv", index=False)
    select(tmp_path / "scores", tmp_path / "out", metadata=str(tmp_path / "meta.csv"), where="n < 20")
    wanted = rows.head(20)
    assert selected(tmp_path / "out") == wanted[wanted.status == "scored"].uri.tolist()


@pytest.mark.parametrize(
    ("name", "head", "row"),
    [
        ("meta.csv", "URL,Text,n\n", '{uri},"two\nlines, quoted ""x""",{n}\n'),
        ("meta.csv.gz", "TEXT;File Path;n\n", "x;{uri};{n}\n"),
        ("meta.tsv.gz", "image\tn\n", "{uri}\t{n}\n"),
        ("metadata.jsonl", "", '{{"file_name": "{uri}", "n": {n}, "objects": {{"box": [1, 2]}}}}\n'),
        ("meta.ndjson.gz", "", '{{"n": {n}, "uri": "{uri}"}}\n'),
    ],
)
def test_metadata_of_any_program(tmp_path: Path, name: str, head: str, row: str):
    (tmp_path / "lake").mkdir()
    rows = frame(60, prefix=str(tmp_path / "lake"))
    write_scores(tmp_path / "scores", rows)
    written = (row.format(uri=os.path.relpath(uri, tmp_path), n=n) for n, uri in enumerate(rows.uri))
    content = (head + "".join(written)).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    # A number, so that it is compared as one.
    select(tmp_path / "scores", tmp_path / "out", metadata=str(tmp_path / name), where="n < 20")
    wanted = rows.head(20)
    assert selected(tmp_path / "out") == wanted[wanted.status == "scored"].uri.tolist()


def test_metadata_as_a_list_of_objects_keeps_types(tmp_path: Path):
    write_scores(tmp_path / "scores", SCORED)
    records = [
        {"id": n, "path": uri, "x": n / 2, "none": None, "camera": {"iso": n}} for n, uri in enumerate(SCORED.uri)
    ]
    (tmp_path / "coco.json").write_text(json.dumps({"info": 1, "images": records}))
    where = "x < 2.5 AND camera.iso > 1 AND none IS NULL"
    select(tmp_path / "scores", tmp_path / "out", metadata=str(tmp_path / "coco.json"), where=where)
    assert selected(tmp_path / "out") == SCORED.uri.tolist()[2:5]
    records[-1]["x"] = "much"
    (tmp_path / "coco.json").write_text(json.dumps(records))
    with pytest.raises(UserError, match=r"coco.json: column x: .*its values need one type"):
        select(tmp_path / "scores", tmp_path / "two", metadata=str(tmp_path / "coco.json"), where=where)


def text_of(kind: pa.DataType, values: "pd.Series[str]") -> pa.Array:
    plain = pa.array(values.tolist(), pa.string())
    return plain.dictionary_encode() if pa.types.is_dictionary(kind) else plain.cast(kind)


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string()), pa.binary()], ids=str
)
def test_keys_of_metadata_of_any_type_of_text(scores: Path, tmp_path: Path, kind: pa.DataType):
    table = pa.table({"md5": [bytes(16)] * len(SCORED), "Url": text_of(kind, SCORED.uri), "n": range(len(SCORED))})
    if kind != pa.binary():
        table = table.append_column("uri", pa.array([b"\xff"] * len(SCORED)))
    pq.write_table(table, tmp_path / "meta.parquet")
    select(scores, tmp_path / "out", metadata=str(tmp_path / "meta.parquet"), where="n < 3")
    assert selected(tmp_path / "out") == SCORED.uri.tolist()[:3]


@pytest.mark.parametrize("name", ["meta.csv", "meta.parquet"])
def test_a_column_of_metadata_that_is_named_is_joined_by(scores: Path, tmp_path: Path, name: str):
    table = pd.DataFrame({"image_id": "x", "Where": SCORED.uri, "url": "x", "n": range(len(SCORED))})
    table["image_id"] = [f"COCO_{n}" for n in range(len(SCORED))]
    (table.to_csv if name.endswith("csv") else table.to_parquet)(tmp_path / name, index=False)
    given = {"metadata": str(tmp_path / name), "where": "n < 3"}
    with pytest.raises(UserError, match=r"no row of any scored image, whose image_id is .*'COCO_0', say.*--column"):
        select(scores, tmp_path / "out", **given)
    select(scores, tmp_path / "out", **given, column="where")
    assert selected(tmp_path / "out") == SCORED.uri.tolist()[:3]
    with pytest.raises(UserError, match=r"--column: then where, now not given"):
        select(scores, tmp_path / "out", **given)
    with pytest.raises(UserError, match=r"--metadata .*: no column who, which --column names; it has image_id, Where"):
        select(scores, tmp_path / "two", **given, column="who")


def test_a_column_member_of_the_users_own_is_no_part_of_the_key(scores: Path, tmp_path: Path):
    table = pd.DataFrame({"url": SCORED.uri, "member": "anna", "size": "L", "n": range(len(SCORED))})
    table.to_csv(tmp_path / "meta.csv", index=False)
    where = "n < 3 AND metadata.size = 'L' AND metadata.member = 'anna'"
    record = select(scores, tmp_path / "out", metadata=str(tmp_path / "meta.csv"), where=where)
    assert selected(tmp_path / "out") == SCORED.uri.tolist()[:3]
    assert record.without_metadata == 0


def test_metadata_with_a_quote_that_is_not_closed_loses_nothing(scores: Path, tmp_path: Path):
    lines = [f'{uri},{n},"caption"\n' for n, uri in enumerate(SCORED.uri)]
    lines[3] = lines[3].replace('"caption"', '"caption')
    (tmp_path / "meta.csv").write_text("url,n,text\n" + "".join(lines))
    with pytest.raises(UserError, match=r"meta.csv, line 5: .*a quote is not closed"):
        select(scores, tmp_path / "out", metadata=str(tmp_path / "meta.csv"), where="n < 3")


@pytest.mark.parametrize("column", ["uri", "url", "path", "uri and path", "image_id and path"])
def test_metadata_of_a_lake_that_was_moved_are_joined_by_the_paths(tmp_path: Path, column: str):
    names = [f"d/{i:02d}.jpg" for i in range(40)]
    rows = [score_row(f"/now/{name}", 0.5, path=name) for name in names]
    write_run(tmp_path / "scores", [*rows, score_row("/now/a.tar", 0.5, path="a.tar", member="m")])
    table = pd.DataFrame({"n": range(41), "member": [None] * 40 + ["m"]})
    for name in column.split(" and "):
        table[name] = [*(f"./{name}" for name in names), "a.tar"]
    if " and " in column:
        table[column.partition(" ")[0]] = [f"then/{i}" for i in range(41)]
    (tmp_path / "elsewhere").mkdir()
    table.to_csv(tmp_path / "elsewhere/meta.csv", index=False)
    record = select(
        tmp_path / "scores", tmp_path / "out", metadata=str(tmp_path / "elsewhere/meta.csv"), where="n > 37"
    )
    assert (record.selected, record.without_metadata) == (3, 0)
    assert sorted(read_scores(Folder(str(tmp_path / "out")), ["path"])["path"].to_pylist()) == [
        "a.tar",
        "d/38.jpg",
        "d/39.jpg",
    ]
    table.loc[1] = table.loc[0]
    table.to_csv(tmp_path / "elsewhere/meta.csv", index=False)
    with pytest.raises(UserError, match="has several rows of"):
        select(tmp_path / "scores", tmp_path / "other", metadata=str(tmp_path / "elsewhere/meta.csv"), where="n > 37")


def test_members_of_one_container_have_metadata_of_their_own(tmp_path: Path):
    rows = [
        {"image_id": f"{i:032x}", "uri": "/a.tar", "member": f"{i}.jpg", "status": "scored", "score": 0.5}
        | {"model_id": MODEL}
        for i in range(6)
    ]
    write_scores(tmp_path / "scores", rows)
    table = pd.DataFrame({"uri": "/a.tar", "member": [f"{i}.jpg" for i in range(6)], "n": range(6)})
    table.to_parquet(tmp_path / "meta.parquet")
    select(tmp_path / "scores", tmp_path / "out", metadata=str(tmp_path / "meta.parquet"), where="n % 2 = 1")
    table = read_scores(Folder(str(tmp_path / "out")))
    assert table["member"].to_pylist() == ["1.jpg", "3.jpg", "5.jpg"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pd.DataFrame({"uri": ["/a", "/a"], "n": [1, 2]}), "several rows of /a"),
        (pd.DataFrame({"name": ["/a"], "n": [1]}), "no column to join by.*name, n.*--column"),
        (pd.DataFrame({"uri": ["/a"], "n": [1]}), r"no row of any scored image.*/lake/0/00000.jpg.*/a"),
        (pd.DataFrame({"uri": pd.Series([], dtype=str), "n": []}), "no row of any scored image"),
    ],
)
def test_metadata_that_cannot_be_joined(scores: Path, tmp_path: Path, table: pd.DataFrame, message: str):
    table.to_csv(tmp_path / "meta.csv", index=False)
    with pytest.raises(UserError, match=message):
        select(scores, tmp_path / "out", metadata=str(tmp_path / "meta.csv"), where="n = 1")


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"uri,n\n/a,1\n/b,2,3\n"])
@pytest.mark.parametrize("name", ["meta.csv", "meta.parquet"])
def test_metadata_that_cannot_be_read(scores: Path, tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="meta"):
        select(scores, tmp_path / "out", metadata=str(tmp_path / name), where="n = 1")
    with pytest.raises(UserError, match=r"nowhere.*no such file"):
        select(scores, tmp_path / "out", metadata=str(tmp_path / "nowhere.csv"), where="n = 1")


# --- What is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to select by"),
        ({"min_score": 0.5, "top": 3}, "exclude each other"),
        ({"max_score": 0.5, "top_fraction": 0.1}, "exclude each other"),
        ({"top": 3, "top_fraction": 0.1}, "exclude each other"),
        ({"min_score": 0.5, "per": "width"}, "--per goes with"),
        ({"min_score": 0.5, "metadata": "a.csv"}, "--metadata is for"),
        ({"min_score": 0.5, "column": "url"}, "--column is of --metadata"),
        ({"top_fraction": 0.0}, "above 0"),
        ({"top_fraction": 1.5}, "at most 1"),
        ({"top": 0}, "--top must be at least 1"),
        ({"min_score": math.nan}, "finite"),
        ({"min_score": 0.5, "max_score": 0.4}, "above --max-score"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        FilterOptions(scores="a", output="b", **options)


@pytest.mark.parametrize(
    "expression",
    [
        "score > 0.5; DROP TABLE scores",
        "score > 0.5) OR (true",
        "score > 0.5 UNION SELECT 1",
        "score > 0.5 FROM scores",
        "score > 0.5, true",
        "DELETE FROM scores",
        "",
        "colour = 'red'",
        "uri > 5",
        "row_number() OVER () < 3",
        "EXISTS (SELECT * FROM read_csv('{secret}'))",
        "EXISTS (SELECT * FROM read_text('{secret}'))",
        "EXISTS (SELECT * FROM '{secret}')",
    ],
)
@pytest.mark.parametrize("option", ["where", "per"])
def test_an_expression_does_nothing_but_choose(scores: Path, tmp_path: Path, expression: str, option: str):
    if option == "per" and expression in ("uri > 5", "row_number() OVER () < 3"):
        pytest.skip("no condition")
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    with pytest.raises(UserError, match=f"--{option}"):
        select(scores, tmp_path / "out", top=3, **{option: expression.format(secret=secret)})
    assert not (tmp_path / "out/scores").exists()


def test_scores_of_several_models_cannot_be_compared(tmp_path: Path):
    rows = ROWS.copy()
    rows.loc[::3, "model_id"] = "b" * 64
    write_scores(tmp_path / "scores", rows)
    with pytest.raises(UserError, match=f"scores of 2 models.*where.*{MODEL}"):
        select(tmp_path / "scores", tmp_path / "out", top=3)
    record = select(tmp_path / "scores", tmp_path / "out", overwrite=True, top=3, where=f"model_id = '{'b' * 64}'")
    assert record.model_ids == ["b" * 64]
    wanted = rows[(rows.status == "scored") & (rows.model_id == "b" * 64)]
    assert selected(tmp_path / "out") == best(wanted, 3).sort_index().uri.tolist()


def test_scores_without_intervals(tmp_path: Path):
    write_scores(tmp_path / "scores", ROWS.drop(columns="score_lower"))
    with pytest.raises(UserError, match="no intervals"):
        select(tmp_path / "scores", tmp_path / "out", min_interval_lower=0.1)


def test_scores_that_are_not_finished(tmp_path: Path):
    write_scores(tmp_path / "scores", ROWS, finished=False)
    with pytest.raises(UserError, match=r"not finished.*--unfinished"):
        select(tmp_path / "scores", tmp_path / "out", top=3)
    assert select(tmp_path / "scores", tmp_path / "out", top=3, unfinished=True).selected == 3
    with pytest.raises(UserError, match="there is no such folder"):
        select(tmp_path / "nowhere", tmp_path / "out2", top=3)


def test_scores_of_which_files_are_gone(tmp_path: Path):
    write_scores(tmp_path / "scores", ROWS)
    (tmp_path / "scores/scores/shard=000003.parquet").unlink()
    with pytest.raises(UserError, match="484 rows of 500"):
        select(tmp_path / "scores", tmp_path / "out", top=3)
    assert select(tmp_path / "scores", tmp_path / "out", top=3, unfinished=True, overwrite=True).images == 484


def test_an_output_holds_one_selection(scores: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    out = tmp_path / "out"
    first = select(scores, out, top=3, format="txt")
    with caplog.at_level("INFO"):
        assert select(scores, out, top=3, format="txt") == first
    assert "already" in caplog.text
    with pytest.raises(UserError, match=r"--top: then 3, now 4.*--overwrite"):
        select(scores, out, top=4, format="txt")
    assert select(scores, out, top=4, overwrite=True).selected == 4
    assert not (out / "uris.txt").exists()
    assert sorted(path.name for path in out.iterdir()) == ["criteria.json", "failed.parquet", "filter.json", "scores"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_selection_is_left_alone(scores: Path, tmp_path: Path, overwrite: bool):
    (tmp_path / "mine/images").mkdir(parents=True)
    (tmp_path / "mine/images/a.jpg").write_bytes(b"mine")
    with pytest.raises(UserError, match="not empty"):
        select(scores, tmp_path / "mine", top=3, overwrite=overwrite)
    with pytest.raises(UserError, match="where the scores are"):
        select(scores, scores, top=3, overwrite=overwrite)
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*.*")] == [Path("mine/images/a.jpg")]


def test_secrets_stay_out_of_the_record(scores: Path, tmp_path: Path):
    select(scores, tmp_path / "out", top=3, storage_options={"auto_mkdir": "SECRET"})
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or b"SECRET" not in path.read_bytes()


# --- Lists ----------------------------------------------------------------------------------------------------------


def test_a_list_of_uris_names_each_image(tmp_path: Path):
    names = [("/a b.jpg", None), ("s3://b/ü,\u2028.jpg", None), ("/c.tar", "d/e.jpg"), ("/line\nbreak.jpg", None)]
    names.append(("s3://b/line\nbreak.jpg", None))
    rows = [
        {"image_id": f"{i:032x}", "uri": uri, "member": member, "status": "scored", "score": 1.0, "model_id": MODEL}
        for i, (uri, member) in enumerate(names)
    ]
    write_scores(tmp_path / "scores", rows)
    record = select(tmp_path / "scores", tmp_path / "out", min_score=0, format="txt")
    lines = (tmp_path / "out/uris.txt").read_bytes().decode().split("\n")
    assert lines == ["/a b.jpg", "s3://b/ü,\u2028.jpg", "/c.tar\td/e.jpg", "file:///line%0Abreak.jpg", ""]
    assert record.written is not None
    assert record.written["failed"] == 1
    unwritten = pq.read_table(tmp_path / "out/unwritten.parquet").to_pylist()
    assert [(row["uri"], row["error"]) for row in unwritten] == [
        ("s3://b/line\nbreak.jpg", "there is a line break in its name, or white space around it")
    ]


def test_a_list_of_uris_begins_with_the_best(scores: Path, tmp_path: Path):
    select(scores, tmp_path / "out", min_score=0.2, format="txt")
    wanted = best(SCORED[SCORED.score >= np.float32(0.2)], len(SCORED))
    assert (tmp_path / "out/uris.txt").read_text().splitlines() == wanted.uri.tolist()


def test_a_list_of_uris_is_a_source_of_the_same_images(tmp_path: Path):
    local = ("a b.jpg", " c .jpg ", "t\tab.jpg", "100%41.jpg", "d.tar\te", "\u2028", "f\r")
    names = [
        *((f"/x/{name}", None) for name in local),
        *(("file:///x/%E4.jpg", None), ("s3://b/t\tab%20.jpg", None), ("https://host/a b.jpg?x=1", None)),
        *(("/x/g.parquet", "image:3"), ("/h.tar", "a\tb.jpg "), ("s3://b/h.tar", " 2#ü/c")),
    ]
    rows = [
        {"image_id": image_id(uri, member), "uri": uri, "member": member, "status": "scored", "score": 1 - i / 100}
        | {"model_id": MODEL}
        for i, (uri, member) in enumerate(names)
    ]
    write_scores(tmp_path / "scores", rows)
    record = select(tmp_path / "scores", tmp_path / "out", min_score=0, format="txt")
    assert (record.written or {})["failed"] == 0
    listed = list_table(str(tmp_path / "out/uris.txt"), {}, Seen(), ColumnChoice())
    assert [image_id(entry.uri, entry.member) for entry in listed] == [row["image_id"] for row in rows]


def test_the_command_tells_what_it_did(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(cli, "_mute_libraries", lambda: None)
    rows = [
        {
            "image_id": f"{i:032x}",
            "uri": f"/{i}.jpg" if i else "s3://b/line\nbreak.jpg",
            "status": "scored",
            "score": i / 4,
        }
        | {"model_id": MODEL}
        for i in range(4)
    ]
    rows.append({"image_id": "f" * 32, "uri": "/gone.jpg", "status": "missing", "error": "gone", "model_id": MODEL})
    write_scores(tmp_path / "scores", rows)

    def code(*arguments: str) -> int:
        with pytest.raises(SystemExit) as ended:
            cli.main(["filter", str(tmp_path / "scores"), *arguments])
        return int(ended.value.code or 0)

    out = tmp_path / "out"
    assert code("--output", str(out), "--min-score", "-1", "--format", "txt") == cli.TOO_MANY_FAILED
    printed, _ = capsys.readouterr()
    assert "4 of 5 images selected, scores 0 to 0.75" in printed
    assert f"1 image has no score: {out}/failed.parquet" in printed
    assert f"1 image could not be written: {out}/unwritten.parquet" in printed
    assert "--max-failed-fraction" in caplog.text
    assert code("--output", str(tmp_path / "two"), "--top", "2", "--format", "txt") == cli.DONE
    assert code("--output", str(tmp_path / "two"), "--top", "3", "--format", "txt") == cli.WRONG_USAGE


# --- The page of the user guide -------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[3] / "docs/filtering.md").read_text()


def blocks(kind: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return [text for language, text in found if language == kind]


@pytest.mark.parametrize("command", blocks(""))
def test_commands_of_the_page_select(scores: Path, tmp_path: Path, command: str):
    arguments = shlex.split(command.replace("\\\n", ""))
    assert arguments[:2] == ["grepr", "filter"]
    options = cli.parse(arguments[1:])
    assert isinstance(options, FilterOptions)
    metadata = None
    if options.metadata is not None:
        metadata = str(tmp_path / options.metadata)
        pd.DataFrame({"image_id": SCORED.image_id, "licence": "CC0"}).to_csv(metadata, index=False)
    if "blur" in command:
        told = dict.fromkeys(SEVERITIES, 0.0) | {"not_photo": False}
        scores = write_run(tmp_path / "told", [score_row(f"/lake/{i}.jpg", i / 10, **told) for i in range(10)])
    here = {"scores": str(scores), "output": str(tmp_path / "out"), "metadata": metadata, "format": "parquet"}
    assert run(dataclasses.replace(options, **here)).selected > 0


def test_scores_are_read_as_the_page_says(scores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "scores").symlink_to(scores)
    monkeypatch.chdir(tmp_path)
    (query,) = blocks("sql")
    assert {status: count for status, count, *_ in duckdb.sql(query).fetchall()} == dict(ROWS.status.value_counts())
    code = next(block for block in blocks("python") if "pandas" in block)
    exec(code, names := {})
    assert len(names["scores"]) == len(ROWS)


# --- Names of copies ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uris", "root"),
    [
        (["/a/b/c.jpg", "/a/b/d/e.jpg"], "/a/b/"),
        (["/a/bc.jpg", "/a/bd.jpg"], "/a/"),
        (["/a/b.jpg"], "/a/"),
        (["s3://x/a.jpg", "s3://y/a.jpg"], "s3://"),
        (["/a/b.jpg", "file:///a/%FF.jpg"], "/a/"),
        (["/a/b.jpg", "s3://x/a.jpg"], ""),
    ],
)
def test_the_folder_that_all_share(uris: list[str], root: str):
    assert common_root(*first_and_last(pa.chunked_array([uris]))) == root


@pytest.mark.parametrize(
    ("uri", "member", "root", "name"),
    [
        ("/a/b/c.jpg", None, "/a/", "b/c.jpg"),
        ("s3://x/a//b/../c.jpg", None, "s3://x/", "a/%2F/b/%2E%2E/c.jpg"),
        ("s3://x/a.jpg", None, "", "s3/x/a.jpg"),
        ("/a/b.jpg", None, "", "a/b.jpg"),
        ("file:///a/%FF.jpg", None, "/a/", "%FF.jpg"),
        ("/a/b.tar", "../../etc/./passwd", "/a/", "b.tar/%2E%2E/%2E%2E/etc/%2E/passwd"),
        ("/a/b.tar", "/etc/passwd", "/a/", "b.tar/%2F/etc/passwd"),
    ],
)
def test_no_name_leads_out_of_the_folder(uri: str, member: str | None, root: str, name: str):
    assert relative_name(uri, member, root) == name


# --- Images ---------------------------------------------------------------------------------------------------------


def make_sources(folder: Path) -> dict[tuple[str, str | None], bytes]:
    """Photographs as files, in a tar archive and in a Parquet file; gives the bytes of each by URI and member."""
    contents = [jpeg(photo(i, (64, 64)), 50 + i) for i in range(24)]
    images: dict[tuple[str, str | None], bytes] = {}
    for i in range(8):
        path = folder / f"files/{i % 2}/{i} ü.JPG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents[i])
        images[str(path), None] = contents[i]
    with tarfile.open(folder / "files/a.tar", "w") as archive:
        for i in range(8, 16):
            name = f"../{i}.jpg" if i % 2 else f"x/{i}.jpg"
            info = tarfile.TarInfo(name)
            info.size = len(contents[i])
            archive.addfile(info, io.BytesIO(contents[i]))
            images[str(folder / "files/a.tar"), name] = contents[i]
    pq.write_table(pa.table({"image": contents[16:]}), folder / "files/b.parquet", row_group_size=3)
    images |= {(str(folder / "files/b.parquet"), f"image:{i}"): content for i, content in enumerate(contents[16:])}
    return images


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[tuple[str, str | None], bytes]]:
    """Made-up scores of files, members of an archive and rows of a table, with the manifest that lists them all."""
    folder = tmp_path_factory.mktemp("images")
    images = make_sources(folder)
    output = Folder(str(folder / "scores"))
    sources = [Listing(str(folder / name), all_files=False) for name in ("files", "files/a.tar", "files/b.parquet")]
    entries = list(itertools.chain(*sources))
    manifest = write_manifest(entries, output.child("manifest"), source=str(folder), largest_shard=5)
    rows = []
    for shard in range(manifest.shards):
        for row in manifest.read_shard(shard).to_pylist():
            content = images[row["uri"], row["member"]]
            known = {name: row[name] for name in ("image_id", "uri", "member", "etag")}
            rows.append(known | {"status": "scored", "score": len(rows) % 3, "bytes": len(content), "model_id": MODEL})
    assert len(rows) == 24
    write_scores(output, rows, shard_size=5)
    return folder, images


def tar_contents(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                assert member.name not in found
                content = archive.extractfile(member)
                assert content is not None
                found[member.name] = content.read()
    return found


@pytest.mark.usefixtures("warm_process")
def test_tars_hold_bytes_as_they_are_and_scores(lake: tuple[Path, dict[tuple[str, str | None], bytes]], tmp_path: Path):
    folder, contents = lake
    record = select(folder / "scores", tmp_path / "out", top=16, format="webdataset", shard_size=9)
    assert record.written is not None
    assert (record.written["images"], record.written["failed"], record.written["changed"]) == (16, 0, 0)
    found = tar_contents(tmp_path / "out/tars")
    rows = read_scores(Folder(str(tmp_path / "out"))).to_pylist()
    assert len(rows) == 16
    assert len(found) == 32
    for row in rows:
        key = sample_key(row["uri"], row["member"], f"{folder}/files/", in_tar=row["uri"].endswith(".tar"))
        assert json.loads(found[f"{key}.grepr.json"]) == row
        assert found[f"{key}.jpg"] == contents[row["uri"], row["member"]]
    assert sorted(path.name for path in (tmp_path / "out/tars").iterdir()) == ["000000.tar", "000001.tar"]
    assert not (tmp_path / "out/in-progress").exists()


@pytest.mark.usefixtures("warm_process")
def test_copies_keep_their_paths(lake: tuple[Path, dict[tuple[str, str | None], bytes]], tmp_path: Path):
    folder, contents = lake
    # A selection of a selection, whose images are where the manifest of the first says.
    select(folder / "scores", tmp_path / "some", min_score=1)
    select(tmp_path / "some", tmp_path / "out", where="member IS NULL OR score = 2", format="copy", shard_size=9)
    found = {
        str(path.relative_to(tmp_path / "out/images")): path.read_bytes()
        for path in (tmp_path / "out/images").rglob("*")
        if path.is_file()
    }
    wanted = {}
    for row in read_scores(Folder(str(tmp_path / "out"))).to_pylist():
        name = os.path.relpath(row["uri"], folder / "files")
        if name == "a.tar":
            name = f"a.tar/{row['member']}".replace("..", "%2E%2E")
        elif name == "b.parquet":
            name = f"b.parquet/{row['member']}.jpg"
        wanted[name] = contents[row["uri"], row["member"]]
    assert found == wanted
    assert {name.split("/")[0] for name in wanted} == {"0", "1", "a.tar", "b.parquet"}


def write_photos(folder: Path, n: int) -> list[dict[str, Any]]:
    """Photographs, and rows of scores for them."""
    folder.mkdir(parents=True)
    rows = []
    for i in range(n):
        path = folder / f"{i:02d}.jpg"
        path.write_bytes(jpeg(photo(i, (64, 64))))
        etag, size = file_etag(path.stat()), path.stat().st_size
        row = {"image_id": f"{i:032x}", "uri": str(path), "status": "scored", "score": 0.5, "bytes": size}
        rows.append(row | {"etag": etag, "model_id": MODEL})
    return rows


@pytest.mark.usefixtures("warm_process")
@pytest.mark.parametrize("kind", ["webdataset", "copy"])
def test_images_that_cannot_be_read_are_listed(tmp_path: Path, kind: str):
    rows = write_photos(tmp_path / "lake", 10)
    write_scores(tmp_path / "scores", rows)
    for i in (0, 1, 7):
        (tmp_path / f"lake/{i:02d}.jpg").unlink()
    (tmp_path / "lake/03.jpg").write_bytes(b"another image")
    record = select(tmp_path / "scores", tmp_path / "out", min_score=0, format=kind, shard_size=2)
    assert record.written is not None
    assert (record.written["images"], record.written["failed"], record.written["changed"]) == (7, 3, 1)
    assert record.unwritten_fraction == 0.3
    unwritten = pq.read_table(tmp_path / "out/unwritten.parquet").to_pylist()
    assert [(row["uri"], row["status"]) for row in unwritten] == [
        (str(tmp_path / f"lake/{i:02d}.jpg"), "missing") for i in (0, 1, 7)
    ]
    if kind == "copy":
        assert len(list((tmp_path / "out/images").iterdir())) == 7
        return
    # None of the images of the first tar file is there.
    assert sorted(path.name for path in (tmp_path / "out/tars").iterdir()) == [f"{i:06d}.tar" for i in (1, 2, 3, 4)]
    found = tar_contents(tmp_path / "out/tars")
    assert found["03.jpg"] == b"another image"
    assert json.loads(found["03.grepr.json"])["changed_since_scored"] is True
    assert "changed_since_scored" not in json.loads(found["04.grepr.json"])


def test_copies_that_would_meet_in_one_place_are_refused(tmp_path: Path):
    uris = ["/a/%FF.jpg", "file:///a/%FF.jpg"]
    rows = [
        {"image_id": f"{i:032x}", "uri": uri, "status": "scored", "score": 0.5, "model_id": MODEL}
        for i, uri in enumerate(uris)
    ]
    write_scores(tmp_path / "scores", rows)
    with pytest.raises(UserError, match=r"two images.*%FF.jpg.*webdataset"):
        select(tmp_path / "scores", tmp_path / "out", min_score=0, format="copy")


def test_members_need_the_manifest(tmp_path: Path):
    row = {"image_id": "0" * 32, "uri": "/a.tar", "member": "b.jpg", "status": "scored", "score": 1, "model_id": MODEL}
    write_scores(tmp_path / "scores", [row])
    with pytest.raises(UserError, match="the manifest that tells where they are is not there"):
        select(tmp_path / "scores", tmp_path / "out", top=6, format="webdataset")


KILLED = """
import os, sys
from pipelines.selection import filter as program
from pipelines.options import FilterOptions
from pipelines.selection.tars import TarWriter


class Killer(TarWriter):
    command = os.getpid()

    def write(self, shard, images, outcome):
        super().write(shard, images, outcome)
        if shard == 2:
            os.kill(self.command, 9)


program.WRITERS["webdataset"] = Killer
form = {"format": "webdataset", "shard_size": 2, "workers": 1}
program.run(FilterOptions(scores=sys.argv[1], output=sys.argv[2], min_score=0, **form))
"""


@pytest.mark.slow
@pytest.mark.usefixtures("warm_process")
def test_a_killed_selection_goes_on(tmp_path: Path):
    rows = write_photos(tmp_path / "lake", 12)
    write_scores(tmp_path / "scores", rows)
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    # Not through a pipe: what is left of Ray holds it for a while.
    with (tmp_path / "log").open("w") as log:
        killed = subprocess.Popen(
            [sys.executable, script, tmp_path / "scores", tmp_path / "out"],
            stdout=log,
            stderr=log,
            env=environment | {"PYTHONPATH": str(Path(__file__).parents[3])},
            start_new_session=True,
        )
        assert killed.wait(timeout=240) == -signal.SIGKILL, (tmp_path / "log").read_text()
    assert not (tmp_path / "out/filter.json").exists()
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/tars").glob("*.tar")}
    assert done
    record = select(tmp_path / "scores", tmp_path / "out", min_score=0, format="webdataset", shard_size=2)
    assert record.written is not None
    assert (record.selected, record.written["images"]) == (12, 12)
    assert len(tar_contents(tmp_path / "out/tars")) == 24
    kept = [path for path, written in done.items() if path.stat().st_mtime_ns == written]
    assert len(kept) >= 2  # the third may have been written and not yet known for it


# --- An object store ------------------------------------------------------------------------------------------------


@pytest.mark.s3
@pytest.mark.usefixtures("warm_process")
def test_from_and_to_an_object_store(tmp_path: Path):
    with s3_server(tmp_path) as environment:
        fs = s3fs.S3FileSystem()
        fs.mkdir("lake")
        rows = []
        for i in range(9):
            content = jpeg(photo(i, (64, 64)))
            fs.pipe_file(f"lake/photos/{i % 2}/{i} ü?.jpg", content)
            row = {"image_id": f"{i:032x}", "uri": f"s3://lake/photos/{i % 2}/{i} ü?.jpg", "status": "scored"}
            rows.append(row | {"score": i / 10, "bytes": len(content), "model_id": MODEL})
        write_scores(Folder("s3://lake/scores"), rows, shard_size=4)
        fs.pipe_file(
            "lake/meta.csv", ("uri,n\n" + "".join(f"{row['uri']},{i}\n" for i, row in enumerate(rows))).encode()
        )
        where = {"metadata": "s3://lake/meta.csv", "where": "n >= 3", "top": 4}
        # Ray's processes were started before the server.
        client = {"client_kwargs": {"endpoint_url": environment["AWS_ENDPOINT_URL"]}}
        options = {
            "storage_options": {
                **client,
                "key": environment["AWS_ACCESS_KEY_ID"],
                "secret": environment["AWS_SECRET_ACCESS_KEY"],
            }
        }
        run(FilterOptions(scores="s3://lake/scores", output="s3://lake/tars", format="webdataset", **where, **options))
        run(FilterOptions(scores="s3://lake/scores", output="s3://lake/copies", format="copy", **where, **options))
        assert (
            read_scores(Folder("s3://lake/tars")).to_pylist() == read_scores(Folder("s3://lake/scores")).to_pylist()[5:]
        )
        with tarfile.open(fileobj=io.BytesIO(fs.cat_file("lake/tars/tars/000000.tar"))) as archive:
            assert len(archive.getmembers()) == 8
        copies = {path.removeprefix("lake/copies/images/"): fs.cat_file(path) for path in fs.find("lake/copies/images")}
        assert copies == {f"{i % 2}/{i} ü?.jpg": fs.cat_file(f"lake/photos/{i % 2}/{i} ü?.jpg") for i in range(5, 9)}
        for path in fs.find("lake/tars") + fs.find("lake/copies"):
            assert environment["AWS_SECRET_ACCESS_KEY"].encode() not in fs.cat_file(path)
            assert "in-progress" not in path


# --- Messages -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["widht > 3", "scores.widht > 3"])
def test_a_column_that_is_not_there_is_told_with_those_that_are(
    where: str, scores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "photos.csv").write_text("uri,licence\n/lake/a.jpg,CC0\n")
    monkeypatch.delattr("pipelines.selection.rows.read_ahead")  # before any row is read
    with pytest.raises(UserError) as refused:
        select(scores, tmp_path / "out", where=where, metadata=str(tmp_path / "photos.csv"))
    told = str(refused.value)
    assert told.startswith(f"--where '{where}': no column 'widht', did you mean width? there are, in the scores: ")
    assert f"--metadata {tmp_path}/photos.csv: licence" in told
    assert ", model_id;" in told
    assert "__" not in told


def test_a_condition_that_no_image_meets_says_where_scores_run(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write_scores(tmp_path / "scores", ailing_rows())
    assert select(tmp_path / "scores", tmp_path / "out", min_score=5).selected == 0
    assert "no image meets the conditions; the scores run from 0 to 0.9" in caplog.text
