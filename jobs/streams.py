"""Standard output and standard error of a command that somebody may stop reading."""

import io
import os
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_last_written = time.monotonic()


def last_written() -> float:
    """Gives when something was written last, by the clock of ``time.monotonic``."""
    return _last_written


def outlive_readers() -> None:
    """Makes both streams lead nowhere once nobody reads them, as in ``grepr --help | head -1``.

    What is at work goes on, and ends with the exit code that it would have ended with.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    sys.stdout = open_stream(1, line_buffering=sys.stdout.isatty())
    sys.stderr = open_stream(2, line_buffering=True)


def open_stream(number: int, *, line_buffering: bool) -> io.TextIOWrapper:
    """Opens a descriptor as text that is lost where nobody reads it; names of files in it may be any bytes."""
    raw = io.BufferedWriter(_Descriptor(number, "wb", closefd=False))
    return io.TextIOWrapper(raw, "utf-8", errors="backslashreplace", line_buffering=line_buffering)


class _Descriptor(io.FileIO):
    def write(self, data: "ReadableBuffer", /) -> int:
        global _last_written  # noqa: PLW0603 - of both streams
        _last_written = time.monotonic()
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return memoryview(data).nbytes
