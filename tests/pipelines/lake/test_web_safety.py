"""Whom a table may have asked, and what is told to whom: two servers, one of which the headers are for."""

import http.server
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from grepr_core.decoding.images import Failure, Limits, Status
from grepr_core.errors import UserError
from grepr_core.storage import Folder, absolute, open_file_system
from grepr_core.web.access import LinkLocalError, WebAccess, for_reading, is_link_local, is_web, origin
from pipelines.lake.image_reader import ImageReader
from pipelines.lake.sources import Entry, Listing
from pipelines.lake.web_session import open_web_session
from pipelines.models.rated_features import read_ratings
from pipelines.options import ScoreOptions
from pipelines.stores.object_store import is_object_store, open_store
from tests.lake import run_here

SECRETS = {
    "headers": {"X-Api-Key": "SECRET", "Authorization": "Bearer SECRET"},
    "client_kwargs": {"headers": {"X-Other": "SECRET"}, "cookies": {"session": "SECRET"}},
}


class Server:
    """Notes who was told secrets.

    Attributes:
        url: Of the server.
        asked: Path of each request, and names of the secret headers it came with.
        elsewhere: Where ``/moved/...`` leads to.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, set[str]]] = []
        self.elsewhere = ""
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                server.asked.append((self.path, {name for name, value in self.headers.items() if "SECRET" in value}))
                moved = self.path.startswith("/moved/")
                body = b"" if moved else b"image,mos\na.jpg,1\nb.jpg,2\n"
                self.send_response(302 if moved else 403 if "denied" in self.path else 200)
                if moved:
                    self.send_header("Location", server.elsewhere + self.path.removeprefix("/moved"))
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *arguments: object):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def told(self) -> set[str]:
        """Gives the secret headers that any request came with, and forgets."""
        found = set().union(*(names for _, names in self.asked))
        assert self.asked
        self.asked.clear()
        return found


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.http.serve_forever, daemon=True).start()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def ours() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def other() -> Iterator[Server]:
    with serving() as server:
        yield server


def read(uri: str, storage_options: dict[str, Any]) -> bytes | Failure:
    return ImageReader(limits=Limits(), timeout=20, storage_options=storage_options).read(Entry(uri)).content


ALL = {"X-Api-Key", "Authorization", "X-Other", "Cookie"}


# --- Headers --------------------------------------------------------------------------------------------------------


def test_headers_of_images_go_to_the_source_alone_wherever_redirects_lead(ours: Server, other: Server):
    options = for_reading(SECRETS, f"{ours.url}/photos/")
    read(f"{ours.url}/a.jpg", options)
    assert ours.told() == ALL
    read(f"{other.url}/a.jpg", options)
    assert other.told() == set()
    ours.elsewhere = other.url
    read(f"{ours.url}/moved/a.jpg", options)
    assert (ours.told(), other.told()) == (ALL, set())
    other.elsewhere = ours.url  # and back
    read(f"{other.url}/moved/a.jpg", options)
    assert (other.told(), ours.told()) == (set(), ALL)


def test_headers_of_containers_and_tables_likewise(ours: Server, other: Server, tmp_path: Path):
    ours.elsewhere = other.url
    read_ratings(f"{ours.url}/ratings.csv", storage_options=SECRETS)
    assert ours.told() == ALL
    read_ratings(f"{ours.url}/moved/ratings.csv", storage_options=SECRETS)
    assert (ours.told(), other.told()) == (ALL, set())
    assert Folder(ours.url, SECRETS).exists("moved/manifest.json")
    assert (ours.told(), other.told()) == (ALL, set())
    (tmp_path / "photos.csv").write_text(f"uri\n{other.url}/some.tar\n")
    list(Listing(str(tmp_path / "photos.csv"), storage_options=for_reading(SECRETS, f"{ours.url}/photos.csv")))
    assert other.told() == set()
    fs, path = open_file_system(f"simplecache::{other.url}/a.jpg", for_reading(SECRETS, ours.url))
    fs.cat_file(path)
    assert other.told() == set()


def test_headers_of_a_table_from_elsewhere_go_to_the_hosts_that_are_named(ours: Server, other: Server):
    table = "s3://bucket/photos.csv"
    read(f"{ours.url}/a.jpg", for_reading(SECRETS, table))
    assert ours.told() == set()
    result = read(f"{ours.url}/denied.jpg", for_reading(SECRETS, table))
    assert isinstance(result, Failure)
    assert result.status == Status.DENIED
    assert "headers_for" in result.error
    options = for_reading({**SECRETS, "headers_for": [ours.url]}, table)
    read(f"{ours.url}/a.jpg", options)
    read(f"{other.url}/a.jpg", options)
    assert (ours.told(), other.told()) == (ALL, set())


def test_hosts_are_told_apart_by_scheme_name_and_port():
    assert origin("https://Photos.example/a?b") == origin("https://photos.example:443") == "https://photos.example:443"
    others = ("http://photos.example", "https://photos.example:8443", "https://photos.example.evil.example")
    assert len({origin("https://photos.example"), *map(origin, others)}) == 4
    assert origin("https://photos.example@evil.example/") == "https://evil.example:443"
    assert {origin(url) for url in ("s3://photos.example", "/photos", "http://a:b/", "http:///")} == {None}


def test_a_host_that_is_none_is_wrong_usage():
    with pytest.raises(ValueError, match=r"headers_for holds 'photos.example'; expected is https://HOST"):
        ScoreOptions(source="a", output="b", storage_options={"headers_for": ["photos.example"]})


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"headers": "SECRET"}, "headers"),
        ({"headers": ["SECRET"]}, "headers"),
        ({"headers": {"X-Api-Key": 5}}, "headers"),
        ({"cookies": 5}, "cookies"),
        ({"client_kwargs": "SECRET"}, "client_kwargs"),
        ({"client_kwargs": {"headers": "SECRET"}}, "headers"),
        ({"headers_for": 5}, "headers_for"),
        ({"headers_for": [5]}, "headers_for"),
    ],
)
def test_headers_that_are_none_are_wrong_usage(options: dict[str, Any], named: str):
    code, _, err = run_here("score", "a", "b", "--storage-options", json.dumps(options))
    assert code == 2
    assert f"--storage-options: {named} holds" in " ".join(err.split())
    assert "SECRET" not in err
    assert "Traceback" not in err


def test_headers_may_be_null():
    empty = {"headers": None, "cookies": None, "headers_for": None, "client_kwargs": {"headers": None}}
    assert WebAccess.of(empty) == WebAccess.of({"client_kwargs": None}) == WebAccess()


# --- Link-local addresses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "fe80::1", "fe80::1%eth0", "::ffff:169.254.0.1", "64:ff9b::a9fe:1"]
)
def test_link_local_addresses(address: str):
    assert is_link_local(address)


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "192.168.1.1", "::1", "fd00::1", "::ffff:10.0.0.1"])
def test_addresses_of_this_house(address: str):
    assert not is_link_local(address)


# Spellings that no reading of the text would find.
SPELLINGS = ("169.254.169.254", "2852039166", "0xa9fea9fe", "169.254.43518", "[::ffff:169.254.169.254]", "[fe80::1]")


@pytest.mark.parametrize("scheme", ["http", "HTTP"])
@pytest.mark.parametrize("host", SPELLINGS)
def test_an_image_there_is_denied(host: str, scheme: str):
    result = read(f"{scheme}://{host}/latest/meta-data/", {})
    assert isinstance(result, Failure)
    assert result.status == Status.DENIED
    assert "--allow-link-local" in result.error


def test_so_is_one_that_a_redirect_leads_to(ours: Server):
    ours.elsewhere = "http://169.254.169.254"
    result = read(f"{ours.url}/moved/a.jpg", {})
    assert isinstance(result, Failure)
    assert result.status == Status.DENIED


class Names:
    """Stands for a name server, which may answer otherwise the second time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: str) -> None:
        self.answers = list(answers)
        self.real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self)

    def __call__(self, host: Any, *arguments: Any, **options: Any) -> Any:
        if host in ("photos.example", b"photos.example") and not options.get("flags", 0) & socket.AI_NUMERICHOST:
            host = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return self.real(host, *arguments, **options)


def test_so_is_a_name_that_leads_there(monkeypatch: pytest.MonkeyPatch):
    Names(monkeypatch, "169.254.169.254")
    result = read("http://photos.example/a.jpg", {})
    assert isinstance(result, Failure)
    assert result.status == Status.DENIED
    with pytest.raises(LinkLocalError, match=r"photos\.example"):
        list(Listing("http://photos.example/photos.csv"))
    with pytest.raises(LinkLocalError, match=r"photos\.example"):
        open_file_system("ftp://photos.example/a.jpg", {})


def test_a_name_is_looked_up_once_and_no_other_address_connected_to(ours: Server, monkeypatch: pytest.MonkeyPatch):
    names = Names(monkeypatch, "127.0.0.1", "169.254.169.254")
    open_web_session.cache_clear()
    assert isinstance(read(ours.url.replace("127.0.0.1", "photos.example"), {}), bytes)
    assert names.answers == ["169.254.169.254"]


def test_a_host_of_the_neighbourhood_is_asked_at_its_other_address(ours: Server, monkeypatch: pytest.MonkeyPatch):
    names = Names(monkeypatch, "127.0.0.1")
    both = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1%eth0", ours.http.server_port, 0, 2))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: [*both, *names(*a, **k)])
    open_web_session.cache_clear()
    assert isinstance(read(ours.url.replace("127.0.0.1", "photos.example"), {}), bytes)


@pytest.mark.parametrize("host", ["169.254.169.254.", "[fe80::1%25eth0]", "[64:ff9b::a9fe:a9fe]", "0xa9fea9fe"])
def test_no_proxy_is_asked_for_them(ours: Server, monkeypatch: pytest.MonkeyPatch, host: str):
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, ours.url)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    result = read(f"http://{host}/a.jpg", {})
    assert isinstance(result, Failure)
    assert result.status == Status.DENIED
    assert ours.asked == []


def test_a_scheme_in_capitals_is_the_same(ours: Server, tmp_path: Path):
    capitals = ours.url.replace("http", "HTTP")
    (tmp_path / "photos.csv").write_text(f"uri\n{capitals}/a.jpg\nFILE:///photos/a%20b.jpg\n")
    listed = [entry.uri for entry in Listing(str(tmp_path / "photos.csv"))]
    assert listed == [f"{ours.url}/a.jpg", "/photos/a b.jpg"]
    assert absolute(f"{capitals}/A.jpg") == f"{ours.url}/A.jpg"
    assert absolute("/photos/HTTP://a") == "/photos/HTTP://a"
    assert is_web(capitals)
    assert is_object_store("S3://bucket/a")
    assert not is_object_store(capitals)
    store, key = open_store("AZ://box/p", {"account_name": "x", "anon": True}, timeout=1)
    assert ("AzureStore" in repr(store), key) == (True, "p")
    fs, path = open_file_system(f"simplecache::{capitals}/a.jpg", {})
    assert fs.cat_file(path).startswith(b"image,mos")


def test_containers_there_are_refused_too(ours: Server, tmp_path: Path):
    ours.elsewhere = "http://169.254.169.254"
    for url in ("http://169.254.169.254/some.tar", f"{ours.url}/moved/some.tar"):
        (tmp_path / "photos.csv").write_text(f"uri\n{url}\n")
        (entry,) = Listing(str(tmp_path / "photos.csv"))
        assert entry == Entry(url)  # whose row will say why
    for chain in (f"simplecache::{ours.url}/moved/a.jpg", "filecache::http://169.254.169.254/a.jpg"):
        result = read(chain, {})
        assert isinstance(result, Failure)
        assert result.status == Status.DENIED, result.error


def test_an_option_allows_them():
    options = ScoreOptions(source="a", output="b", allow_link_local=True)
    access = WebAccess.of(options.storage_options)
    assert access.allow_link_local
    access.check_host("169.254.169.254", resolve=True)
    fs, _ = open_file_system("simplecache::http://169.254.169.254/a.jpg", options.storage_options)
    assert fs.fs.get_client.access.allow_link_local
    assert not WebAccess.of(ScoreOptions(source="a", output="b").storage_options).allow_link_local


def test_a_source_that_is_there_tells_the_option():
    with pytest.raises(UserError, match="--allow-link-local"):
        list(Listing("http://169.254.169.254/latest/"))
