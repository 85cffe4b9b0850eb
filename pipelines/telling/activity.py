"""What a command is at, for whoever waits for it."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

from pipelines.telling.words import duration

log = logging.getLogger(__name__)

#: What is under way, the innermost last: each says how far it is.
_under_way: list[Callable[[], str]] = []


@contextlib.contextmanager
def activity(what: str, detail: Callable[[], str] | None = None, *, announced: bool = True) -> Iterator[None]:
    """Tells what begins, of which :func:`still` tells until it ends.

    Args:
        what: Begins, such as ``listing photos/``.
        detail: Says how far it is, where that can be known.
        announced: Whether it is told at its beginning; what is mostly over at once is not.
    """
    began = time.monotonic()
    if announced:
        log.info("%s", what)

    def tell() -> str:
        more = f", {detail()}" if detail else ""
        return f"{what}: {duration(time.monotonic() - began)} so far{more}"

    with under_way(tell):
        yield


@contextlib.contextmanager
def under_way(tell: Callable[[], str]) -> Iterator[None]:
    """Has :func:`still` tell of something; nothing where ``tell`` gives an empty text."""
    _under_way.append(tell)
    try:
        yield
    finally:
        _under_way.remove(tell)


def still() -> str | None:
    """Says what is under way and how far it is; empty where that is shown already, None where nothing is known."""
    # A copy, since what is under way may end at this moment in another thread.
    return next((tell() for tell in reversed(list(_under_way))), None)
