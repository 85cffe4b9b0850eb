"""A sign of life of a command that has told nothing for a while."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

from grepr_core.errors import without_secrets
from jobs import streams
from pipelines.telling.activity import still
from pipelines.telling.words import duration

#: Seconds without a word after which there is one.
SILENCE = 20.0


@contextlib.contextmanager
def heartbeat() -> Iterator[None]:
    """Says on standard error what is under way, whenever nothing was written for a while."""
    over = threading.Event()
    thread = threading.Thread(target=_beat, args=(over,), name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _beat(over: threading.Event) -> None:
    began = heard = time.monotonic()
    while not over.wait(max(0.0, SILENCE - (time.monotonic() - heard))):
        heard = max(heard, streams.last_written())
        if time.monotonic() - heard < SILENCE:
            continue
        line = still()
        if line is None:
            line = f"at work: {duration(time.monotonic() - began)} so far"
        if line and not over.is_set():
            print(without_secrets(line), file=sys.stderr, flush=True)  # noqa: T201
        heard = time.monotonic()
