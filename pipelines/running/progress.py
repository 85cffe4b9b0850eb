"""Progress of long work on standard error: a bar on a terminal, a line every ten seconds in a log."""

import sys
import time

from tqdm import tqdm

LOG_SECONDS = 10.0


class Progress:
    """Counts images done and failed, and shows them with the speed and the time left, until it is closed."""

    def __init__(self, total: int, done: int = 0, *, what: str = "scoring", unit: str = "image") -> None:
        """Starts the clock.

        Args:
            total: Images in all.
            done: Images that earlier runs have done; they do not count for the speed.
            what: What is done.
            unit: What is counted, where it is not images.
        """
        self._failed = 0
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            initial=done,
            unit=unit,
            desc=what,
            dynamic_ncols=True,
            # Off a terminal only the counting of tqdm is used: a bar redrawn by carriage returns clutters a log.
            file=sys.stderr if self._terminal else _Nowhere(),
        )
        self._shown = time.monotonic()

    def update(self, images: int, failed: int) -> None:
        """Adds images that are done, some of which failed."""
        self._failed += failed
        if self._failed:
            self._bar.set_postfix(failed=self._failed, refresh=False)
        self._bar.update(images)
        if not self._terminal and time.monotonic() - self._shown >= LOG_SECONDS:
            self._log()

    def _log(self) -> None:
        self._shown = time.monotonic()
        print(str(self._bar), file=sys.stderr, flush=True)  # noqa: T201

    def close(self) -> None:
        """Shows the final state."""
        if not self._terminal:
            self._log()
        self._bar.close()


class _Nowhere:
    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass
