"""Standard output and standard error of a command that somebody may stop reading."""

import errno
import io
import os
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

#: Nobody reads a pipe, or its terminal was closed.
_NO_READER = frozenset({errno.EPIPE, errno.EIO})

_last_written = time.monotonic()


def last_written() -> float:
    """Gives when something was written last, by the clock of ``time.monotonic``."""
    return _last_written


def outlive_readers() -> None:
    """Makes both streams lead nowhere once nobody reads them, as in ``grepr --help | head -1`` or after ssh has ended.

    What is at work goes on, and ends with the exit code that it would have ended with.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    sys.stdout = _open(1, line_buffering=sys.stdout.isatty(), may_lose=False)
    sys.stderr = open_log(2)


def open_log(number: int) -> io.TextIOWrapper:
    """Opens a descriptor for what is told of the work, which goes on where that cannot be written: on a full disk."""
    return _open(number, line_buffering=True, may_lose=True)


def _open(number: int, *, line_buffering: bool, may_lose: bool) -> io.TextIOWrapper:
    # Names of files may be any bytes.
    raw = io.BufferedWriter(_Descriptor(number, may_lose=may_lose))
    return io.TextIOWrapper(raw, "utf-8", errors="backslashreplace", line_buffering=line_buffering)


class _Descriptor(io.FileIO):
    def __init__(self, number: int, *, may_lose: bool) -> None:
        super().__init__(number, "wb", closefd=False)
        self._may_lose = may_lose

    def write(self, data: "ReadableBuffer", /) -> int:
        global _last_written  # noqa: PLW0603 - of both streams
        _last_written = time.monotonic()
        try:
            return super().write(data)
        except OSError as error:
            if error.errno in _NO_READER or not self._may_lose:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self.fileno())
                os.close(nowhere)
            if error.errno in _NO_READER or self._may_lose:
                return memoryview(data).nbytes
            raise  # once: what is still buffered goes nowhere
