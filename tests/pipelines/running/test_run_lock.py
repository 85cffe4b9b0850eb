import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from grepr_core.errors import UserError
from grepr_core.storage import Folder
from pipelines.running import run_lock as module
from pipelines.running.run_lock import LOCK_FILE, run_lock


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
        with pytest.raises(UserError, match=rf"process {os.getpid()} on {socket.gethostname()}"), run_lock(folder):
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
    with pytest.raises(UserError, match="process 1 on elsewhere"), run_lock(Folder(str(tmp_path))):
        pass
    beat.join()


def test_a_command_that_was_taken_for_dead_stops(tmp_path: Path):
    with run_lock(Folder(str(tmp_path))) as lock:
        write_note(tmp_path)
        time.sleep(1.0)
        with pytest.raises(UserError, match="taken this output over"):
            lock.check()
    assert "theirs" in (tmp_path / LOCK_FILE).read_text()  # and stays theirs


def test_an_output_that_cannot_be_written_to(tmp_path: Path):
    (tmp_path / "file").touch()
    output = Folder(str(tmp_path / "file" / "out"))
    with pytest.raises(UserError, match="cannot be written to: Not a directory"), run_lock(output):
        pass
