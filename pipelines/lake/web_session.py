"""A client of the web for single images, within the bounds of :mod:`grepr_core.web.access`."""

import functools
import os
import socket
import urllib.parse
from typing import Any

import requests
import requests.adapters
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationParseError,
    NameResolutionError,
    NewConnectionError,
)
from urllib3.util.connection import allowed_gai_family, create_connection

from grepr_core.web.access import WebAccess, is_link_local, refusal

_CONNECTIONS = 64


@functools.cache
def open_web_session(access: WebAccess) -> requests.Session:
    """Opens a session, one for all threads of the process.

    Args:
        access: How the web is read.
    """
    session = requests.Session()
    # Compressed on the way, an image would be no smaller, and its length unknown.
    session.headers["Accept-Encoding"] = "identity"
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter(access))
    return session


# Two processes on one connection would get each other's answers.
os.register_at_fork(after_in_child=open_web_session.cache_clear)


class _Adapter(requests.adapters.HTTPAdapter):
    """Is passed by every request, those that follow a redirect too, which know nothing of what it adds."""

    def __init__(self, access: WebAccess) -> None:
        self._access = access
        super().__init__(pool_connections=_CONNECTIONS, pool_maxsize=_CONNECTIONS)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        super().init_poolmanager(*arguments, **options)
        if not self._access.allow_link_local:
            self.poolmanager.pool_classes_by_scheme = {"http": _HTTPConnectionPool, "https": _HTTPSConnectionPool}

    def send(self, request: requests.PreparedRequest, *arguments: Any, **options: Any) -> requests.Response:  # noqa: ANN401
        url = request.url or ""
        # A proxy would be asked for it.
        self._access.check_host(urllib.parse.urlsplit(url).hostname or "", resolve=False)
        request = request.copy()
        request.headers.update(self._access.headers_to(url))
        return super().send(request, *arguments, **options)


class _Connection(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        """Connects to what was looked at, since the name may lead elsewhere a moment later."""
        failure: HTTPError | None = None
        for address in _addresses(self):
            try:
                return create_connection((address, self.port), self.timeout, self.source_address, self.socket_options)
            except TimeoutError:
                failure = ConnectTimeoutError(self, f"Connection to {self.host} timed out.")
            except OSError as error:
                failure = NewConnectionError(self, f"Failed to establish a new connection: {error}")
        # Beside others, a machine of the neighbourhood may have such an address too.
        raise failure or refusal(self.host)


class _SecureConnection(_Connection, HTTPSConnection):
    pass


class _HTTPConnectionPool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _HTTPSConnectionPool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


def _addresses(connection: HTTPConnection) -> list[str]:
    """Gives the addresses that a host may be asked at."""
    host = connection.host.strip("[]")
    try:
        found = socket.getaddrinfo(host, connection.port, family=allowed_gai_family(), type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise NameResolutionError(host, connection, error) from error
    except UnicodeError as error:
        raise LocationParseError(host) from error
    return [address for *_, place in found if not is_link_local(address := str(place[0]))]
