"""Ending a process that an image keeps busy for too long."""

import faulthandler
import os
import threading
import time
from collections.abc import Callable

EXIT_CODE = 70


class Watchdog:
    """Ends its process once it has been armed for too long: a decoder in an endless loop cannot be stopped otherwise.

    A second clock, which needs no Python to run, ends the process in twice the time where native code holds the
    interpreter's lock.
    """

    def __init__(self, seconds: float) -> None:
        """Starts the thread that watches.

        Args:
            seconds: That the process may stay armed.
        """
        self._seconds = seconds
        self._changed = threading.Condition()
        self._deadline: float | None = None
        self._before_exit: Callable[[], object] = int  # which does nothing
        # Kept open: the second clock writes where the process hung, to nowhere.
        self._nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def arm(self, before_exit: Callable[[], object]) -> None:
        """Starts the clock anew.

        Args:
            before_exit: Called before the process is ended.
        """
        with self._changed:
            self._deadline = time.monotonic() + self._seconds
            self._before_exit = before_exit
            self._changed.notify()
        faulthandler.dump_traceback_later(2 * self._seconds, exit=True, file=self._nowhere)

    def disarm(self) -> None:
        """Stops the clock."""
        with self._changed:
            self._deadline = None
        faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        with self._changed:
            while True:
                if self._deadline is None:
                    self._changed.wait()
                elif (left := self._deadline - time.monotonic()) > 0:
                    self._changed.wait(left)
                else:
                    try:
                        self._before_exit()
                    finally:
                        os._exit(EXIT_CODE)
