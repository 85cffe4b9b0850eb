"""What the web may be asked, and told: secrets go to the hosts they are meant for, requests to no link-local address.

Tables name any host. The headers of ``--storage-options`` are for some, and link-local addresses are where clouds hand
out the credentials of their machines.
"""

import ipaddress
import re
import socket
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from grepr_core.errors import UserError

#: grepr's own keys among the storage options.
HEADERS_FOR, ALLOW_LINK_LOCAL = "headers_for", "allow_link_local"
OWN_OPTIONS = frozenset({HEADERS_FOR, ALLOW_LINK_LOCAL})
_PORTS = {"http": 80, "https": 443}
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*(?=://)", re.IGNORECASE)
#: What options that hold names and values look like.
_EXPECTED = {
    "headers": '{"headers": {"NAME": "VALUE"}}',
    "cookies": '{"cookies": {"NAME": "VALUE"}}',
    "client_kwargs": '{"client_kwargs": {"NAME": VALUE}}',
}
#: IPv6 addresses that stand for those of IPv4 in their last 32 bits.
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")


class LinkLocalError(UserError):
    """A host is at a link-local address, which is not to be asked."""


def refusal(host: str) -> LinkLocalError:
    """Gives the error for a host."""
    return LinkLocalError(f"{host} is at a link-local address, which only --allow-link-local has asked")


def with_lower_scheme(url: str) -> str:
    """Gives a URL as everything here expects it, and a path as it is: ``HTTP://`` is ``http://``."""
    return _SCHEME.sub(lambda scheme: scheme[0].lower(), url, count=1) if _SCHEME.match(url) else url


def is_web(url: str) -> bool:
    """Tells whether a URL is of a web server."""
    return with_lower_scheme(url).startswith(("http://", "https://"))


def origin(url: str) -> str | None:
    """Gives scheme, host and port of a URL of the web; None for any other."""
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _PORTS or not parts.hostname:
        return None
    return f"{parts.scheme}://{parts.hostname}:{port or _PORTS[parts.scheme]}"


@dataclass(frozen=True)
class WebAccess:
    """How the web is read.

    Attributes:
        headers: Sent with every request to ``hosts``, and with no other.
        hosts: Each by its :func:`origin`.
        allow_link_local: Whether link-local addresses may be asked.
    """

    headers: tuple[tuple[str, str], ...] = ()
    hosts: frozenset[str] = frozenset()
    allow_link_local: bool = False

    @classmethod
    def of(cls, storage_options: Mapping[str, Any]) -> Self:
        """Takes it from storage options: ``headers`` and ``cookies``, there or in ``client_kwargs``, and grepr's own.

        Raises:
            ValueError: A host is none, or headers or cookies are no names and values.
        """
        client = _named_values(storage_options, "client_kwargs")
        headers = _texts(client, "headers") | _texts(storage_options, "headers")
        if cookies := _texts(client, "cookies") | _texts(storage_options, "cookies"):
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
        hosts = _hosts(storage_options)
        return cls(tuple(sorted(headers.items())), hosts, bool(storage_options.get(ALLOW_LINK_LOCAL)))

    def headers_to(self, url: str) -> dict[str, str]:
        """Gives the headers for a request."""
        return dict(self.headers) if origin(url) in self.hosts else {}

    def withholds(self, url: str) -> bool:
        """Tells whether there are headers that a request goes without."""
        return bool(self.headers) and origin(url) not in self.hosts

    def check_host(self, host: str, *, resolve: bool) -> None:
        """Makes sure that a host may be asked.

        Args:
            host: Name or address.
            resolve: Looks names up too; else only addresses in all their spellings are known.

        Raises:
            LinkLocalError: It may not.
        """
        if self.allow_link_local:
            return
        # A dot at the end, or a zone, is no part of an address, but may be taken for one of a name.
        found = _addresses(host.rstrip(".").partition("%")[0], socket.AI_NUMERICHOST)
        if any(map(is_link_local, found or (_addresses(host, 0) if resolve else []))):
            raise refusal(host)


def _addresses(host: str, flags: int) -> list[str]:
    try:
        return [str(place[0]) for *_, place in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=flags)]
    except (OSError, UnicodeError):
        return []  # who connects will say so


def _named_values(options: Mapping[str, Any], name: str) -> dict[str, Any]:
    values = options.get(name) or {}
    if not isinstance(values, Mapping):
        raise ValueError(f"--storage-options: {name} holds no names and values; expected is {_EXPECTED[name]}")
    return dict(values)


def _texts(options: Mapping[str, Any], name: str) -> dict[str, str]:
    values = _named_values(options, name)
    # Which value it is stays unsaid, since it may be secret.
    odd = next((key for key, value in values.items() if not isinstance(value, str)), None)
    if odd is not None:
        raise ValueError(f"--storage-options: {name} holds a {odd!r} that is no text; expected is {_EXPECTED[name]}")
    return values


def _hosts(storage_options: Mapping[str, Any]) -> frozenset[str]:
    named = storage_options.get(HEADERS_FOR) or ()
    if not isinstance(named, str | list | tuple):
        raise ValueError(f"--storage-options: {HEADERS_FOR} holds {named!r}; expected is a list such as [https://HOST]")
    hosts = set()
    for url in [named] if isinstance(named, str) else named:
        if (host := origin(str(url))) is None:
            raise ValueError(f"--storage-options: {HEADERS_FOR} holds {url!r}; expected is https://HOST")
        hosts.add(host)
    return frozenset(hosts)


def for_reading(storage_options: Mapping[str, Any], *urls: str | None) -> dict[str, Any]:
    """Gives storage options whose headers go to the hosts of what a command reads, beside those they name themselves.

    Args:
        storage_options: As the command got them.
        urls: What it reads: paths, URLs of the web and any others.
    """
    options = dict(storage_options)
    if WebAccess.of(options).headers:
        hosts = _hosts(options) | {host for url in urls if url is not None and (host := origin(url)) is not None}
        options[HEADERS_FOR] = sorted(hosts)
    return options


def is_link_local(address: str) -> bool:
    """Tells whether an IP address is link-local, IPv4 in IPv6 too."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address) and (ip.ipv4_mapped is not None or ip in _TRANSLATED):
        ip = ipaddress.IPv4Address(ip.packed[-4:])
    return ip.is_link_local
