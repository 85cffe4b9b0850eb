"""One command at a time on an output.

A note in the folder names the command that is writing there, and changes every few seconds while it lives. Another
command looks whether it changes, so clocks need not agree; that of a process of this machine which has ended is known
to be stale at once, and so is one that says that its command has ended, as it stays in stores. No store need offer
locks for it. What a race would cost is only work done twice: shards are written whole, and the same from whichever
process.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator

from grepr_core.decoding.images import Status
from grepr_core.decoding.read_errors import failure_from_exception
from grepr_core.errors import Unavailable, UserError
from grepr_core.storage import Folder, is_local
from pipelines.running.lock_note import Holder, Note, NoteFile, OvertakenError, open_note
from pipelines.stores.object_store import STORE_ERRORS, reason

log = logging.getLogger(__name__)

#: Seconds from one sign of life to the next.
BEAT_SECONDS = 5.0
#: A note that has not changed for so long is of a command that was killed.
PATIENCE_SECONDS = 6 * BEAT_SECONDS
#: Where a note cannot be made exclusively, two commands that begin at one time see the same empty place; after this
#: pause one finds the other's note.
SETTLE_SECONDS = 1.0
#: Goes on while the machine sleeps, where the system has such a clock.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class RunLock:
    """Held by the command that is writing to an output."""

    def __init__(self, folder: Folder, note: NoteFile, holder: Holder) -> None:
        self._folder = folder
        self._note = note
        self._holder = holder
        self._lost = False
        self._renewed = time.clock_gettime(_CLOCK)
        self._renewing = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="run-lock", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Makes sure of being the only one.

        A command that was suspended for as long as another waits asks the storage itself.

        Raises:
            Unavailable: Another command has taken the output over, because this one seemed dead, or whether one has
                cannot be told.
        """
        if self._silent():
            try:
                self._renew()
            except STORE_ERRORS as error:
                raise Unavailable(
                    f"{self._folder.url}: cannot be asked whether another command has taken it over: {reason(error)}; "
                    "the same command again goes on"
                ) from error
        if self._lost:
            raise Unavailable(f"{self._folder.url}: another command has taken this output over; this one stops")

    def release(self) -> None:
        """Ends the note, if it is still this command's."""
        self._stop.set()
        self._thread.join()
        try:
            found = self._note.read()
            if found is not None and found.holder.token == self._holder.token:
                self._note.release(found)
        except OvertakenError:
            log.warning("%s: another command has taken this output over", self._folder.url)
        except STORE_ERRORS as error:
            log.warning("%s: the note of this command stays there for a while: %s", self._folder.url, reason(error))

    def _silent(self) -> bool:
        return time.clock_gettime(_CLOCK) - self._renewed > PATIENCE_SECONDS

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_SECONDS) and not self._lost:
            # A store that is away for a while costs a beat, no more.
            with contextlib.suppress(Exception):
                self._renew()

    def _renew(self) -> None:
        """Gives a sign of life, unless another command has taken the output over."""
        with self._renewing:
            found = self._note.read()
            # One that took it over after a long silence may have ended already.
            if self._lost or (self._silent() if found is None else found.holder.token != self._holder.token):
                self._lost = True
                return
            self._holder = self._holder.next_beat()
            try:
                self._note.write(self._holder, found)
            except OvertakenError:
                # Or the answer to a write got lost, and it was done twice.
                found = self._note.read()
                self._lost = found is None or found.holder.token != self._holder.token
            self._renewed = time.clock_gettime(_CLOCK)


@contextlib.contextmanager
def run_lock(folder: Folder) -> Iterator[RunLock]:
    """Keeps an output for one command.

    Args:
        folder: The output.

    Yields:
        The lock; to be checked now and then, and before what only one command may write.

    Raises:
        Unavailable: Another command is writing there, or the storage does not answer.
        UserError: It cannot be written to.
    """
    mine = Holder.this()
    try:
        note = open_note(folder)
        if (found := note.read()) is not None and not found.holder.has_ended():
            found = _wait_until_stale(folder, note, found)
        with contextlib.suppress(OvertakenError):  # whose note is read next
            note.write(mine, found)
        time.sleep(0 if is_local(folder.url) else SETTLE_SECONDS)
        found = note.read()
    except STORE_ERRORS as error:
        said = (isinstance(error, OSError) and error.strerror) or reason(error)
        passing = failure_from_exception(error).status == Status.TIMEOUT
        raise (Unavailable if passing else UserError)(f"{folder.url}: cannot be written to: {said}") from error
    if found is None or found.holder.token != mine.token:
        raise _busy(folder, found)
    lock = RunLock(folder, note, mine)
    try:
        yield lock
    finally:
        lock.release()


def _wait_until_stale(folder: Folder, note: NoteFile, found: Note) -> Note | None:
    log.info("%s: seeing for %d seconds whether an earlier command still lives", folder.url, PATIENCE_SECONDS)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(BEAT_SECONDS / 5)
        now = note.read()
        if now is None:
            return None
        if now.content != found.content:
            raise _busy(folder, now)
    return found


def _busy(folder: Folder, found: Note | None) -> Unavailable:
    holder = Holder() if found is None else found.holder
    job = f"Ray job {holder.ray_job}" if holder.ray_job else None
    process = f"process {holder.pid} on {holder.machine.partition('/')[0]}" if holder.machine else None
    names = ", ".join(name for name in (job, process) if name)
    stop = f"stop it with 'ray job stop {holder.ray_job}', " if holder.ray_job else ""
    return Unavailable(
        f"{folder.url}: another command{f' ({names})' if names else ''} is writing to it; wait for its end, {stop}or "
        "name another output"
    )
