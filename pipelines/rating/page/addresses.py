"""Where the page is reached: on this machine alone, or in its network too, at addresses that a phone can open."""

import contextlib
import ipaddress
import re
import socket

import psutil

from grepr_core.errors import UserError

#: Addresses of documentation, to which there is a way wherever there is one to the internet. Nothing is sent there.
_FAR_AWAY = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
_HOST_HEADER = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[^\s:\[\]@/]+))(?::[0-9]*)?")


def listen(host: str, port: int) -> socket.socket:
    """Opens a socket that browsers are heard on.

    Args:
        host: An address or name of this machine; 0.0.0.0 for all of its addresses, :: for those of IPv6 as well.
        port: To listen on; 0 for any that is free.

    Returns:
        The socket. From here on a browser is not turned away, but waits until the server has begun.

    Raises:
        UserError: The host is none of this machine, or the port is taken.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host {host}: no such name or address; give one of this machine, or 0.0.0.0") from error
    family, _, _, _, address = found[0]
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # :: hears those of IPv4 too
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        if port and _is_of_this_machine(host):
            raise UserError(f"--port {port}: {error.strerror}; name another, or leave it out") from error
        raise UserError(f"--host {host}: {error.strerror}; give an address of this machine, or 0.0.0.0") from error
    return listener


def is_loopback(listener: socket.socket) -> bool:
    """Tells whether a socket hears this machine alone."""
    return _bound(listener).is_loopback


def origins(listener: socket.socket) -> list[str]:
    """Gives the first parts of the page's addresses, such as ``http://192.168.1.20:8000``.

    Args:
        listener: Of :func:`listen`.

    Returns:
        One for each address that it hears: its own, or that of loopback and those of this machine in its networks, the
        one that leads to the internet first, and IPv6 last.
    """
    bound, port = _bound(listener), listener.getsockname()[1]
    hosts = ["127.0.0.1", *_of_network(bound.version)] if bound.is_unspecified else [str(bound)]
    return [f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}" for host in hosts]


def names_this_machine(header: str, host: str) -> bool:
    """Tells whether the ``Host`` header of a request is one that no other page can have made.

    A page of the internet whose name was made to point to this machine sends that name. So names are turned away, but
    for ``localhost`` and the one that the person gave; an address in its place was typed, or is that of our link.

    Args:
        header: As the browser sent it.
        host: What the person gave.

    Returns:
        Whether to answer.
    """
    parts = _HOST_HEADER.fullmatch(header.lower())
    if parts is None:
        return False
    name = parts["v6"] or parts["name"]
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(name))
    return name in ("localhost", host.lower())


def _bound(listener: socket.socket) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(listener.getsockname()[0])


def _is_of_this_machine(host: str) -> bool:
    """Tells whether any port can be listened on at a host."""
    with contextlib.suppress(UserError), listen(host, 0):
        return True
    return False


def _of_network(version: int) -> list[str]:
    """Lists addresses of this machine that others in its networks can reach; those of IPv6 where ``version`` is 6."""
    families = [socket.AF_INET, socket.AF_INET6][: 1 if version == 4 else 2]
    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    found = [
        (families.index(each.family), _outgoing(each.family) != each.address, each.address)
        for name, addresses in psutil.net_if_addrs().items()
        if name in up
        for each in addresses
        if each.family in families and _is_reachable(each.address)
    ]
    return [address for _, _, address in sorted(found)]


def _is_reachable(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    # An address of the link needs, in a browser, the name of an interface, which browsers do not take.
    return not (parsed.is_loopback or parsed.is_link_local)


def _outgoing(family: int) -> str | None:
    """Gives the address of this machine that requests to the internet come from."""
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((_FAR_AWAY[socket.AddressFamily(family)], 9))
        address: str = probe.getsockname()[0]
        return address
    return None
