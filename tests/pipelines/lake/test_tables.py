"""Tables that name images, and Parquet files that hold them."""

import gzip
import io
import itertools
import json
import random
import re
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grepr_core.decoding.images import Failure, Limits, Status
from grepr_core.errors import UserError
from pipelines.lake.image_reader import NO_MEMBER, ImageReader
from pipelines.lake.sources import Entry, Listing, column_choice, text_tables
from pipelines.lake.sources.duplicates import Seen
from pipelines.lake.sources.files import resolve
from pipelines.lake.sources.image_table import ImageTableReader

#: What files of images begin with.
JPEG, PNG = b"\xff\xd8\xff\xe0 and so on", b"\x89PNG\r\n\x1a\n and so on"


def entries(source: Path | str, column: str | None = None) -> list[Entry]:
    return list(Listing(str(source), column=column))


def names(source: Path | str, column: str | None = None) -> list[str]:
    """The names of the images that lie beside a table."""
    return [Path(entry.uri).name for entry in entries(source, column)]


def test_csv_takes_uris_and_what_else_is_known(tmp_path: Path):
    table = tmp_path / "t.csv"
    table.write_text(
        "label,uri,size,member\n"
        'NA,"a, b.jpg",5,\n'
        "2,/abs/ü.jpg,,\n"
        "3,s3://bucket/100%.jpg,7,\n"
        "4,file:///x/%20y.jpg,,\n"
        "5,shard.tar,9,NA\n"
        "6,,,\n"
    )
    assert entries(table) == [
        Entry(f"{tmp_path}/a, b.jpg", 5),
        Entry("/abs/ü.jpg"),
        Entry("s3://bucket/100%.jpg", 7),
        Entry("/x/ y.jpg"),
        Entry(f"{tmp_path}/shard.tar", 9, None, "NA"),
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


@pytest.mark.parametrize(
    ("table", "reference", "uri"),
    [
        ("s3://bucket/tables/t.csv", "../photos/a.jpg", "s3://bucket/photos/a.jpg"),
        ("s3://bucket/tables/t.csv", "./x/./../b//c.jpg", "s3://bucket/tables/b//c.jpg"),
        ("s3://bucket/tables/t.csv", "../../../a.jpg", "s3://bucket/a.jpg"),
        ("s3://bucket/t.csv", "s3://other/x/../a.jpg", "s3://other/x/../a.jpg"),
        ("https://host/a/t.csv?key=x/y", "../b.jpg", "https://host/b.jpg"),
        ("memory:///a/b/t.csv", "../c.jpg", "memory:///a/c.jpg"),
        ("/a/t.csv", "../b.jpg", "/b.jpg"),
    ],
)
def test_paths_lead_upwards_but_never_out_of_a_bucket(table: str, reference: str, uri: str):
    assert resolve(reference, table) == uri


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('url,caption\na.jpg,"never closed\nb.jpg,b\nc.jpg,c\n', 2),
        ('url,caption\na.jpg,"two\nlines"\nb.jpg,"never closed\nc.jpg,c\nd.jpg,"closed"\n', 4),
        ('\nurl,caption\n"a.jpg,x\n"b.jpg",y\n', 3),
        ("url,caption\na.jpg,x\nb.jpg\n", 3),
        ("url,caption\na.jpg,x\n\nb.jpg,x,y\n", 4),
        ("url,caption\na.jpg,x\nb.jpg,\0\n", 3),
        ("url\r\na.jpg\r\n\r\nb,c.jpg\r\n", 4),
    ],
)
def test_a_row_that_is_none_is_an_error_with_its_line(tmp_path: Path, text: str, line: int):
    (tmp_path / "t.csv").write_bytes(text.encode())
    with pytest.raises(UserError, match=rf"t\.csv, line {line}: "):
        entries(tmp_path / "t.csv")


def test_a_quote_that_is_never_closed_is_not_read_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(text_tables, "MOST_CHARACTERS", 1000)
    (tmp_path / "t.csv").write_text('url,caption\na.jpg,"' + "b.jpg,b\n" * 10_000)
    with pytest.raises(UserError, match=r"line 2: .*larger than field limit \(1000\)"):
        entries(tmp_path / "t.csv")
    (tmp_path / "long.txt").write_text("a" * 100_000)
    with pytest.raises(UserError, match="line 1: has 1,000 characters or more"):
        entries(tmp_path / "long.txt")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv_of_any_program(tmp_path: Path, encoding: str, separator: str, end: str):
    rows = [["n", "url"], ["1", "ä 1.jpg"], ["two" + end + "lines", "2.jpg"], ["", "3.jpg"]]
    quoted = [[f'"{cell}"' if end in cell else cell for cell in row] for row in rows]
    (tmp_path / "t.csv").write_bytes(end.join(map(separator.join, quoted)).encode(encoding))
    assert names(tmp_path / "t.csv") == ["ä 1.jpg", "2.jpg", "3.jpg"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "url,n\na.jpg,1\n".encode("utf-16-le"), "t.csv, line 1: holds a NUL.* UTF-16 without its mark"),
        ("t.csv", b"url,n\n" + "ä.jpg,1\n".encode("latin-1"), "t.csv, line .*no text in UTF-8; save"),
        ("t.csv", b"", "t.csv: is empty"),
        ("t.jsonl", b'{"url": "a.jpg"}\n{"url"\n', "t.jsonl, line 2: "),
        ("t.jsonl", b'{"url": "a.jpg"}\n3\n', "t.jsonl, line 2: is 3; a JSON object a line is expected"),
        ("t.jsonl", b"\n", "t.jsonl: holds no records"),
        ("t.json", b'[{"url": "a.jpg"}, {"url": "b.j', "t.json: is no JSON, or is cut short"),
        ("t.json", b'{\n"url": {"0": "a.jpg"}}', "t.json: holds no records"),
        ("t.json", b"[1]", "t.json, record 0: is 1; expected is a list of objects"),
        ("t.json", b"url", "t.json: is no JSON; expected is a list of objects"),
        ("t.json", '["a.jpg"]'.encode("utf-16"), "t.json: is JSON in UTF-16"),
    ],
)
def test_text_that_is_no_table_is_told(tmp_path: Path, name: str, content: bytes, message: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        names(tmp_path / name) or pytest.fail("no row and no message")


def test_a_table_without_rows_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "t.csv").write_text("url,n\n")
    assert entries(tmp_path / "t.csv") == []
    assert "t.csv: has no rows" in caplog.text


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.jsonl", '{"file_name": "1.jpg", "text": "x\\u2028"}\n\n{"text": null, "file_name": "2.jpg"}'),
        ("t.ndjson", '{"url": "1.jpg"}\r\n{"url": "2.jpg"}\r\n'),
        ("lines.json", '{"url": "1.jpg"}\n{"url": "2.jpg"}\n'),
        ("list.json", '[{"id": 1, "url": "1.jpg"}, {"id": 2, "url": "2.jpg"}]'),
        ("pretty.json", '\ufeff[\n {"url": "1.jpg"},\n {"url": "2.jpg", "more": [1.5, {}]}\n]'),
        ("texts.json", '["1.jpg", "2.jpg"]'),
        ("coco.json", '{"info": {}, "images": [{"id": 1, "file_name": "1.jpg"}, {"file_name": "2.jpg"}], "a": []}'),
        ("lists.jsonl", '{"images": ["1.jpg", "2.jpg"]}\n{"images": []}'),
    ],
)
def test_json(tmp_path: Path, name: str, content: str, compressed: bool):
    if compressed:
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
    else:
        (tmp_path / name).write_text(content)
    assert names(tmp_path / f"{name}{'.gz' * compressed}") == ["1.jpg", "2.jpg"]


def test_long_json_comes_in_blocks(tmp_path: Path):
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"url": f"{i}.jpg"}) + "\n" for i in range(9000)))
    assert names(tmp_path / "t.jsonl") == [f"{i}.jpg" for i in range(9000)]


@pytest.mark.parametrize(
    "name", ["URL", "Image", "filepath", "img_path", "Image Path", "FileName", "image-url", "URLs"]
)
def test_columns_of_many_names(tmp_path: Path, name: str):
    (tmp_path / "t.csv").write_text(f"TEXT,{name}\nx,1.jpg\n")
    assert names(tmp_path / "t.csv") == ["1.jpg"]


def test_the_guide_lists_all_names_in_their_order():
    guide = (Path(__file__).parents[3] / "docs/tables.md").read_text()
    listed = guide.partition("is taken:")[2].partition("Where others")[0]
    assert tuple(re.findall("`([^`]+)`", listed)) == column_choice.URI_NAMES


def test_of_several_columns_the_first_of_a_fixed_order_is_taken_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    for name in ("1.csv", "2.csv"):
        (tmp_path / name).write_text(f"image_url,thumb,Path\nx.jpg,y{name}.jpg,{name}.jpg\n")
    assert names(tmp_path / "*.csv") == ["1.csv.jpg", "2.csv.jpg"]
    assert caplog.messages == [f"{tmp_path}/1.csv: column Path is taken, and not image_url; --column names another"]
    for column in ("thumb", "Thumb"):
        assert names(tmp_path / "*.csv", column) == ["y1.csv.jpg", "y2.csv.jpg"]
    with pytest.raises(UserError, match=r"1.csv: no column photo, which --column names; it has image_url, thumb, Path"):
        entries(tmp_path / "*.csv", "photo")
    with pytest.raises(UserError, match="--column is of tables"):
        entries(tmp_path, "photo")


def test_columns_of_the_users_own_do_no_harm(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "t.csv").write_text(
        "url,size,member,offset\n"
        "0.jpg,12345.0,anna,\n"
        "1.jpg,1024x768,,5\n"
        "2.jpg,-1,bob,7\n"
        "3.jpg,9223372036854775808,,-7\n"
        "4.bin,9,m,7\n"
        "5.bin,,m,7\n"
    )
    here = [f"{tmp_path}/{name}" for name in ("0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.bin", "5.bin")]
    assert entries(tmp_path / "t.csv") == [
        Entry(here[0], 12345),
        *(Entry(uri) for uri in here[1:4]),
        Entry(here[4], 9, None, "m", 7),
        Entry(here[5]),
    ]
    assert sorted(caplog.messages) == [
        f"{tmp_path}/t.csv: column member is ignored where it is no part of a place in an archive (member, offset, "
        "size): in 3 of 6 rows, such as 'anna'",
        f"{tmp_path}/t.csv: column offset is ignored where it is no part of a place in an archive (member, offset, "
        "size): in 4 of 6 rows, such as '5'",
        f"{tmp_path}/t.csv: column size is ignored where it is no number of bytes: in 3 of 6 rows, such as '1024x768'",
    ]


@pytest.mark.parametrize(
    ("size", "known"), [([1.0, None], 1), ([float("nan"), 2.5], None), (["L", None], None), ([True, False], None)]
)
def test_sizes_of_any_type(tmp_path: Path, size: list[object], known: int | None):
    pq.write_table(pa.table({"url": ["0.jpg", "1.jpg"], "size": size}), tmp_path / "t.parquet")
    assert [e.size for e in entries(tmp_path / "t.parquet")] == [known, None]


def test_rows_that_name_no_image_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "t.jsonl").write_text('{"url": "a.jpg"}\n{"url": null}\n{}\n{"url": 3}\n')
    assert names(tmp_path / "t.jsonl") == ["a.jpg"]
    assert "t.jsonl: 3 rows name no image, without text in column url" in caplog.text


def test_members_of_archives_are_found_by_their_names(tmp_path: Path):
    for archive in ("x.tar", "y.tar"):
        with tarfile.open(tmp_path / archive, "w") as tar:
            for name in ("a.jpg", "b\tc .jpg", "notes"):
                info = tarfile.TarInfo(name)
                info.size = len(archive + name)
                tar.addfile(info, io.BytesIO((archive + name).encode()))
    rows = [("y.tar", "b\tc .jpg"), ("x.tar", "a.jpg"), ("y.tar", "notes"), ("y.tar", "gone.jpg"), ("x.tar", "notes")]
    (tmp_path / "t.txt").write_text("".join(f"{uri}\t{member}\n" for uri, member in rows) + "z 1.jpg \n")
    reader = ImageReader(limits=Limits(), timeout=5)
    *found, file = entries(tmp_path / "t.txt")
    assert [(Path(e.uri).name, e.member) for e in found] == rows
    assert [reader.read(e).content for e in found if e.offset] == [
        (uri + name).encode() for uri, name in rows if name != "gone.jpg"
    ]
    assert file == Entry(f"{tmp_path}/z 1.jpg")
    failure = reader.read(found[3]).content
    assert isinstance(failure, Failure)
    assert (failure.status, failure.error) == (Status.MISSING, NO_MEMBER)


def test_a_size_that_a_table_tells_does_not_refuse_an_image(tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(b"123")
    reader = ImageReader(limits=Limits(max_bytes=10), timeout=5)
    assert reader.read(Entry(f"{tmp_path}/a.jpg", size=700_000_000)).content == b"123"


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


@pytest.mark.parametrize(
    ("name", "text"),
    [("t.csv", "mos,id\n1,a.jpg\n"), ("t.tsv", "mos\tid\n1\ta.jpg\n"), ("t.jsonl", '{"mos": 1, "id": "a.jpg"}')],
)
def test_a_table_without_uris_is_explained(tmp_path: Path, name: str, text: str):
    (tmp_path / name).write_text(text)
    with pytest.raises(
        UserError, match=rf"{name}: no column of URIs .*has mos, id; expected is one of uri, url.*--column"
    ):
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


def test_all_binary_columns_that_hold_images_are_taken(tmp_path: Path):
    table = pa.table(
        {
            "a:b": [JPEG + b"1", JPEG + b"2"],
            "name": ["x", "y"],
            "large": pa.array([None, PNG], pa.large_binary()),
            "view": pa.array([JPEG, JPEG], pa.binary_view()),
            "embedding": [bytes(64), bytes(64)],
        }
    )
    pq.write_table(table, tmp_path / "b.parquet")
    listed = entries(tmp_path / "b.parquet")
    assert [e.member for e in listed] == ["a:b:0", "large:0", "view:0", "a:b:1", "large:1", "view:1"]
    reader = ImageTableReader()
    with pytest.raises(ValueError, match="row 0 holds no image bytes in column large"):
        reader.read(listed[1].uri, listed.pop(1).member or "")
    assert [reader.read(e.uri, e.member or "") for e in listed] == [JPEG + b"1", JPEG, JPEG + b"2", PNG, JPEG]
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


URLS = ["1.jpg", "2.jpg"]
INDICES = pa.array([0, 1], pa.int8())


@pytest.mark.parametrize(
    "urls",
    [
        pa.array(URLS, pa.large_string()),
        pa.array(URLS, pa.string_view()),
        pa.array(URLS).dictionary_encode(),
        pa.DictionaryArray.from_arrays(INDICES, pa.array(URLS, pa.large_string())),
        pa.array([url.encode() for url in URLS]),
        pa.array([url.encode() for url in URLS], pa.large_binary()),
        pa.array([url.encode() for url in URLS], pa.binary(5)),
        pa.array([URLS, []]),
    ],
    ids=lambda urls: str(urls.type),
)
def test_text_of_any_type(tmp_path: Path, urls: pa.Array):
    table = pa.table({"md5": [bytes(range(128, 144))] * 2, "hash": [bytes(8)] * 2, "url": urls})
    pq.write_table(table, tmp_path / "t.parquet")
    assert names(tmp_path / "t.parquet") == URLS
    assert names(tmp_path / "t.parquet", "url") == URLS


@pytest.mark.parametrize(
    ("columns", "members"),
    [
        # By their values,
        ({"jpg": [JPEG], "embedding": [bytes(64)]}, ["jpg:0"]),
        ({"x": [PNG], "url": ["a.jpg"], "md5": [bytes(16)]}, ["x:0"]),
        (
            {"image": [b"RIFF1234WEBPVP8 "], "mask": [b"BM1234\0\0\0\0"], "bm": [b"BM and no bitmap"]},
            ["image:0", "mask:0"],
        ),
        ({"x": [b"\0\0\0\x1cftypavif"], "y": [b"II*\0"], "z": [b"no"]}, ["x:0", "y:0"]),
        # by their names, where no value tells,
        ({"content": [b"?"], "md5": [bytes(16)]}, ["content:0"]),
        ({"image": [None], "md5": [bytes(16)]}, ["image:0"]),
        # or by being alone.
        ({"x": [b"?"], "n": [1]}, ["x:0"]),
        ({"x": [[JPEG, PNG]], "embedding": [[b"1"]]}, ["x:0:0", "x:0:1"]),
    ],
)
def test_columns_that_hold_images(tmp_path: Path, columns: dict[str, list[object]], members: list[str]):
    kinds = {"image": pa.binary()} if columns.get("image") == [None] else {}
    pq.write_table(
        pa.table({name: pa.array(v, kinds.get(name)) for name, v in columns.items()}), tmp_path / "t.parquet"
    )
    assert [entry.member for entry in entries(tmp_path / "t.parquet")] == members


def test_a_column_that_is_named_decides(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    table = pa.table({"jpg": [JPEG], "png": [PNG], "url": ["a.jpg"], "n": [1], "uri": ["b.jpg"]})
    pq.write_table(table, tmp_path / "t.parquet")
    assert names(tmp_path / "t.parquet") == ["b.jpg"]
    assert names(tmp_path / "t.parquet", "url") == ["a.jpg"]
    assert [e.member for e in entries(tmp_path / "t.parquet", "PNG")] == ["png:0"]
    assert not caplog.messages
    with pytest.raises(UserError, match=r"--column n holds int64, neither text nor encoded images"):
        entries(tmp_path / "t.parquet", "n")
    pq.write_table(table.drop_columns(["uri"]), tmp_path / "t.parquet")
    assert [e.member for e in entries(tmp_path / "t.parquet")] == ["jpg:0", "png:0"]
    assert "column jpg and png is taken, and not url; --column names another" in caplog.text


def test_binary_columns_of_which_nothing_tells_are_named(tmp_path: Path):
    pq.write_table(pa.table({"md5": [b"\xff1"], "x": [b"\xff2"]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"no column of URIs or of images; it has md5, x; .*--column"):
        entries(tmp_path / "t.parquet")
    assert [e.member for e in entries(tmp_path / "t.parquet", "x")] == ["x:0"]


IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
NO_BYTES = pa.struct({"bytes": pa.null(), "path": pa.string()})


@pytest.mark.parametrize("statistics", [True, False, ["image.list.element.path", "image.path"]])
@pytest.mark.parametrize("in_list", [False, True])
def test_paths_without_bytes_whatever_the_statistics(tmp_path: Path, statistics: Any, in_list: bool):
    rows = [
        {"bytes": None, "path": "0.jpg"},
        {"bytes": JPEG, "path": "1.jpg"},
        {"bytes": None, "path": None},
        None,
        {"bytes": PNG, "path": None},
    ]
    values = pa.array([[row, row] for row in rows] if in_list else rows, pa.list_(IMAGE) if in_list else IMAGE)
    table = pa.table({"image": values})
    with pq.ParquetWriter(tmp_path / "t.parquet", table.schema, write_statistics=statistics) as writer:
        writer.write_table(table.slice(0, 0))
        writer.write_table(table, row_group_size=2)
    listed = entries(tmp_path / "t.parquet")
    expected = [None if row == 0 else f"image:{row}" for row in range(5)]
    if in_list:
        expected = [name and f"{name}:{i}" for name in expected for i in range(2)]
    assert [e.member for e in listed] == expected
    assert listed[0].uri == f"{tmp_path}/0.jpg"
    reader = ImageTableReader()
    assert reader.read(listed[-1].uri, listed[-1].member or "") == PNG
    assert reader.read(listed[-1].uri, expected[2 if in_list else 1] or "") == JPEG


@pytest.mark.parametrize("in_list", [False, True])
def test_paths_where_bytes_have_no_type(tmp_path: Path, in_list: bool):
    rows = [{"bytes": None, "path": f"{i}.jpg"} for i in range(3)] + [{"bytes": None, "path": None}]
    values = pa.array([rows] if in_list else rows, pa.list_(NO_BYTES) if in_list else NO_BYTES)
    pq.write_table(pa.table({"image": values}), tmp_path / "t.parquet")
    *files, nothing = entries(tmp_path / "t.parquet")
    assert files == [Entry(f"{tmp_path}/{i}.jpg") for i in range(3)]
    with pytest.raises(ValueError, match="holds no image bytes"):
        ImageTableReader().read(nothing.uri, nothing.member or "")


@pytest.mark.parametrize(
    "kind", [pa.list_(IMAGE), pa.large_list(IMAGE), pa.list_(pa.binary()), pa.list_(IMAGE, 2)], ids=str
)
def test_lists_of_images(tmp_path: Path, kind: pa.DataType):
    contents = [
        [JPEG + bytes([row % 256, i]) for i in range(2 if kind == pa.list_(IMAGE, 2) else row % 4)]
        for row in range(300)
    ]
    rows: list[Any] = [row if kind == pa.list_(pa.binary()) else [{"bytes": c} for c in row] for row in contents]
    if kind != pa.list_(IMAGE, 2):
        rows[0] = None
    # A column of such a name, so that image:1:0 might be read in two ways.
    table = pa.table({"images": pa.array(rows, kind), "images:1": [JPEG] * 300})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=100)
    listed = entries(tmp_path / "t.parquet", "images")
    assert [e.member for e in listed] == [
        f"images:{row}:{i}" for row, images in enumerate(contents) for i in range(len(images))
    ]
    reader = ImageTableReader()
    assert [reader.read(e.uri, e.member or "") for e in listed] == list(itertools.chain(*contents))
    assert reader.read(listed[0].uri, "images:1:0") == JPEG + b"\1\0"
    for member in ("images:1:7", "images:1", "images:900:0", "anna"):
        with pytest.raises(LookupError):
            reader.read(listed[0].uri, member)


@pytest.mark.parametrize(
    ("features", "members"),
    [
        ({"a": [{"_type": "Image"}], "b": {"_type": "Value"}}, ["a:0:0"]),
        ({"a": {"_type": "Sequence", "feature": {"_type": "Image"}}, "b": {"_type": "Audio"}}, ["a:0:0"]),
        ({"a": None, "b": {"_type": "Audio"}}, ["a:0:0"]),
        ([], ["a:0:0", "b:0"]),
    ],
)
def test_lists_that_hugging_face_declares(tmp_path: Path, features: object, members: list[str]):
    table = pa.table({"a": pa.array([[{"bytes": b"?"}]], pa.list_(IMAGE)), "b": pa.array([{"bytes": b"?"}], IMAGE)})
    meta = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(meta), tmp_path / "t.parquet")
    assert [entry.member for entry in entries(tmp_path / "t.parquet")] == members
    pq.write_table(table.replace_schema_metadata({"huggingface": "{"}), tmp_path / "t.parquet")
    assert len(entries(tmp_path / "t.parquet")) == 2
