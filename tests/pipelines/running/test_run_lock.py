import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.exceptions import GenericError
from obstore.store import MemoryStore

from grepr_core.errors import Unavailable, UserError
from grepr_core.storage import Folder
from pipelines.running import run_lock as module
from pipelines.running.lock_note import Holder, Note, NoteFile, OvertakenError, _LocalNote, _NoteObject, open_note
from pipelines.running.run_files import LOCK_FILE
from pipelines.running.run_lock import RunLock, run_lock
from tests.s3_server import s3_server


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 1.0)


def test_nothing_is_left_behind(tmp_path: Path):
    with run_lock(Folder(str(tmp_path / "out"))) as lock:
        assert (tmp_path / "out" / LOCK_FILE).exists()
        lock.check()
    assert list((tmp_path / "out").iterdir()) == []


def test_a_second_command_is_refused_with_the_first_ones_name(tmp_path: Path):
    folder = Folder(str(tmp_path))
    with run_lock(folder):
        with pytest.raises(Unavailable, match=rf"process {os.getpid()} on {socket.gethostname()}"), run_lock(folder):
            pass
        assert (tmp_path / LOCK_FILE).exists()


def test_of_two_that_begin_together_one_goes_on(tmp_path: Path):
    folder, held, refused = Folder(str(tmp_path)), [], []
    both = threading.Barrier(2)

    def take() -> None:
        both.wait()
        try:
            with run_lock(folder):
                held.append(1)
                time.sleep(2)
        except UserError:
            refused.append(1)

    threads = [threading.Thread(target=take) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 1)


def test_a_killed_command_of_this_machine_is_forgotten_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program = f"""
import os, signal
from grepr_core.storage import Folder
from pipelines.running.run_lock import run_lock
with run_lock(Folder({str(tmp_path)!r})):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    assert (tmp_path / LOCK_FILE).exists()
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 1000.0)
    with run_lock(Folder(str(tmp_path))):
        pass


def write_note(folder: Path, **changes: object) -> None:
    note = {"machine": "elsewhere", "pid": 1, "process_began": 0.0, "token": "theirs", "beat": 0} | changes
    (folder / LOCK_FILE).write_text(json.dumps(note))


def test_a_killed_command_of_another_machine_is_waited_for(tmp_path: Path):
    write_note(tmp_path)
    began = time.monotonic()
    with run_lock(Folder(str(tmp_path))):
        assert time.monotonic() - began >= 1.0


def test_a_living_command_of_another_machine_is_noticed(tmp_path: Path):
    write_note(tmp_path)
    beat = threading.Timer(0.5, write_note, (tmp_path,), {"beat": 1})
    beat.start()
    with pytest.raises(Unavailable, match="process 1 on elsewhere"), run_lock(Folder(str(tmp_path))):
        pass
    beat.join()


def test_a_command_that_was_taken_for_dead_stops(tmp_path: Path):
    with run_lock(Folder(str(tmp_path))) as lock:
        write_note(tmp_path)
        time.sleep(1.0)
        with pytest.raises(Unavailable, match="taken this output over"):
            lock.check()
    assert "theirs" in (tmp_path / LOCK_FILE).read_text()  # and stays theirs


def test_an_output_that_cannot_be_written_to(tmp_path: Path):
    (tmp_path / "file").touch()
    output = Folder(str(tmp_path / "file" / "out"))
    with pytest.raises(UserError, match="cannot be written to: Not a directory") as raised, run_lock(output):
        pass
    assert not isinstance(raised.value, Unavailable)


def test_a_busy_output_names_the_ray_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # As Ray sets it for the process of a job.
    job = {"runtime_env": {}, "metadata": {"job_submission_id": "grepr-score-20260101-abc"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    with run_lock(Folder(str(tmp_path))):
        monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR")
        names = (
            rf"\(Ray job grepr-score-20260101-abc, process {os.getpid()} on .*'ray job stop grepr-score-20260101-abc'"
        )
        with pytest.raises(Unavailable, match=names), run_lock(Folder(str(tmp_path))):
            pass


NOTES = (
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff",
    b"{}",
    b'{"machine": 5, "pid": "x", "token": null}',
    json.dumps({"machine": "elsewhere", "pid": 1, "process_began": 0, "token": "t", "beat": 0, "new": 1}).encode(),
)


@pytest.mark.parametrize("content", NOTES)
def test_a_note_that_is_damaged_or_of_another_version_is_waited_for_like_any(tmp_path: Path, content: bytes):
    (tmp_path / LOCK_FILE).write_bytes(content)
    with run_lock(Folder(str(tmp_path))) as lock:
        lock.check()
    assert not (tmp_path / LOCK_FILE).exists()


def test_a_damaged_note_that_changes_is_of_a_living_command(tmp_path: Path):
    (tmp_path / LOCK_FILE).write_bytes(b"{")
    change = threading.Timer(0.5, (tmp_path / LOCK_FILE).write_bytes, (b"[",))
    change.start()
    with pytest.raises(Unavailable, match="another command is writing to it"), run_lock(Folder(str(tmp_path))):
        pass
    change.join()


def test_a_note_that_is_written_late_is_written_over_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder, written = Folder(str(tmp_path)), threading.Event()
    write = _LocalNote.write

    def write_late(note: _LocalNote, holder: Holder, found: Note | None) -> None:
        if threading.current_thread().name == "late" and found is None:
            written.wait()
        write(note, holder, found)

    monkeypatch.setattr(_LocalNote, "write", write_late)
    refused: list[Unavailable] = []

    def take() -> None:
        try:
            with run_lock(folder):
                pass
        except Unavailable as error:
            refused.append(error)

    late = threading.Thread(target=take, name="late")
    late.start()
    with run_lock(folder) as lock:
        written.set()
        late.join()
        lock.check()
    assert f"process {os.getpid()}" in str(refused[0])
    assert list(tmp_path.iterdir()) == []


THEIRS = Holder("elsewhere", 1, 0.0, "theirs")


def local_note(folder: Path) -> _LocalNote:
    return _LocalNote(folder / LOCK_FILE)


def stored_note(_: Path) -> _NoteObject:
    return _NoteObject(MemoryStore(), "out/run.lock")


@pytest.mark.parametrize("place", [local_note, stored_note])
def test_no_note_but_the_one_that_was_found_is_touched(place: Callable[[Path], NoteFile], tmp_path: Path):
    note, mine = place(tmp_path), Holder(token="mine")
    note.write(mine, None)
    seen = note.read()
    assert seen is not None
    note.write(THEIRS, seen)
    for late in (
        lambda: note.release(seen),
        lambda: note.write(mine.next_beat(), seen),
        lambda: note.write(Holder(token="third"), seen),
        lambda: note.write(Holder(token="third"), None),
    ):
        with pytest.raises(OvertakenError):
            late()
        now = note.read()
        assert now is not None
        assert now.holder == THEIRS
    note.write(THEIRS.next_beat(), now)
    now = note.read()
    assert now is not None
    assert now.holder == THEIRS.next_beat()
    note.release(now)
    now = note.read()
    assert now is None or now.holder.has_ended()
    note.write(mine, now)
    assert [path.name for path in tmp_path.iterdir()] in ([], [LOCK_FILE])


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    test_no_note_but_the_one_that_was_found_is_touched(local_note, tmp_path)


# --- Suspended ------------------------------------------------------------------------------------------------------

HOLD = """
import sys
from grepr_core.errors import Unavailable
from grepr_core.storage import Folder
from pipelines.running import run_lock as module
module.BEAT_SECONDS, module.PATIENCE_SECONDS = {beat}, 1.0
with module.run_lock(Folder(sys.argv[1])) as lock:
    print("holds", flush=True)
    input()
    try:
        lock.check()
        print("goes on", flush=True)
    except Unavailable as error:
        print(error, flush=True)
"""


# A beat that never comes stands for a main thread that is faster than the other when both wake.
@pytest.mark.parametrize("beat", [0.1, 1000.0])
@pytest.mark.parametrize("ended", [False, True])
def test_a_command_that_wakes_after_another_has_taken_over_stops(tmp_path: Path, beat: float, ended: bool):
    command = [sys.executable, "-c", HOLD.format(beat=beat), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as suspended:
        assert suspended.stdin is not None
        assert suspended.stdout is not None
        assert suspended.stdout.readline() == "holds\n"
        suspended.send_signal(signal.SIGSTOP)
        with contextlib.ExitStack() as other:
            lock = other.enter_context(run_lock(Folder(str(tmp_path))))
            if ended:
                other.close()
            suspended.send_signal(signal.SIGCONT)
            assert "taken this output over" in suspended.communicate("\n", timeout=60)[0]
            if not ended:
                lock.check()
                assert (tmp_path / LOCK_FILE).exists()  # it has not deleted the other's


def test_a_command_that_wakes_in_time_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "BEAT_SECONDS", 1000.0)
    with run_lock(Folder(str(tmp_path))) as lock:
        before = (tmp_path / LOCK_FILE).read_bytes()
        monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.0)
        lock.check()
        assert (tmp_path / LOCK_FILE).read_bytes() != before  # so that nobody takes over just now


class Memory:
    """A note on condition; ``between`` happens after the next reading of it."""

    def __init__(self) -> None:
        self.content: bytes | None = None
        self.between = lambda: None

    def read(self) -> Note | None:
        found = None if self.content is None else Note(self.content)
        between, self.between = self.between, lambda: None
        between()
        return found

    def write(self, holder: Holder, found: Note | None) -> None:
        if self.content != (None if found is None else found.content):
            raise OvertakenError
        self.content = json.dumps({"token": holder.token, "beat": holder.beat}).encode()

    def release(self, found: Note) -> None:
        if self.content != found.content:
            raise OvertakenError
        self.content = None


def test_a_command_suspended_between_looking_and_writing_does_not_write_over_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.0)
    note, mine = Memory(), Holder(token="mine")
    note.write(mine, None)
    theirs = b'{"token": "theirs"}'
    note.between = lambda: setattr(note, "content", theirs)
    lock = RunLock(Folder(str(tmp_path)), note, mine)
    with pytest.raises(Unavailable, match="taken this output over"):
        lock.check()
    lock.release()
    assert note.content == theirs


def test_a_command_suspended_between_looking_and_releasing_leaves_the_others_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    release = _LocalNote.release

    def release_late(note: _LocalNote, found: Note) -> None:
        write_note(tmp_path)
        release(note, found)

    monkeypatch.setattr(_LocalNote, "release", release_late)
    with run_lock(Folder(str(tmp_path))):
        pass
    assert "theirs" in (tmp_path / LOCK_FILE).read_text()


def test_a_lock_that_cannot_be_asked_for_stops_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    note, mine = Memory(), Holder(token="mine")
    note.write(mine, None)
    lock = RunLock(Folder(str(tmp_path)), note, mine)

    def fail() -> Note:
        raise ConnectionError("away")

    monkeypatch.setattr(note, "read", fail)
    lock.check()  # the last sign of life was a moment ago
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.0)
    with pytest.raises(Unavailable, match=r"cannot be asked .*: away"):
        lock.check()
    lock.release()  # a store that is away ends no command


def test_a_write_that_was_done_twice_since_its_answer_got_lost_is_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    note, mine = Memory(), Holder(token="mine")
    note.write(mine, None)
    lock = RunLock(Folder(str(tmp_path)), note, mine)
    write = note.write

    def write_twice(holder: Holder, found: Note | None) -> None:
        write(holder, found)
        write(holder, found)

    monkeypatch.setattr(note, "write", write_twice)
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.0)
    lock.check()
    lock.release()
    assert note.content is None


def test_a_store_without_conditions_is_written_to_without(monkeypatch: pytest.MonkeyPatch):
    store, modes, put = MemoryStore(), [], obstore.put

    def refuse_conditions(*arguments: Any, mode: str | None = None) -> None:
        modes.append(mode)
        if mode is not None:
            raise GenericError("Server returned non-2xx status code: 501 Not Implemented")
        put(*arguments)

    monkeypatch.setattr(obstore, "put", refuse_conditions)
    note = _NoteObject(store, "out/run.lock")
    note.write(Holder(token="mine"), None)
    assert modes == ["create", None]
    found = note.read()
    assert found is not None
    assert found.holder.token == "mine"


@pytest.mark.s3
@pytest.mark.parametrize("server", ["moto", "s3rver"])
def test_on_a_store(tmp_path: Path, server: str):
    with s3_server(tmp_path, server):
        folder = Folder("s3://lake/out")
        folder.fs.mkdir("lake")
        with run_lock(folder) as lock:
            lock.check()
            with pytest.raises(Unavailable, match=f"process {os.getpid()}"), run_lock(folder):
                pass
            note = open_note(folder)
            found = note.read()
            assert found is not None
            assert found.holder.pid == os.getpid()
        released = note.read()
        assert released is not None
        assert released.holder.has_ended()
        with run_lock(folder):  # at once
            pass
        if server == "s3rver":  # which knows no conditions
            return
        mine, other = Holder(token="mine"), Holder(token="other")
        note.write(mine, note.read())
        seen = note.read()
        with pytest.raises(OvertakenError):
            note.write(other, None)
        note.write(other, seen)
        with pytest.raises(OvertakenError):
            note.write(mine, seen)
        now = note.read()
        assert now is not None
        assert now.holder == other
