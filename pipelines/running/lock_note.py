"""The note that a command leaves in its output: who it is, and that it lives.

Object stores that have it write on condition that nobody else has written meanwhile, so that a command which was
suspended at any moment cannot write over another's note. Elsewhere what is there is compared first.
"""

import contextlib
import json
import os
import socket
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import obstore
import psutil
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, NotSupportedError, PreconditionError
from obstore.store import ObjectStore

from grepr_core.storage import Folder
from pipelines.running.run_files import LOCK_FILE
from pipelines.stores.object_store import is_object_store, open_store

if TYPE_CHECKING:
    from obstore import PutMode, UpdateVersion

#: Seconds for one request.
REQUEST_SECONDS = 10.0
#: Processes of one number that began further apart than this are two.
SAME_PROCESS_SECONDS = 5.0


@dataclass(frozen=True)
class Holder:
    """A command that holds an output. The defaults stand for one that cannot be told, of a note that is damaged.

    Attributes:
        machine: And the namespace in which its process numbers count.
        pid: Of its process.
        process_began: When, in seconds since the epoch.
        token: Its own.
        beat: Grows while it lives.
        ray_job: That it runs in, if it does.
    """

    machine: str = ""
    pid: int = 0
    process_began: float = 0.0
    token: str = ""
    beat: int = 0
    ray_job: str | None = None

    @classmethod
    def this(cls) -> Self:
        """Gives that of this process, by a new token."""
        return cls(_machine(), os.getpid(), psutil.Process().create_time(), uuid.uuid4().hex, ray_job=_ray_job())

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """Reads a note, of whatever version; what it lacks or has otherwise is left at its default."""
        try:
            record = json.loads(content)
        except ValueError:
            return cls()
        if not isinstance(record, dict):
            return cls()
        kinds: dict[str, type | tuple[type, ...]] = {"machine": str, "pid": int, "process_began": (int, float)}
        kinds |= {"token": str, "beat": int, "ray_job": str}
        return cls(**{name: record[name] for name, kind in kinds.items() if isinstance(record.get(name), kind)})

    def next_beat(self) -> Self:
        """Gives its next sign of life."""
        return replace(self, beat=self.beat + 1)

    def has_ended(self) -> bool:
        """Tells whether it is known to have ended, which only one of this machine is."""
        if self.machine != _machine():
            return False
        try:
            process = psutil.Process(self.pid)
            # The time comes out a little different when the clock has been set meanwhile.
            other = abs(process.create_time() - self.process_began) > SAME_PROCESS_SECONDS
            return other or process.status() == psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, ValueError):
            return True


class Note(NamedTuple):
    """A note as it was found.

    Attributes:
        content: All of it; changes with every sign of life.
        version: Of the object, where the store tells.
    """

    content: bytes
    version: "UpdateVersion | None" = None

    @property
    def holder(self) -> Holder:
        """Whose it is."""
        return Holder.parse(self.content)


class OvertakenError(Exception):
    """The note is not the one that was found any more."""


class NoteFile(Protocol):
    """Where the note of an output is."""

    def read(self) -> Note | None:
        """Reads it; gives None where there is none."""

    def write(self, holder: Holder, found: Note | None) -> None:
        """Puts a note in the place of the one that was found, or where none was.

        Raises:
            OvertakenError: Another is there now; not all storages tell.
        """

    def delete(self) -> None:
        """Deletes it."""


def open_note(folder: Folder) -> NoteFile:
    """Opens the note of an output."""
    if is_object_store(folder.url) and "//" not in folder.url.partition("://")[2]:
        store, key = open_store(f"{folder.url}/{LOCK_FILE}", folder.storage_options, timeout=REQUEST_SECONDS)
        return _NoteObject(store, key)
    return _PlainNote(folder)


class _PlainNote:
    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def read(self) -> Note | None:
        try:
            return Note(self._folder.read(LOCK_FILE))
        except FileNotFoundError:
            return None

    def write(self, holder: Holder, found: Note | None) -> None:
        self._folder.write(LOCK_FILE, _content(holder))

    def delete(self) -> None:
        self._folder.delete(LOCK_FILE)


class _NoteObject:
    def __init__(self, store: ObjectStore, key: str) -> None:
        self._store, self._key = store, key

    def read(self) -> Note | None:
        try:
            found = obstore.get(self._store, self._key)
            return Note(bytes(found.bytes()), _version(found.meta))
        except FileNotFoundError:
            return None

    def write(self, holder: Holder, found: Note | None) -> None:
        mode: PutMode = "create" if found is None else found.version or "overwrite"
        try:
            obstore.put(self._store, self._key, _content(holder), mode=mode)
        except (AlreadyExistsError, PreconditionError, NotFoundError) as error:
            raise OvertakenError from error
        except BaseError as error:
            # 501 Not Implemented, of servers that speak an older S3.
            if not isinstance(error, NotSupportedError) and "status code: 501" not in str(error):
                raise
            obstore.put(self._store, self._key, _content(holder))

    def delete(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            obstore.delete(self._store, self._key)


def _version(meta: Mapping[str, Any]) -> "UpdateVersion | None":
    known: Any = {name: meta[name] for name in ("e_tag", "version") if meta.get(name) is not None}
    return known or None


def _content(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()


def _machine() -> str:
    """Names the machine, and the namespace in which its process numbers count."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return "/".join(parts)


def _ray_job() -> str | None:
    """Gives the job that this process runs in, which Ray tells by the environment before it is connected to."""
    try:
        job: str | None = json.loads(os.environ["RAY_JOB_CONFIG_JSON_ENV_VAR"])["metadata"]["job_submission_id"]
    except (LookupError, ValueError, TypeError):
        return None
    return job
