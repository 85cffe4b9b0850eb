"""A proxy that harms requests to an HTTP server, by share and seed, and counts what it did.

It stands in front of the S3 server of the tests, so that the clients of production meet throttling, lost connections,
damaged answers and stalls. Every other request passes unchanged, its Host header too, so signatures stay valid.
"""

import asyncio
import math
import random
import re
import socket
import struct
import threading
import urllib.parse
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

#: Harms of the answer, each by the method of that name below.
KINDS = ("slow_down", "server_error", "reset", "truncated", "stall", "length_too_long", "length_too_short")
_SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_INTERNAL = b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"
_DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


@dataclass
class FaultProxy:
    """What the proxy does; may be changed while it runs, from any thread.

    Attributes:
        upstream: Address of the server, ``http://host:port``.
        share: Part of the requests that is harmed, in [0, 1].
        kinds: Of harm, each as likely; from :data:`KINDS`.
        only: Pattern of the requests that may be harmed, written ``GET /bucket/key``.
        most: How often one and the same request is harmed at most; by default without bound.
        stall: Seconds that a stalled answer stays away, its first half given.
        forbidden: Pattern of the requests that are answered by 403.
        down: Whether every connection is closed at once.
        counts: How many requests were harmed, by kind.
        harmed: How often each request was, written as above.
        requests: How often each request came, written as above.
    """

    upstream: str
    share: float = 0.0
    kinds: Sequence[str] = KINDS
    only: str = "GET "
    most: float = math.inf
    stall: float = 30.0
    forbidden: str | None = None
    down: bool = False
    seed: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    harmed: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    address: str = ""

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)

    def forbid_writes(self) -> None:
        """Answers what would change an object by 403 from now on."""
        self.forbidden = "(PUT|POST|DELETE) "

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not self.down and await self._answer(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client or the test went away
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answers one request; tells whether the connection can take another."""
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
        if self.down:
            return False
        if b"100-continue" in head.lower():
            head = re.sub(rb"(?i)expect: *100-continue\r\n", b"", head)
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert b"transfer-encoding: chunked" not in head.lower(), "the clients of the tests tell the length"
        body = await reader.readexactly(_content_length(head) or 0)
        request = f"{method} {target}"
        self.requests[request] += 1
        if self.forbidden is not None and re.match(self.forbidden, request):
            return await _send(writer, _response("403 Forbidden", _DENIED))
        kind = self._choose(request)
        if kind == "slow_down":
            return await _send(writer, _response("503 Slow Down", _SLOW_DOWN))
        if kind == "server_error":
            return await _send(writer, _response("500 Internal Server Error", _INTERNAL))
        answer_head, answer = await self._ask(head, body, method == "HEAD")
        return await self._harm(kind, writer, answer_head, answer)

    def _choose(self, request: str) -> str:
        """Chooses a harm, or none."""
        if not re.match(self.only, request) or self.harmed[request] >= self.most or self._rng.random() >= self.share:
            return ""
        kind = self._rng.choice(self.kinds)
        self.counts[kind] += 1
        self.harmed[request] += 1
        return kind

    async def _ask(self, head: bytes, body: bytes, no_body: bool) -> tuple[bytes, bytes]:
        address = urllib.parse.urlsplit(self.upstream)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        try:
            writer.write(re.sub(rb"(?i)\r\nconnection:[^\r]*", b"", head)[:-2] + b"Connection: close\r\n\r\n" + body)
            await writer.drain()
            answer_head = await reader.readuntil(b"\r\n\r\n")
            answer = b"" if no_body else await reader.read()
        finally:
            writer.close()
        answer_head = re.sub(rb"(?i)\r\nconnection:[^\r]*", b"", answer_head)
        return re.sub(rb"\AHTTP/1.0", b"HTTP/1.1", answer_head), answer

    async def _harm(self, kind: str, writer: asyncio.StreamWriter, head: bytes, body: bytes) -> bool:
        half = len(body) // 2
        match kind:
            case "reset":
                await _send(writer, head + body[:half])
                # Closing without lingering resets the connection.
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()
                return False
            case "truncated":
                await _send(writer, head + body[:half])
                return False
            case "stall":
                await _send(writer, head + body[:half])
                await asyncio.sleep(self.stall)
                return await _send(writer, body[half:])
            case "length_too_long":
                await _send(writer, _with_length(head, len(body) + 1000) + body)
                return False
            case "length_too_short":
                await _send(writer, _with_length(head, half) + body)
                return False
            case _:
                await _send(writer, head + body)
                return _content_length(head) is not None or b"chunked" in head.lower()


async def _send(writer: asyncio.StreamWriter, answer: bytes) -> bool:
    writer.write(answer)
    await writer.drain()
    return True


def _response(status: str, body: bytes) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def _content_length(head: bytes) -> int | None:
    found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return int(found[1]) if found else None


def _with_length(head: bytes, length: int) -> bytes:
    return re.sub(rb"(?i)\r\ncontent-length:[^\r]*", b"\r\nContent-Length: %d" % length, head)


@contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    """Runs a proxy in a thread, at first harmless, and makes AWS clients use it.

    Args:
        upstream: Address of the server.

    Yields:
        The proxy; its ``address`` is set.
    """
    proxy = FaultProxy(upstream)
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(proxy._serve, "127.0.0.1", 0, limit=2**26))
    proxy.address = "http://{}:{}".format(*server.sockets[0].getsockname())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", proxy.address)
            yield proxy
    finally:
        # Nobody may go on waiting for an answer: the sockets of clients are closed with their tasks.
        loop.call_soon_threadsafe(lambda: (server.close(), *(task.cancel() for task in asyncio.all_tasks(loop))))
        loop.call_soon_threadsafe(loop.call_later, 0.1, loop.stop)
        thread.join(timeout=10)
        loop.close()
