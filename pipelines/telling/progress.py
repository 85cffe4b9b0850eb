"""Progress of long work on standard error: a bar on a terminal, a line every ten seconds in a log."""

import os
import sys
import time
from contextlib import ExitStack

from tqdm import tqdm

from pipelines.telling.activity import under_way
from pipelines.telling.words import counted, duration

LOG_SECONDS = 10.0
#: A terminal of fewer columns has no room for a bar; what is cut off there is what is done.
_NARROW_COLUMNS = 72
_NARROW = "{percentage:3.0f}% {n_fmt}/{total_fmt} {remaining} left, {desc}"


class Progress:
    """Counts images done and failed, and shows them with the speed and the time left, until it is closed."""

    def __init__(self, total: int, done: int = 0, *, what: str = "scoring", unit: str = "image") -> None:
        """Starts the clock.

        Args:
            total: Images in all; 0 where that is not known.
            done: Images that earlier runs have done; they do not count for the speed.
            what: What is done.
            unit: What is counted, where it is not images.
        """
        self._what, self._unit = what, unit
        self._failed = 0
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=total or None,
            initial=done,
            unit=unit,
            desc=what,
            dynamic_ncols=True,
            bar_format=self._format(),
            # Off a terminal only the counting of tqdm is used: a bar redrawn by carriage returns clutters a log.
            file=sys.stderr if self._terminal else _Nowhere(),
        )
        self._shown = time.monotonic()
        self._logged: float | None = None
        self._told = ExitStack()
        self._told.enter_context(under_way(self._still))

    def update(self, images: int, failed: int) -> None:
        """Adds images that are done, some of which failed."""
        self._failed += failed
        if self._failed:
            self._bar.set_postfix(failed=self._failed, refresh=False)
        self._bar.bar_format = self._format()
        self._bar.update(images)
        if not self._terminal and time.monotonic() - self._shown >= LOG_SECONDS:
            self._log()

    def _format(self) -> str | None:
        return _NARROW if self._terminal and _columns() < _NARROW_COLUMNS else None

    def _still(self) -> str:
        if self._terminal:
            self._bar.refresh()
            return ""
        self._shown = time.monotonic()
        return self.line()

    def line(self) -> str:
        """Gives what a log says of it."""
        state = self._bar.format_dict
        done, total, seconds = state["n"], state["total"], state["elapsed"]
        here = done - state["initial"]
        pace = state["rate"] or (here / seconds if seconds else 0)
        if total:
            parts = [f"{done:,} of {counted(total, self._unit)} ({100 * done / total:.0f} %)"]
        else:
            parts = [counted(done, self._unit)]
        if here and pace:
            parts.append(f"{pace:.{0 if pace >= 100 else 1}f} {self._unit}s/s")
        if here and pace and total and done < total:
            parts.append(f"{duration((total - done) / pace)} left")
        else:
            parts.append(duration(seconds))
        if self._failed:
            parts.append(f"{self._failed:,} failed")
        return f"{self._what}: {', '.join(parts)}"

    def _log(self) -> None:
        self._shown, self._logged = time.monotonic(), self._bar.n
        print(self.line(), file=sys.stderr, flush=True)  # noqa: T201

    def close(self) -> None:
        """Shows the final state."""
        self._told.close()
        if not self._terminal and self._logged != self._bar.n:
            self._log()
        self._bar.close()


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except OSError:  # the terminal was closed, which is no reason to end
        return _NARROW_COLUMNS


class _Nowhere:
    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass
