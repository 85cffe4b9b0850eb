"""A proxy whose connections can be cut, as those of a laptop that sleeps or of a network that goes away."""

import asyncio
import contextlib
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager


class CutProxy:
    """Passes bytes on, both ways, until it is told to cut.

    Attributes:
        address: Of the proxy, ``http://host:port``.
        connections: Connections taken so far.
    """

    def __init__(self, upstream: str) -> None:
        self.connections = 0
        self._upstream = urllib.parse.urlsplit(upstream)
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.address = "http://{}:{}".format(*self._server.sockets[0].getsockname())
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Breaks every connection there is; new ones are taken."""
        self._loop.call_soon_threadsafe(lambda: [writer.transport.abort() for writer in self._open])

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._server.close)
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.call_later, 0.2, self._loop.stop)
        self._thread.join(timeout=10)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        there, server = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
        await asyncio.gather(self._pass_on(reader, server), self._pass_on(there, writer))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(2**16):
                writer.write(data)
                await writer.drain()
        self._open.discard(writer)
        writer.close()


@contextmanager
def cut_proxy(upstream: str) -> Iterator[CutProxy]:
    """Runs a proxy in a thread.

    Args:
        upstream: Address of the server, ``http://host:port``.

    Yields:
        The proxy.
    """
    proxy = CutProxy(upstream)
    try:
        yield proxy
    finally:
        proxy.close()
