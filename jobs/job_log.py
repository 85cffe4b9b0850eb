"""Following a job's log over a connection that may break.

The server sends the log from its beginning to whoever connects. So after a break what was shown already is passed
over by its length, and no line is lost or shown twice.
"""

import asyncio
import logging
import re
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import cast

from ray.job_submission import JobDetails

from grepr_core.errors import UserError
from jobs.job_client import LOST, JobClient, Refused, Unwell

log = logging.getLogger(__name__)

#: After so much silence the connection is made anew, since it may be dead without either side knowing.
SILENCE_SECONDS = 60.0
#: Pauses between attempts to connect double from the first to the second.
PAUSE_SECONDS = (1.0, 30.0)
#: A server that is away for longer is given up.
PATIENCE_SECONDS = 1800.0


#: A line in which a process of Ray tells its state for Ray's developers, hundreds at a time, as the log of a lost node
#: does: maybe coloured, with the name of the process, indented, or with the head of a log's entry.
_STATE_DUMP = re.compile(
    r"(\x1b\[[\d;]*m)*(\(\w[^)]*\))?(\x1b\[[\d;]*m)*\s*(\[\d{4}-[^\]]*\] (\(\w+\) )?\S+ )?\[state-dump\]"
)
_STATE_DUMP_BEGINS_WITH = ("\x1b", "(", " ", "\t", "[")
_AFTER_LINE = re.compile(r"(?<=[\n\r])")


class WithoutStateDump:
    """Writes a log that comes in pieces, cut anywhere, without the lines of Ray's state dumps."""

    def __init__(self, write: Callable[[str], object]) -> None:
        """Takes what to write by."""
        self._write = write
        self._held = ""
        self._in_line = False

    def write(self, piece: str) -> None:
        """Writes what is surely none of a state dump; keeps a line that is not whole yet and may become one."""
        *lines, rest = _AFTER_LINE.split(self._held + piece)
        shown = []
        for line in lines:
            if self._in_line or not _STATE_DUMP.match(line):
                shown.append(line)
            self._in_line = False
        if rest and not self._in_line and rest.startswith(_STATE_DUMP_BEGINS_WITH):
            self._held = rest
        else:
            self._held, self._in_line = "", self._in_line or bool(rest)
            shown.append(rest)
        if text := "".join(shown):
            self._write(text)

    def flush(self) -> None:
        """Writes what was kept: the log ends within a line."""
        if self._held and not _STATE_DUMP.match(self._held):
            self._write(self._held)
        self._held = ""


def follow(client: JobClient, job: str, write: Callable[[str], object] | None = None) -> JobDetails:
    """Shows a job's log until the job ends.

    Args:
        client: Of the job server.
        job: Submission id.
        write: Takes pieces of the log; by default standard output.

    Returns:
        The job's details, with its last status.

    Raises:
        UserError: The cluster knows no such job.
        OSError: The server was away for too long; or another exception of :data:`jobs.job_client.LOST`.
    """
    shown = WithoutStateDump(write or _print)
    try:
        return asyncio.run(_follow(client, job, shown.write))
    finally:
        shown.flush()


async def _follow(client: JobClient, job: str, write: Callable[[str], object]) -> JobDetails:
    shown, pause, well = 0, PAUSE_SECONDS[0], time.monotonic()
    while True:
        try:
            info = _details(client, job)
            if not info.status.is_terminal():
                position = 0
                async with aclosing(_tail(client, job)) as pieces:
                    async for piece in pieces:
                        fresh = piece[max(0, shown - position) :]
                        position += len(piece)
                        shown = max(shown, position)
                        if fresh:
                            write(fresh)
                        pause, well = PAUSE_SECONDS[0], time.monotonic()
                info = _details(client, job)
            if info.status.is_terminal():
                _show_end(client, job, shown, write)
                return info
            well = time.monotonic()
        except LOST as error:
            if time.monotonic() - well > PATIENCE_SECONDS:
                raise
            log.warning("connection to the job server lost (%s); trying again in %.0f s", error, pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, PAUSE_SECONDS[1])


async def _tail(client: JobClient, job: str) -> AsyncGenerator[str, None]:
    """Gives the log from its beginning, until the job or the connection ends or there was silence for long."""
    async with aclosing(cast(AsyncGenerator[str, None], client.tail_job_logs(job))) as stream:
        while True:
            try:
                yield await asyncio.wait_for(anext(stream), SILENCE_SECONDS)
            except (StopAsyncIteration, TimeoutError):
                return
            except RuntimeError as error:
                raise Unwell(str(error)) from error


def _details(client: JobClient, job: str) -> JobDetails:
    info = client.find(job)
    if info is None:
        raise UserError(f"the cluster knows no job {job}; where its head was started anew, submit the command again")
    return info


def _show_end(client: JobClient, job: str, shown: int, write: Callable[[str], object]) -> None:
    # The tail also ends where the server loses its own connection to the log.
    try:
        write(client.get_job_logs(job)[shown:])
    except Refused as error:
        log.warning("the end of the job's log cannot be had: %s", error)


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
