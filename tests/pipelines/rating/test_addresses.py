"""Where the page is reached, on a real socket: by this machine alone, or by all of its addresses."""

import logging
import re
import socket
import threading
from pathlib import Path
from queue import Queue
from urllib.parse import urlsplit

import psutil
import pytest
import requests

from grepr_core.decoding.images import Limits
from grepr_core.errors import UserError
from pipelines.lake.image_reader import ImageReader
from pipelines.rating.journal import RatingJournal
from pipelines.rating.page import serve
from pipelines.rating.page.addresses import is_loopback, listen, origins

NETWORK = {
    each.address
    for name, addresses in psutil.net_if_addrs().items()
    for each in addresses
    if each.family == socket.AF_INET
    and psutil.net_if_stats()[name].isup
    and not each.address.startswith(("127.", "169."))
}


def has_ipv6() -> bool:
    try:
        listen("::1", 0).close()
    except UserError:
        return False
    return True


ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@pytest.mark.parametrize(
    ("host", "form"),
    [
        ("127.0.0.1", r"http://127\.0\.0\.1:\d+"),
        ("localhost", r"http://(127\.0\.0\.1|\[::1\]):\d+"),
        pytest.param("::1", r"http://\[::1\]:\d+", marks=ipv6),
        pytest.param("[::1]", r"http://\[::1\]:\d+", marks=ipv6),
    ],
)
def test_an_address_of_loopback_is_heard_alone(host: str, form: str):
    with listen(host, 0) as listener:
        assert is_loopback(listener)
        [origin] = origins(listener)
        assert re.fullmatch(form, origin)
        port = urlsplit(origin).port
        for address in NETWORK:
            with pytest.raises(OSError, match="refused"):
                socket.create_connection((address, port), timeout=5)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "203.0.113.9", "1.2.3", "a" * 70, ""])
def test_what_is_no_address_of_this_machine_is_refused(host: str):
    with pytest.raises(UserError, match="--host"):
        listen(host or "x.invalid", 0)


def test_a_taken_port_is_told():
    with listen("0.0.0.0", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: Address already in use; name another"):
            listen("0.0.0.0", port)


@pytest.mark.parametrize("host", ["0.0.0.0", pytest.param("::", marks=ipv6)])
def test_all_addresses_answer_whoever_has_the_link(host: str, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    told: Queue[str] = Queue()
    limits = Limits()
    journal = RatingJournal(tmp_path / "ratings.csv")
    page = threading.Thread(
        target=serve,
        args=(journal, ImageReader(limits=limits, timeout=5)),
        kwargs={"limits": limits, "host": host, "port": 0, "announce": told.put},
    )
    with caplog.at_level(logging.DEBUG):
        page.start()
        first = told.get(timeout=30)
        assert first.startswith("rate here: http://127.0.0.1:")
        link = first.split()[-1]
        token = urlsplit(link).path
        assert requests.get(link, timeout=30).status_code == 200
        others = [told.get(timeout=5) for _ in range(told.qsize())]
        assert {urlsplit(line.split()[-1]).hostname for line in others} >= NETWORK
        for line in others:
            other = line.split()[-1]
            assert line == f"from other devices in the network: {other}"
            assert urlsplit(other).path == token
            assert requests.get(other, timeout=30).status_code == 200
            assert requests.get(other.replace(token, "/guess/"), timeout=30).status_code == 403
            assert requests.get(other, headers={"Host": "evil.example"}, timeout=30).status_code == 400
        requests.get(link + "nothing", timeout=30)
        requests.post(link + "api/finish", json={}, timeout=30)
        page.join(timeout=30)
    journal.close()
    assert "whoever in the network has the link sees the photos" in caplog.text
    assert token.strip("/") not in "".join(
        record.getMessage() for record in caplog.records if "urllib3" not in record.name
    )
