"""Tables that name images, and Parquet files that hold them."""

import gzip
import io
import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grepr_core.errors import UserError
from pipelines.lake.sources import Entry, Listing
from pipelines.lake.sources.duplicates import Seen
from pipelines.lake.sources.image_table import ImageTableReader


def entries(source: Path | str) -> list[Entry]:
    return list(Listing(str(source)))


def test_csv_takes_uris_and_what_else_is_known(tmp_path: Path):
    table = tmp_path / "t.csv"
    table.write_text(
        "label,uri,size,member\n"
        'NA,"a, b.jpg",5,\n'
        "2,/abs/ü.jpg,,\n"
        "3,s3://bucket/100%.jpg,7,\n"
        "4,file:///x/%20y.jpg,,\n"
        "5,shard.zip,9,NA\n"
        "6,,,\n"
    )
    assert entries(table) == [
        Entry(f"{tmp_path}/a, b.jpg", 5),
        Entry("/abs/ü.jpg"),
        Entry("s3://bucket/100%.jpg", 7),
        Entry("/x/ y.jpg"),
        Entry(f"{tmp_path}/shard.zip", 9, None, "NA"),
    ]


def test_other_formats_and_column_names(tmp_path: Path):
    (tmp_path / "t.tsv").write_text("image\tmos\nx/1.jpg\t3\n")
    (tmp_path / "t.txt").write_text("\ufeffx/1.jpg\n\n./2.jpg\n../3.jpg\n")
    pq.write_table(pa.table({"mos": [1.0], "url": ["https://host/a%20b.jpg?x=1"]}), tmp_path / "t.parquet")
    assert [e.uri for e in entries(tmp_path / "t.tsv")] == [f"{tmp_path}/x/1.jpg"]
    assert [e.uri for e in entries(tmp_path / "t.txt")] == [
        f"{tmp_path}/x/1.jpg",
        f"{tmp_path}/2.jpg",
        f"{tmp_path.parent}/3.jpg",
    ]
    assert [e.uri for e in entries(tmp_path / "t.parquet")] == ["https://host/a%20b.jpg?x=1"]


@pytest.mark.parametrize("name", ["t.csv.gz", "t.tsv.gz", "t.txt.gz"])
def test_compressed_tables(tmp_path: Path, name: str):
    text = "" if ".txt" in name else "uri\n"
    content = gzip.compress((text + "".join(f"{i:05d}.jpg\n" for i in range(20_000))).encode())
    (tmp_path / name).write_bytes(content)
    assert [Path(e.uri).name for e in entries(tmp_path / name)] == [f"{i:05d}.jpg" for i in range(20_000)]
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=name):
        entries(tmp_path / name)
    (tmp_path / name).write_bytes(b"no gzip")
    with pytest.raises(UserError, match=name):
        entries(tmp_path / name)


def test_paths_in_a_remote_table_are_relative_to_it():
    fsspec.filesystem("memory").pipe_file("/tables/t.csv", b"path\nsub/1.jpg\n")
    assert [e.uri for e in entries("memory://tables/t.csv")] == ["memory:///tables/sub/1.jpg"]


def test_an_image_is_taken_once_over_all_tables(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "1.csv").write_text("uri\na.jpg\nb.jpg\na.jpg\n")
    (tmp_path / "2.csv").write_text("uri\nb.jpg\nc.jpg\n")
    assert [Path(e.uri).name for e in entries(tmp_path / "*.csv")] == ["a.jpg", "b.jpg", "c.jpg"]
    assert "2 images are named more than once" in caplog.text


def test_what_was_seen_is_told_through_many_merges():
    seen, known, rng = Seen(), set(), random.Random(0)
    for _ in range(50):
        keys = [str(rng.randrange(3000)) for _ in range(rng.randrange(1, 200))]
        expected = []
        for key in keys:
            expected.append(key not in known)
            known.add(key)
        assert seen.first_time(keys).tolist() == expected


@pytest.mark.parametrize(("name", "text"), [("t.csv", "mos,file\n1,a.jpg\n"), ("t.tsv", "mos\tfile\n1\ta.jpg\n")])
def test_a_table_without_uris_is_explained(tmp_path: Path, name: str, text: str):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=rf"{name}: no column of URIs .*has mos, file; expected is one of uri, url"):
        entries(tmp_path / name)


def test_parquet_without_uris_or_images_is_explained(tmp_path: Path):
    pq.write_table(pa.table({"mos": [1.0]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match="it has mos; expected is one of uri"):
        entries(tmp_path / "t.parquet")


@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.txt"])
def test_a_file_that_is_no_table_is_named(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(b"uri,size\n\xff\xfe\x00,x\n")
    with pytest.raises(UserError, match=name):
        entries(tmp_path / name)


def image_bytes(n: int) -> list[bytes]:
    rng = np.random.default_rng(0)
    return [rng.bytes(int(rng.integers(100, 3000))) for _ in range(n)]


def hugging_face(path: Path, rows: list[dict[str, object]], column: str = "image") -> Path:
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table({column: pa.array(rows, kind), "thumb": pa.array([b"t"] * len(rows)), "label": range(len(rows))})
    features = {column: {"_type": "Image"}, "thumb": {"_type": "Value"}}
    meta = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(meta), path, row_group_size=100)
    return path


def test_hugging_face_parquet_in_any_order_from_threads(tmp_path: Path):
    contents = image_bytes(350)
    path = hugging_face(tmp_path / "h.parquet", [{"bytes": c, "path": f"{i}.jpg"} for i, c in enumerate(contents)])
    listed = entries(path)
    assert [e.member for e in listed] == [f"image:{i}" for i in range(350)]
    reader = ImageTableReader()
    assert [reader.read(e.uri, e.member or "") for e in listed] == contents
    order = list(range(350))
    random.Random(1).shuffle(order)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: reader.read(str(path), f"image:{i}"), range(350))) == contents
        assert list(pool.map(lambda i: reader.read(str(path), f"image:{i}"), order[:60])) == [
            contents[i] for i in order[:60]
        ]


def test_rows_in_order_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    contents = image_bytes(300)
    path = hugging_face(tmp_path / "h.parquet", [{"bytes": c, "path": None} for c in contents])
    passes: list[object] = []
    original = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile, "iter_batches", lambda *args, **kw: passes.append(kw["row_groups"]) or original(*args, **kw)
    )
    reader = ImageTableReader()
    # A little out of order, as many threads ask.
    for start in range(0, 300, 20):
        for i in reversed(range(start, start + 20)):
            assert reader.read(str(path), f"image:{i}") == contents[i]
    assert passes == [[0], [1], [2]]


def test_rows_with_a_path_alone_are_files(tmp_path: Path):
    rows = [{"bytes": b"1" if i != 3 else None, "path": f"p/{i}.jpg"} for i in range(100)]
    rows += [{"bytes": None, "path": f"p/{i}.jpg"} for i in range(100, 200)]
    rows += [{"bytes": None, "path": None}]
    listed = entries(hugging_face(tmp_path / "h.parquet", rows))
    assert len(listed) == 201
    assert listed[2].member == "image:2"
    assert listed[3] == Entry(f"{tmp_path}/p/3.jpg")
    assert listed[150] == Entry(f"{tmp_path}/p/150.jpg")
    with pytest.raises(ValueError, match="row 200 holds no image"):
        ImageTableReader().read(listed[200].uri, listed[200].member or "")


def test_plain_binary_columns_are_all_taken(tmp_path: Path):
    table = pa.table({"a:b": [b"1", b"2"], "name": ["x", "y"], "large": pa.array([b"3", b"4"], pa.large_binary())})
    pq.write_table(table, tmp_path / "b.parquet")
    listed = entries(tmp_path / "b.parquet")
    assert [e.member for e in listed] == ["a:b:0", "large:0", "a:b:1", "large:1"]
    reader = ImageTableReader()
    assert [reader.read(e.uri, e.member or "") for e in listed] == [b"1", b"3", b"2", b"4"]
    for member in ("a:b:2", "other:0"):
        with pytest.raises(LookupError):
            reader.read(listed[0].uri, member)


def test_a_uri_column_beside_binary_ones_decides(tmp_path: Path):
    pq.write_table(pa.table({"embedding": [b"1"], "uri": ["a.jpg"]}), tmp_path / "t.parquet")
    assert entries(tmp_path / "t.parquet") == [Entry(f"{tmp_path}/a.jpg")]


def test_images_in_a_remote_parquet_file():
    buffer = io.BytesIO()
    pq.write_table(pa.table({"jpg": [b"123", b"4"]}), buffer)
    fsspec.filesystem("memory").pipe_file("/tables/images.parquet", buffer.getvalue())
    listed = entries("memory://tables/*.parquet")
    reader = ImageTableReader()
    assert [reader.read(e.uri, e.member or "") for e in listed] == [b"123", b"4"]
