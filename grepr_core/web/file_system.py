"""The web for fsspec, by which listings and containers are read, within the bounds of :mod:`grepr_core.web.access`."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from fsspec.implementations.http import HTTPFileSystem

from grepr_core.web.access import ALLOW_LINK_LOCAL, HEADERS_FOR, LinkLocalError, WebAccess, is_link_local, refusal


class WebFileSystem(HTTPFileSystem):  # type: ignore[misc]
    """Sends headers and cookies to the hosts they are for, wherever redirects lead, and asks no link-local address."""

    def __init__(
        self,
        *arguments: Any,  # noqa: ANN401 - as fsspec has it
        headers: Mapping[str, str] | None = None,
        cookies: Mapping[str, str] | None = None,
        client_kwargs: Mapping[str, Any] | None = None,
        headers_for: str | list[str] | tuple[str, ...] = (),
        allow_link_local: bool = False,
        **options: Any,  # noqa: ANN401
    ) -> None:
        """Prepares; nothing is opened yet.

        Args:
            arguments: As fsspec's own class has them.
            headers: Of requests to ``headers_for``.
            cookies: Likewise.
            client_kwargs: For :class:`aiohttp.ClientSession`; headers and cookies among them likewise.
            headers_for: URLs of the hosts.
            allow_link_local: Whether link-local addresses may be asked.
            options: As fsspec's own class has them.
        """
        client = dict(client_kwargs or {})
        secrets = {"headers": headers, "cookies": cookies, "client_kwargs": client}
        access = WebAccess.of({**secrets, HEADERS_FOR: headers_for, ALLOW_LINK_LOCAL: allow_link_local})
        client = {name: value for name, value in client.items() if name not in secrets}
        super().__init__(*arguments, client_kwargs=client, get_client=_Client(access), **options)

    async def _info(self, url: str, **options: Any) -> Any:  # noqa: ANN401
        try:
            return await super()._info(url, **options)
        except FileNotFoundError as error:  # whatever went wrong
            if isinstance(error.__cause__, LinkLocalError):
                raise error.__cause__ from None
            raise


class _RefusedError(OSError):
    """Goes through the client as if the address could not be reached."""


@dataclass(frozen=True)
class _Client:
    access: WebAccess

    async def __call__(self, **options: Any) -> aiohttp.ClientSession:  # noqa: ANN401
        connector = aiohttp.TCPConnector(socket_factory=None if self.access.allow_link_local else _open_socket)
        return aiohttp.ClientSession(connector=connector, middlewares=(self._send,), **options)

    async def _send(self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        """Is passed by every request, those that follow a redirect too."""
        host = request.url.host or ""
        self.access.check_host(host, resolve=False)  # which a proxy would be asked for
        request.headers.update(self.access.headers_to(str(request.url)))
        try:
            return await handler(request)
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, _RefusedError):
                raise refusal(host) from None
            raise


def _open_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, _, place = address
    if is_link_local(str(place[0])):
        raise _RefusedError("link-local")
    return socket.socket(family, kind, protocol)
