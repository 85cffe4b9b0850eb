"""A client of the web for single images, within the bounds of :mod:`grepr_core.web.access`."""

import functools
import urllib.parse
from typing import Any

import requests
import requests.adapters
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

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
    def connect(self) -> None:
        # Before, since nobody may be there to answer; after, since the name may lead elsewhere a moment later.
        WebAccess().check_host(self.host, resolve=True)
        super().connect()
        if is_link_local(self.sock.getpeername()[0]):
            raise refusal(self.host)


class _SecureConnection(_Connection, HTTPSConnection):
    pass


class _HTTPConnectionPool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _HTTPSConnectionPool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection
