"""The note that a command leaves in its output: who it is, and that it lives.

A command that was suspended at any moment cannot harm another's note. Object stores that have it write on condition
that nobody else has written meanwhile. Local files are made exclusively, changed in place by their own command alone,
and renamed before they are deleted. Elsewhere what is there is compared first.
"""

import contextlib
import errno
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

from grepr_core.storage import Folder, is_local
from pipelines.running.run_files import LOCK_FILE
from pipelines.stores.object_store import is_object_store, open_store

if TYPE_CHECKING:
    from obstore import PutMode, UpdateVersion

#: Seconds for one request.
REQUEST_SECONDS = 10.0
#: Processes of one number that began further apart than this are two.
SAME_PROCESS_SECONDS = 5.0
#: What a file system says that has no hard links.
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


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
        released: Whether it has ended and left its note.
    """

    machine: str = ""
    pid: int = 0
    process_began: float = 0.0
    token: str = ""
    beat: int = 0
    ray_job: str | None = None
    released: bool = False

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
        kinds |= {"token": str, "beat": int, "ray_job": str, "released": bool}
        return cls(**{name: record[name] for name, kind in kinds.items() if isinstance(record.get(name), kind)})

    def next_beat(self) -> Self:
        """Gives its next sign of life."""
        return replace(self, beat=self.beat + 1)

    def has_ended(self) -> bool:
        """Tells whether it is known to have ended, as it said itself or, of this machine, is found."""
        if self.released:
            return True
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

    def release(self, found: Note) -> None:
        """Ends the note that was found, which is this command's: deletes it, or says in it that the command has ended.

        Raises:
            OvertakenError: As :meth:`write` does.
        """


def open_note(folder: Folder) -> NoteFile:
    """Opens the note of an output."""
    if is_object_store(folder.url) and "//" not in folder.url.partition("://")[2]:
        store, key = open_store(f"{folder.url}/{LOCK_FILE}", folder.storage_options, timeout=REQUEST_SECONDS)
        return _NoteObject(store, key)
    return _LocalNote(Path(folder.path(LOCK_FILE))) if is_local(folder.url) else _PlainNote(folder)


class _LocalNote:
    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Note | None:
        try:
            return Note(self._path.read_bytes())
        except FileNotFoundError:
            return None

    def write(self, holder: Holder, found: Note | None) -> None:
        if found is not None and found.holder.token == holder.token:
            self._change(holder)
            return
        if found is not None:
            self._take_away(found)
        self._create(_content(holder))

    def release(self, found: Note) -> None:
        self._take_away(found)

    def _change(self, holder: Holder) -> None:
        try:
            with self._path.open("r+b", buffering=0) as file:
                # Of the very file that is written to: another command puts one of its own in its place.
                if Holder.parse(file.read()).token != holder.token:
                    raise OvertakenError
                file.seek(0)
                file.write(_content(holder))  # never shorter, since only the beat grows
        except FileNotFoundError as error:
            raise OvertakenError from error

    def _take_away(self, found: Note) -> None:
        aside = self._aside()
        try:
            self._path.rename(aside)
        except FileNotFoundError as error:
            raise OvertakenError from error
        try:
            if (content := aside.read_bytes()) != found.content:
                self._create(content)
                raise OvertakenError
        finally:
            aside.unlink()

    def _create(self, content: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        whole = self._aside()
        try:
            whole.write_bytes(content)
            self._path.hardlink_to(whole)
        except FileExistsError as error:
            raise OvertakenError from error
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            self._create_in_place(content)
        finally:
            whole.unlink(missing_ok=True)

    def _create_in_place(self, content: bytes) -> None:
        try:
            with self._path.open("xb") as file:
                file.write(content)
        except FileExistsError as error:
            raise OvertakenError from error

    def _aside(self) -> Path:
        # The leading dot hides what a crash leaves behind.
        return self._path.with_name(f".grepr-{uuid.uuid4().hex}")


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

    def release(self, found: Note) -> None:
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

    def release(self, found: Note) -> None:
        # Stores delete without conditions.
        self.write(replace(found.holder, released=True), found)


def _version(meta: Mapping[str, Any]) -> "UpdateVersion | None":
    known: Any = {name: meta[name] for name in ("e_tag", "version") if meta.get(name) is not None}
    return known or None


def _content(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()


def _machine() -> str:
    """Names the machine, and the namespace in which its process numbers count."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return "/".join(parts)


def _ray_job() -> str | None:
    """Gives the job that this process runs in, which Ray tells by the environment before it is connected to."""
    try:
        job: str | None = json.loads(os.environ["RAY_JOB_CONFIG_JSON_ENV_VAR"])["metadata"]["job_submission_id"]
    except (LookupError, ValueError, TypeError):
        return None
    return job
