"""Ending a process that an image keeps busy for too long."""

import os
import signal
import threading
import time
from collections.abc import Callable

EXIT_CODE = 70
#: Seconds between two looks at the clock, so that starting it wakes no thread.
LOOK_SECONDS = 1.0


class Watchdog:
    """Ends its process once it has been armed for too long: a decoder in an endless loop cannot be stopped otherwise.

    A second clock, the process's alarm, needs no Python to run; it ends the process in twice the time where native code
    holds the interpreter's lock. There is one alarm in a process, and so one watchdog.
    """

    def __init__(self, seconds: float) -> None:
        """Starts the thread that watches.

        Args:
            seconds: That the process may stay armed.
        """
        self._seconds = seconds
        # Replaced as a whole, so that no lock is needed.
        self._armed: tuple[float, Callable[[], object]] | None = None
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def arm(self, before_exit: Callable[[], object]) -> None:
        """Starts the clock anew.

        Args:
            before_exit: Called before the process is ended.
        """
        self._armed = time.monotonic() + self._seconds, before_exit
        # Nobody handles the signal, so that it ends the process whoever holds the interpreter's lock.
        signal.setitimer(signal.ITIMER_REAL, 2 * self._seconds)

    def disarm(self) -> None:
        """Stops the clock."""
        self._armed = None
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _watch(self) -> None:
        # No longer than the process may stay armed, so that no deadline is missed that was set in between.
        pause = longest = min(LOOK_SECONDS, self._seconds)
        while True:
            time.sleep(pause)
            pause = longest
            if (armed := self._armed) is not None:
                deadline, before_exit = armed
                if (left := deadline - time.monotonic()) <= 0:
                    try:
                        before_exit()
                    finally:
                        os._exit(EXIT_CODE)
                pause = min(longest, left)
