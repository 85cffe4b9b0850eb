"""Reading over the network: from an S3 server through a proxy that harms answers, and from a web server."""

import http.server
import math
import threading
import time
from collections.abc import Iterator

import pytest
import s3fs

from grepr_core.decoding.images import Failure, Limits, Status
from pipelines.lake.fetch import Fetcher
from pipelines.lake.image_reader import Fetched, ImageReader
from pipelines.lake.sources import Entry, Listing
from tests.fault_proxy import KINDS, FaultProxy, fault_proxy
from tests.s3_server import SERVERS, s3_server

LIMITS = Limits(max_bytes=100_000)


def failure(fetched: Fetched) -> Failure:
    assert isinstance(fetched.content, Failure)
    return fetched.content


# --- An object store ------------------------------------------------------------------------------------------------

OBJECTS = {f"photos/{i:02d} ü?%20.jpg": bytes([i]) * (40_000 + i) for i in range(16)}


@pytest.fixture(scope="module", params=SERVERS)
def lake(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultProxy]:
    folder = tmp_path_factory.mktemp("s3")
    with s3_server(folder, request.param) as store, fault_proxy(store["AWS_ENDPOINT_URL"]) as running:
        fs = s3fs.S3FileSystem()
        fs.mkdir("lake")
        for key, content in OBJECTS.items():
            fs.pipe_file(f"lake/{key}", content)
        yield running


@pytest.fixture
def proxy(lake: FaultProxy) -> FaultProxy:
    lake.share, lake.most, lake.forbidden, lake.down = 0, math.inf, None, False
    lake.counts.clear()
    lake.harmed.clear()
    lake.requests.clear()
    return lake


def listed() -> list[Entry]:
    return list(Listing("s3://lake/photos/"))


@pytest.mark.s3
@pytest.mark.parametrize("kind", KINDS)
def test_no_harm_on_the_way_costs_an_image(proxy: FaultProxy, kind: str):
    entries = listed()
    # The stall is longer than a request may take, and shorter than all attempts together.
    proxy.kinds, proxy.share, proxy.most, proxy.stall, proxy.only = (kind,), 0.5, 2, 4, "GET /lake/photos/"
    fetched = list(Fetcher(limits=LIMITS, timeout=8).read(entries))
    assert [content for content, _ in fetched] == list(OBJECTS.values())
    assert [etag for _, etag in fetched] == [entry.etag for entry in entries]
    assert proxy.counts[kind] > 0


@pytest.mark.s3
def test_a_store_that_comes_back_is_waited_for(proxy: FaultProxy):
    entries = listed()[:1]
    proxy.down = True
    fetched = Fetcher(limits=LIMITS, timeout=20).read(entries)
    time.sleep(1)
    proxy.down = False
    assert [content for content, _ in fetched] == list(OBJECTS.values())[:1]


@pytest.mark.s3
def test_a_store_that_stays_away_is_a_timeout_with_a_reason(proxy: FaultProxy):
    reader = ImageReader(limits=LIMITS, timeout=2)
    entry = listed()[0]
    proxy.kinds, proxy.share, proxy.only = ("slow_down",), 1, "GET /lake/photos/"
    result = failure(reader.read(entry))
    assert (result.status, result.error) == (Status.TIMEOUT, "the storage answered 503 Service Unavailable (SlowDown)")
    assert proxy.counts["slow_down"] > 2
    proxy.share, proxy.down = 0, True
    assert failure(reader.read(entry)).error.startswith("no connection to the storage")


@pytest.mark.s3
def test_what_asking_again_does_not_change_is_asked_once(proxy: FaultProxy):
    reader = ImageReader(limits=LIMITS, timeout=20)
    missing = failure(reader.read(Entry("s3://lake/photos/none.jpg", 5)))
    assert (missing.status, missing.error) == (Status.MISSING, "no such file")
    proxy.forbidden = "GET /lake/photos/secret"
    denied = failure(reader.read(Entry("s3://lake/photos/secret.jpg", 5)))
    assert (denied.status, denied.error) == (Status.DENIED, "permission denied (AccessDenied)")
    assert proxy.requests == {"GET /lake/photos/none.jpg": 1, "GET /lake/photos/secret.jpg": 1}


@pytest.mark.s3
def test_a_member_is_read_by_its_range(proxy: FaultProxy):
    reader = ImageReader(limits=LIMITS, timeout=20)
    first = listed()[0]
    (content,) = {key: value for key, value in OBJECTS.items() if first.uri.endswith(key)}.values()
    # A container may be larger than an image.
    small = ImageReader(limits=Limits(max_bytes=100), timeout=20)
    assert small.read(Entry(first.uri, 10, first.etag, "m", 100)) == (content[100:110], first.etag)
    assert failure(small.read(Entry(first.uri))).status == Status.TOO_LARGE
    assert failure(reader.read(Entry(first.uri, 10, "other", "m", 100))).error.startswith("its container changed")
    assert failure(reader.read(Entry(first.uri, 10, first.etag, "m", 39_995))).error.startswith("its container ends")


@pytest.mark.s3
def test_a_key_that_is_no_path(proxy: FaultProxy):
    try:
        s3fs.S3FileSystem().pipe_file("lake/odd//key.jpg", b"odd")
    except FileNotFoundError:
        pytest.skip("this server has no keys with an empty segment")
    assert ImageReader(limits=LIMITS, timeout=20).read(Entry("s3://lake/odd//key.jpg")).content == b"odd"


# --- The web --------------------------------------------------------------------------------------------------------


class _Web(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked: list[str]
    sent = 0

    def do_GET(self):
        self.asked.append(self.path)
        match self.path:
            case "/a%20b.jpg?sig=SECRET":
                self.answer(200, b"0123456789", ETag='"of-a"')
            case "/busy.jpg?sig=SECRET" if self.asked.count(self.path) == 1:
                self.answer(503, b"", **{"Retry-After": "0"})
            case "/busy.jpg?sig=SECRET":
                self.answer(200, b"at last")
            case "/moved.jpg":
                self.answer(302, b"", Location="/a%20b.jpg?sig=SECRET")
            case "/cut.jpg" if self.asked.count(self.path) == 1:
                self.answer(200, b"half", **{"Content-Length": "8"})
                self.close_connection = True
            case "/cut.jpg":
                self.answer(200, b"half and")
            case "/tar" if self.headers["Range"] == "bytes=3-5":
                self.answer(206, b"345", **{"Content-Range": "bytes 3-5/10"})
            case "/chunked.jpg":
                self.answer(200, b"3\r\nabc\r\n0\r\n\r\n", **{"Transfer-Encoding": "chunked"})
            case "/endless.jpg" | "/bucket/endless.jpg":
                length = {"Content-Length": str(10**12)} if "bucket" in self.path else {"Connection": "close"}
                self.answer(200, b"", **{"ETag": '"e"', "Last-Modified": "Tue, 01 Jan 2030 00:00:00 GMT"}, **length)
                for _ in range(1000):
                    self.wfile.write(bytes(2**20))
                    type(self).sent += 2**20
            case "/denied.jpg?sig=SECRET":
                self.answer(403, b"")
            case _:
                self.answer(404, b"")

    def answer(self, code: int, body: bytes, **headers: str):
        self.send_response(code)
        if not headers.keys() & {"Content-Length", "Transfer-Encoding", "Connection"}:
            headers["Content-Length"] = str(len(body))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object):
        pass


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object):
        pass  # clients go away in the middle of what is endless


@pytest.fixture
def web() -> Iterator[str]:
    _Web.asked, _Web.sent = [], 0
    server = _Server(("127.0.0.1", 0), _Web)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_images_of_the_web(web: str):
    reader = ImageReader(limits=LIMITS, timeout=20)
    assert reader.read(Entry(f"{web}/a%20b.jpg?sig=SECRET")) == (b"0123456789", "of-a")
    assert reader.read(Entry(f"{web}/moved.jpg")).content == b"0123456789"
    assert reader.read(Entry(f"{web}/chunked.jpg")).content == b"abc"
    assert reader.read(Entry(f"{web}/tar", 3, None, "m", 3)).content == b"345"
    for name, content in (("busy.jpg?sig=SECRET", b"at last"), ("cut.jpg", b"half and")):
        _Web.asked.clear()
        assert reader.read(Entry(f"{web}/{name}")).content == content
        assert _Web.asked == [f"/{name}"] * 2


@pytest.mark.parametrize(
    ("name", "status", "error"),
    [
        ("none.jpg?sig=SECRET", Status.MISSING, "no such file"),
        ("denied.jpg?sig=SECRET", Status.DENIED, "permission denied"),
    ],
)
def test_refusals_of_the_web_are_asked_for_once(web: str, name: str, status: Status, error: str):
    result = failure(ImageReader(limits=LIMITS, timeout=20).read(Entry(f"{web}/{name}")))
    assert (result.status, result.error) == (status, error)
    assert _Web.asked == [f"/{name}"]


def test_a_server_that_gives_no_parts(web: str):
    result = failure(ImageReader(limits=LIMITS, timeout=20).read(Entry(f"{web}/a%20b.jpg?sig=SECRET", 3, None, "m", 3)))
    assert result.error == "the server does not give parts of files"


@pytest.mark.parametrize("store", ["http", "s3"])
def test_what_is_too_large_is_not_read(web: str, store: str):
    options = {"endpoint_url": web, "key": "k", "secret": "s"}
    reader = ImageReader(limits=LIMITS, timeout=20, storage_options=options)
    uri = "s3://bucket/endless.jpg" if store == "s3" else f"{web}/endless.jpg"
    assert failure(reader.read(Entry(uri))).status == Status.TOO_LARGE
    time.sleep(0.2)
    assert _Web.sent < 50 * 2**20  # what fits into buffers, not the gigabyte that is offered


def test_a_lost_server():
    result = failure(ImageReader(limits=LIMITS, timeout=1).read(Entry("http://127.0.0.1:9/a.jpg?sig=SECRET")))
    assert (result.status, result.error) == (
        Status.TIMEOUT,
        "no connection to the storage: connection refused",
    )


@pytest.mark.parametrize("uri", ["s3://nowhere/a.tar", "http://nowhere.invalid/a.tar"])
def test_of_an_empty_member_no_range_is_asked(uri: str):
    assert ImageReader(limits=LIMITS, timeout=1).read(Entry(uri, 0, "1", "empty.jpg", 512)) == (b"", "1")
