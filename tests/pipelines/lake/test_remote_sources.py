"""Listing object stores and web servers, over the network."""

import functools
import gzip
import http.server
import io
import json
import threading
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import botocore.session
import pyarrow as pa
import pyarrow.orc
import pyarrow.parquet as pq
import pytest
from adlfs import AzureBlobFileSystem
from obstore.exceptions import GenericError
from obstore.store import MemoryStore

from grepr_core.decoding.images import Failure, Limits, Status
from grepr_core.errors import Unavailable, UserError
from grepr_core.storage import Folder, MissingDriver
from pipelines.lake.fetch import Fetcher
from pipelines.lake.sources import Entry, Listing
from pipelines.lake.sources.image_table import ImageTableReader
from pipelines.stores import object_listing
from pipelines.stores.object_listing import list_objects
from pipelines.stores.object_store import open_store
from pipelines.stores.store_errors import store_error
from tests.azure_server import azurite
from tests.pipelines.lake.test_tar import make_tar
from tests.s3_server import s3_server

ODD = ["a b", "100%", "%20", "q?x#y", "a+b", "ü", "[1]", "~t&=", "dir-x", "dir.jpg/x", "dir/x"]


class Bucket:
    """A bucket of the server."""

    def __init__(self, name: str, endpoint: str) -> None:
        self.name = name
        self.client = botocore.session.Session().create_client("s3", endpoint_url=endpoint)
        self.client.create_bucket(Bucket=name)

    def put(self, key: str, content: bytes = b"123") -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=content)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("store")) as environment:
        yield environment["AWS_ENDPOINT_URL"]


@pytest.fixture(scope="module")
def odd(server: str) -> Bucket:
    bucket = Bucket("odd-keys", server)
    for name in ODD:
        bucket.put(f"p/{name}.jpg")
    for marker in ("p/", "p/dir/", "p/dir.jpg/", "empty/"):
        bucket.put(marker, b"")
    bucket.put("p/notes.txt")
    bucket.put("p2/other.jpg")
    return bucket


def uris(source: str, **options: bool) -> list[str]:
    return [entry.uri for entry in Listing(source, **options)]


pytestmark = pytest.mark.s3


def test_odd_keys_are_listed_in_order_and_read(odd: Bucket):
    listing = Listing("s3://odd-keys/p")
    found = list(listing)
    assert [e.uri for e in found] == sorted(f"s3://odd-keys/p/{name}.jpg" for name in ODD)
    assert [f"s3://odd-keys/p/{e.path}" for e in found] == [e.uri for e in found]
    assert {e.path for e in Listing("s3://odd-keys/")} == {e.uri.removeprefix("s3://odd-keys/") for e in found} | {
        "p2/other.jpg"
    }
    assert {(e.size, e.etag) for e in found} == {(3, "202cb962ac59075b964b07152d234b70")}
    assert listing.skipped == 1
    for entry in found:
        store, key = open_store(entry.uri, {}, timeout=10)
        assert bytes(store.get(key).bytes()) == b"123"
    assert uris("s3://odd-keys/p/", all_files=True) == sorted([*(e.uri for e in found), "s3://odd-keys/p/notes.txt"])


def test_an_object_a_glob_and_a_name_with_brackets(odd: Bucket):
    assert uris("s3://odd-keys/p/q?x#y.jpg") == ["s3://odd-keys/p/q?x#y.jpg"]
    assert uris("s3://odd-keys/p/[1].jpg") == ["s3://odd-keys/p/[1].jpg"]
    assert uris("s3://odd-keys/p/dir*") == ["s3://odd-keys/p/dir-x.jpg"]
    assert uris("s3://odd-keys/**/x.jpg") == ["s3://odd-keys/p/dir.jpg/x.jpg", "s3://odd-keys/p/dir/x.jpg"]
    assert [e.path for e in Listing("s3://odd-keys/p/dir/*.jpg")] == ["x.jpg"]
    assert [e.path for e in Listing("s3://odd-keys/*/dir/x.jpg")] == ["p/dir/x.jpg"]
    assert [e.path for e in Listing("s3://odd-keys/p/q?x#y.jpg")] == ["q?x#y.jpg"]
    assert [e.path for e in Listing("S3://odd-keys", members=("p/dir/*", "!n*"))] == ["p/dir/x.jpg"]
    assert uris("s3://odd-keys/*/not*") == ["s3://odd-keys/p/notes.txt"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("s3://odd-keys/nowhere", "nothing there"),
        ("s3://odd-keys/empty", "nothing there"),
        ("s3://odd-keys/p/*.gif", "nothing there"),
        ("s3://no-such-bucket/p", "The specified bucket does not exist"),
        ("s3://odd-keys/**.jpg", "Invalid pattern"),
    ],
)
def test_what_is_not_there_is_named(odd: Bucket, source: str, message: str):
    with pytest.raises(UserError) as caught:
        uris(source)
    assert str(caught.value).startswith(f"{source}: {message}")


@pytest.mark.slow
def test_pages_and_prefixes(server: str):
    bucket = Bucket("many-keys", server)
    keys = [f"a/{i:04d}.jpg" for i in range(1100)] + [f"b/c/{i:04d}.jpg" for i in range(1100)]
    keys += [f"d{i:02d}/e/{j}.jpg" for i in range(50) for j in range(5)] + [f"z{i}.jpg" for i in range(50)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(bucket.put, keys))
    assert uris("s3://many-keys") == [f"s3://many-keys/{key}" for key in sorted(keys)]
    assert uris("s3://many-keys/b/**/*9.jpg") == [
        f"s3://many-keys/{k}" for k in sorted(keys) if k[0] == "b" and "9." in k
    ]


def test_keys_that_are_no_paths_are_listed_all_the_same(server: str):
    bucket = Bucket("no-paths", server)
    keys = ["p/a.jpg", "p/b//x.jpg", "p/c.jpg"]
    for key in keys:
        bucket.put(key)
    assert [e.path for e in Listing("s3://no-paths/p")] == ["a.jpg", "b//x.jpg", "c.jpg"]
    assert uris("s3://no-paths/p") == [f"s3://no-paths/{key}" for key in keys]


@pytest.mark.parametrize("page_keys", [2, 3, 7, 1000])
def test_ranges_split_and_join_without_loss(monkeypatch: pytest.MonkeyPatch, page_keys: int):
    monkeypatch.setattr(object_listing, "PAGE_KEYS", page_keys)
    monkeypatch.setattr(object_listing, "PAGES_AHEAD", 3)
    store = MemoryStore()
    keys = [f"{a}/{b}/{c}" for a in "abc" for b in ("x", "x-", "x.y", "é") for c in range(5)]
    keys += ["a", "a-b", "top", "a/x0"] + [f"deep/{'d/' * i}k" for i in range(6)]
    for key in keys:
        store.put(key, b"1")
    assert [item["path"] for item in list_objects(store, "")] == sorted(keys)
    assert [item["path"] for item in list_objects(store, "a")] == sorted(k for k in keys if k.startswith("a/"))


def test_folder_markers_at_the_end_of_a_page(server: str, monkeypatch: pytest.MonkeyPatch):
    bucket = Bucket("marked-keys", server)
    keys = [f"p/f{i}/{name}" for i in range(6) for name in ("1.jpg", "2.jpg")]
    for key in [*keys, *(f"p/f{i}/" for i in range(6)), "p/f1-x.jpg", "p/f1.jpg"]:
        bucket.put(key, b"" if key.endswith("/") else b"1")
    expected = sorted(f"s3://marked-keys/{key}" for key in [*keys, "p/f1-x.jpg", "p/f1.jpg"])
    for page_keys in (2, 3, 4, 5):
        monkeypatch.setattr(object_listing, "PAGE_KEYS", page_keys)
        assert uris("s3://marked-keys", all_files=True) == expected


def test_options_in_place_of_the_environment(odd: Bucket, server: str, monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    options = {"key": "test", "secret": "test", "client_kwargs": {"endpoint_url": server}}
    assert list(Listing("s3://odd-keys/p2", storage_options=options)) == [
        Entry("s3://odd-keys/p2/other.jpg", 3, "202cb962ac59075b964b07152d234b70")
    ]


def test_tables_and_archives_in_a_store(server: str, tmp_path: Path):
    bucket = Bucket("containers", server)
    contents = make_tar(tmp_path / "a.tar", ["1.jpg", "2.jpg"])
    for i in range(3):
        bucket.put(f"tars/{i}.tar", (tmp_path / "a.tar").read_bytes())
    bucket.put("tables/t.csv", "uri\nx/ü 1.jpg\n".encode())
    buffer = io.BytesIO()
    pq.write_table(pa.table({"jpg": [b"1" * 1000, b"2"]}), buffer)
    bucket.put("tables/images.parquet", buffer.getvalue())
    found = list(Listing("s3://containers/tars/*.tar"))
    assert [(e.uri, e.member) for e in found] == [
        (f"s3://containers/tars/{i}.tar", name) for i in range(3) for name in contents
    ]
    assert uris("s3://containers/tables/t.csv") == ["s3://containers/tables/x/ü 1.jpg"]
    reader = ImageTableReader()
    images = list(Listing("s3://containers/tables/*.parquet"))
    assert [reader.read(e.uri, e.member or "") for e in images] == [b"1" * 1000, b"2"]


OBJECTS = [
    ("a/ü b+c%.jpg", 5, "e1", True, False),
    ("a/old.jpg", 6, "e2", False, False),
    ("a/gone.jpg", None, None, True, True),
    ("a/notes.txt", 1, "e3", True, False),
    ("a/", 0, "e4", True, False),
    ("b.png", 7, "e5-2", True, False),
]


def inventory_part(file_format: str) -> tuple[bytes, str]:
    if file_format == "CSV":
        rows = (
            ",".join(f'"{v}"' for v in ("lake", urllib.parse.quote_plus(k), "v", str(latest).lower(), str(gone).lower(),
                                        "" if size is None else size, etag or ""))
            for k, size, etag, latest, gone in OBJECTS
        )  # fmt: skip
        schema = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, ETag"
        return gzip.compress("\n".join(rows).encode()), schema
    keys, sizes, etags, latest, gone = map(list, zip(*OBJECTS, strict=True))
    table = pa.table(
        {
            "bucket": ["lake"] * len(keys),
            "key": keys,
            "is_latest": latest,
            "is_delete_marker": gone,
            "size": pa.array(sizes, pa.int64()),
            "last_modified_date": pa.array([datetime.now(UTC)] * len(keys)),
            "e_tag": pa.array(etags, pa.string()),
        }
    )
    buffer = io.BytesIO()
    (pq if file_format == "Parquet" else pa.orc).write_table(table, buffer)
    return buffer.getvalue(), "message s3.inventory {...}"


@pytest.mark.parametrize("file_format", ["CSV", "Parquet", "ORC"])
def test_inventory(server: str, file_format: str):
    bucket = Bucket(f"inventory-{file_format.lower()}", server)
    part, schema = inventory_part(file_format)
    bucket.put("inv/lake/daily/data/1", part)
    record = {
        "sourceBucket": "lake",
        "destinationBucket": f"arn:aws:s3:::{bucket.name}",
        "version": "2016-11-30",
        "fileFormat": file_format,
        "fileSchema": schema,
        "files": [{"key": "inv/lake/daily/data/1", "size": len(part), "MD5checksum": "x"}],
    }
    bucket.put("inv/lake/daily/2026-01-01T00-00Z/manifest.json", json.dumps(record).encode())
    listing = Listing(f"s3://{bucket.name}/inv/lake/daily/2026-01-01T00-00Z/manifest.json")
    assert list(listing) == [Entry("s3://lake/a/ü b+c%.jpg", 5, "e1"), Entry("s3://lake/b.png", 7, "e5-2")]
    assert listing.skipped == 1
    assert [e.path for e in Listing(f"s3://{bucket.name}/inv/lake/daily/2026-01-01T00-00Z/manifest.json")] == [
        "a/ü b+c%.jpg",
        "b.png",
    ]


def test_other_manifests_are_no_inventory(tmp_path: Path):
    for record, message in (({"format_version": 1}, "name the folder"), ({"x": 1}, "not an S3 Inventory")):
        (tmp_path / "manifest.json").write_text(json.dumps(record))
        with pytest.raises(UserError, match=message):
            list(Listing(str(tmp_path / "manifest.json")))


def test_a_web_server(tmp_path: Path):
    (tmp_path / "sub").mkdir()
    for name in ("a b.jpg", "sub/c.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"12345")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        root = f"http://127.0.0.1:{web.server_address[1]}"
        assert uris(f"{root}/") == [f"{root}/a%20b.jpg", f"{root}/sub/c.png"]
        assert [e.path for e in Listing(f"{root}/")] == ["a%20b.jpg", "sub/c.png"]
        assert [e.path for e in Listing(f"{root}/a%20b.jpg?x=1")] == ["a%20b.jpg"]
        assert uris(f"{root}/sub") == [f"{root}/sub/c.png"]
        assert [(e.uri, e.size) for e in Listing(f"{root}/a%20b.jpg?x=1")] == [(f"{root}/a%20b.jpg?x=1", 5)]
        with pytest.raises(UserError, match="nowhere"):
            uris(f"{root}/nowhere.jpg")
        web.shutdown()


def contents(entries: list[Entry]) -> list[bytes | Failure]:
    return [content for content, _ in Fetcher(limits=Limits(), timeout=10, storage_options={}).read(entries)]


def test_google_by_the_protocol_it_shares_with_s3(server: str, monkeypatch: pytest.MonkeyPatch):
    bucket = Bucket("google", server)
    for key in ("p/a/1.jpg", "p/a b/ü.jpg", "p/c%.jpg"):
        bucket.client.put_object(Bucket=bucket.name, Key=key, Body=key.encode(), ACL="public-read")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server)
    found = list(Listing("gs://google/p"))
    assert [entry.uri for entry in found] == [
        "gs://google/p/a b/ü.jpg",
        "gs://google/p/a/1.jpg",
        "gs://google/p/c%.jpg",
    ]
    assert contents(found) == [entry.uri.removeprefix("gs://google/").encode() for entry in found]


def test_azure_by_its_emulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with azurite(tmp_path) as connection_string:
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection_string)
        lake = AzureBlobFileSystem(connection_string=connection_string)
        lake.mkdir("lake")
        for key in ("p/a/1.jpg", "p/a b/ü.jpg", "p/c%.jpg", "p2/other.jpg"):
            lake.pipe_file(f"lake/{key}", key.encode())
        found = list(Listing("az://lake/p"))
        assert [entry.uri for entry in found] == ["az://lake/p/a b/ü.jpg", "az://lake/p/a/1.jpg", "az://lake/p/c%.jpg"]
        assert contents(found) == [entry.uri.removeprefix("az://lake/").encode() for entry in found]
        gone = replace(found[0], uri="az://lake/p/gone.jpg")
        assert [failure.status for failure in contents([gone])] == [Status.MISSING]

        output = Folder("az://lake/scores")
        output.write("scores/shard=000000.parquet", b"rows")
        assert output.child("scores").names() == ["shard=000000.parquet"]
        assert output.read("scores/shard=000000.parquet") == b"rows"
        output.remove()
        assert output.child("scores").names() == []


def test_a_driver_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    with pytest.raises(MissingDriver, match=r"pip install 'grepr\[gcs\]'"):
        Folder("gs://bucket/x")


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("az://box/p", {"account_name": "x", "sas_token": "?sv=1&sig=a"}),
        ("az://box/p", {"account_name": "x", "anon": True}),
        ("az://box/p", {"connection_string": "AccountName=x;AccountKey=YQ==;EndpointSuffix=core.windows.net"}),
        ("abfss://box@x.dfs.core.windows.net/p", {"account_key": "YWFh"}),
        ("gs://box/p", {"token": "anon", "project": "x"}),
        ("s3://box/p", {"key": "a", "secret": "b", "endpoint_url": "http://host:1", "use_ssl": False}),
        ("s3://box/p", {"anon": True, "requester_pays": True, "region": "eu-west-1"}),
    ],
)
def test_options_under_the_names_of_fsspec_open_every_store(url: str, options: dict[str, object]):
    store, key = open_store(url, options, timeout=1)
    assert key == "p"
    assert "box" in repr(store)
    assert getattr(store, "config", {}).get("account_name", "x") == "x"


def test_an_option_that_no_store_knows_is_named():
    with pytest.raises(UserError, match=r"s3://box/p: .*colour"):
        list(Listing("s3://box/p", storage_options={"colour": "red", "anon": True, "region": "eu-west-1"}))


PUBLIC = {"anon": True, "region": "eu-west-1"}


@pytest.mark.parametrize(
    ("options", "config", "client"),
    [
        ({"s3_additional_kwargs": {"RequestPayer": "requester", "ACL": "private"}}, {"request_payer": "true"}, {}),
        ({"use_ssl": False}, {"endpoint": "http://s3.eu-west-1.amazonaws.com"}, {}),
        ({"client_kwargs": {"region_name": "us-west-2", "verify": False}}, {}, {"allow_invalid_certificates": "true"}),
        ({"client_kwargs": {"aws_access_key_id": "a", "aws_secret_access_key": "b", "headers": {}}},
         {"access_key_id": "a"}, {}),
        ({"config_kwargs": {"s3": {"addressing_style": "virtual"}, "retries": {"max_attempts": 9}}},
         {"virtual_hosted_style_request": "true"}, {}),
        ({"config_kwargs": {"proxies": {"https": "http://proxy:1"}}}, {}, {"proxy_url": "http://proxy:1"}),
    ],
)  # fmt: skip
def test_what_is_meant_for_other_clients_is_passed_on(
    options: dict[str, object], config: dict[str, str], client: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    store, _ = open_store("s3://box/p", PUBLIC | options, timeout=1)
    assert {**store.config, **config} == store.config  # type: ignore[union-attr]
    assert {**store.client_options, **client} == store.client_options  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "options",
    [
        {"s3_additional_kwargs": {"SSECustomerKey": "k"}},
        {"client_kwargs": {"api_version": "2006-03-01"}},
        {"config_kwargs": {"s3": {"use_accelerate_endpoint": True}}},
        {"config_kwargs": {"inject_host_prefix": False}},
    ],
)
def test_what_cannot_be_passed_on_is_refused(options: dict[str, object]):
    with pytest.raises(
        UserError, match=r"s3://box/p: --storage-options: \w+_kwargs holds '\w+', which would be ignored"
    ):
        list(Listing("s3://box/p", storage_options=PUBLIC | options))
    with pytest.raises(UserError, match=r"gs://box/p: .*colour"):
        list(Listing("gs://box/p", storage_options={"token": "anon", "colour": "red"}))


def test_a_store_is_told_who_pays():
    paid: list[str | None] = []

    class Store(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paid.append(self.headers["x-amz-request-payer"])
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Store) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        here = {"key": "k", "secret": "s", "endpoint_url": f"http://127.0.0.1:{web.server_address[1]}"}
        for options in ({}, {"s3_additional_kwargs": {"RequestPayer": "requester"}}, {"requester_pays": True}):
            store, key = open_store("s3://box/p", here | options, timeout=1)
            with pytest.raises(FileNotFoundError):
                store.get(key)
        web.shutdown()
    assert paid == [None, "requester", "requester"]


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (TimeoutError(), True),
        (ConnectionRefusedError("refused"), True),
        (GenericError("Server returned non-2xx status code: 503 Service Unavailable: <Code>SlowDown</Code>"), True),
        (GenericError("Server returned non-2xx status code: 403 Forbidden: <Code>AccessDenied</Code>"), False),
        (PermissionError("no AWS credentials"), False),
        (FileNotFoundError("no such bucket"), False),
        (ValueError("no pattern"), False),
    ],
)
def test_what_a_store_answers_later_is_no_wrong_usage(error: Exception, passing: bool):
    told = store_error("s3://box/p", error)
    assert isinstance(told, Unavailable) == passing
    assert str(told).startswith("s3://box/p: ")


def test_a_store_that_is_away_while_it_is_listed_is_no_wrong_usage(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipelines.lake.sources.remote.TIMEOUT", 0.1)
    nothing_listens = {"endpoint_url": "http://127.0.0.1:9", "key": "k", "secret": "s"}
    with pytest.raises(Unavailable, match="s3://away/p: "):
        list(Listing("s3://away/p", storage_options=nothing_listens))
