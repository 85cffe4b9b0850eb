"""One command at a time on an output.

A note in the folder names the command that is writing there, and changes every few seconds while it lives. Another
command looks whether it changes, so clocks need not agree; that of a process of this machine which has ended is known
to be stale at once. No store need offer locks for it. What a race would cost is only work done twice: shards are
written whole, and the same from whichever process.
"""

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import psutil

from grepr_core.errors import UserError
from grepr_core.storage import Folder, is_local

log = logging.getLogger(__name__)

LOCK_FILE = "run.lock"
#: Seconds from one sign of life to the next.
BEAT_SECONDS = 5.0
#: A note that has not changed for so long is of a command that was killed.
PATIENCE_SECONDS = 6 * BEAT_SECONDS
#: Two commands that begin at one time see the same empty place; after this pause one finds the other's note.
SETTLE_SECONDS = {True: 0.1, False: 1.0}

#: Processes of one number that began further apart than this are two.
SAME_PROCESS_SECONDS = 5.0


@dataclass(frozen=True)
class _Holder:
    machine: str
    pid: int
    process_began: float
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    beat: int = 0


class RunLock:
    """Held by the command that is writing to an output."""

    def __init__(self, folder: Folder, holder: _Holder) -> None:
        self._folder = folder
        self._holder = holder
        self._lost = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="run-lock", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Makes sure of being the only one.

        Raises:
            UserError: Another command has taken the output over, because this one seemed dead.
        """
        if self._lost:
            raise UserError(f"{self._folder.url}: another command has taken this output over; this one stops")

    def release(self) -> None:
        """Ends the note."""
        self._stop.set()
        self._thread.join()
        if not self._lost:
            self._folder.delete(LOCK_FILE)

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            # A store that is away for a while costs a beat, no more.
            with contextlib.suppress(Exception):
                found = _read(self._folder)
                if found is not None and found.token != self._holder.token:
                    self._lost = True
                    return
                self._holder = replace(self._holder, beat=self._holder.beat + 1)
                _write(self._folder, self._holder)


@contextlib.contextmanager
def run_lock(folder: Folder) -> Iterator[RunLock]:
    """Keeps an output for one command.

    Args:
        folder: The output.

    Yields:
        The lock; to be checked now and then.

    Raises:
        UserError: Another command is writing there, or it cannot be written to.
    """
    mine = _Holder(_machine(), os.getpid(), psutil.Process().create_time())
    try:
        if (found := _read(folder)) is not None and not _has_ended(found):
            _wait_until_stale(folder, found)
        _write(folder, mine)
    except OSError as error:
        raise UserError(f"{folder.url}: cannot be written to: {error.strerror or error}") from error
    time.sleep(SETTLE_SECONDS[is_local(folder.url)])
    found = _read(folder)
    if found is not None and found.token != mine.token:
        raise _busy(folder, found)
    lock = RunLock(folder, mine)
    try:
        yield lock
    finally:
        lock.release()


def _wait_until_stale(folder: Folder, found: _Holder) -> None:
    log.info("%s: seeing for %d seconds whether an earlier command still lives", folder.url, PATIENCE_SECONDS)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(BEAT_SECONDS / 5)
        now = _read(folder)
        if now is None:
            return
        if now != found:
            raise _busy(folder, now)


def _busy(folder: Folder, holder: _Holder) -> UserError:
    where = holder.machine.partition("/")[0]
    return UserError(
        f"{folder.url}: another command (process {holder.pid} on {where}) is writing to it; wait for its end, or name "
        "another output"
    )


def _machine() -> str:
    """Names the machine, and the namespace in which its process numbers count."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return "/".join(parts)


def _has_ended(holder: _Holder) -> bool:
    if holder.machine != _machine():
        return False
    try:
        process = psutil.Process(holder.pid)
        # The time comes out a little different when the clock has been set meanwhile.
        other = abs(process.create_time() - holder.process_began) > SAME_PROCESS_SECONDS
        return other or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _read(folder: Folder) -> _Holder | None:
    try:
        return folder.read_record(LOCK_FILE, _Holder)
    except FileNotFoundError:
        return None


def _write(folder: Folder, holder: _Holder) -> None:
    folder.write(LOCK_FILE, json.dumps(asdict(holder)).encode())
