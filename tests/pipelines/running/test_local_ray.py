"""Starting Ray on a machine that is too busy, or whose temporary folder has a long path."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private.node import Node

from grepr_core.errors import Unavailable, UserError
from pipelines.running import local_ray
from pipelines.running.local_ray import session_folder, start_ray

LATE = "The current node timed out during startup. This could happen because some of the raylet failed to startup"
Starts = Callable[..., list[dict[str, Any]]]
ROOT = Path(__file__).parents[3]


@pytest.fixture
def init(monkeypatch: pytest.MonkeyPatch) -> Iterator[Starts]:
    """Has Ray fail to start with one exception after another, each time leaving a process behind, before it starts."""
    processes: list[subprocess.Popen[bytes]] = []

    def failing(*errors: Exception) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []

        def init(**options: Any) -> None:
            calls.append(options)
            assert all(process.poll() is not None for process in processes), "processes of an attempt before"
            processes.append(subprocess.Popen(["sleep", "600"]))
            if len(calls) <= len(errors):
                raise errors[len(calls) - 1]

        monkeypatch.setattr("ray.init", init)
        monkeypatch.setattr("ray.shutdown", lambda: None)
        return calls

    yield failing
    for process in processes:
        process.kill()
        process.wait()


def test_a_start_that_takes_too_long_is_tried_again(init: Starts, caplog: pytest.LogCaptureFixture):
    calls = init(Exception(LATE), RuntimeError("Failed to start GCS.  Last 0 lines of error files:"))
    start_ray()
    assert len(calls) == 3
    assert all(call["address"] == "local" for call in calls)
    assert "trying again (2 of 3)" in caplog.text
    assert "trying again (3 of 3)" in caplog.text


def test_what_nobody_looks_at_is_not_started(monkeypatch: pytest.MonkeyPatch):
    made: list[type[Node]] = []
    monkeypatch.setattr("ray.init", lambda **_: made.append(ray._private.node.Node))
    start_ray()
    (kind,) = made
    assert issubclass(kind, Node)
    for name in ("start_api_server", "start_monitor", "start_log_monitor"):  # as Ray names them
        assert getattr(kind, name) is not getattr(Node, name)
    assert ray._private.node.Node is Node


def test_a_machine_that_is_too_busy_is_told_in_words(init: Starts):
    calls = init(*[Exception(LATE)] * 3)
    with pytest.raises(Unavailable, match=r"did not start in 3 attempts.* too busy.* same command goes on") as refusal:
        start_ray()
    assert LATE in str(refusal.value)
    assert len(calls) == 3


def test_what_another_attempt_does_not_mend_is_not_tried_again(init: Starts):
    calls = init(OSError(28, "No space left on device"))
    with pytest.raises(OSError, match="No space left"):
        start_ray()
    assert len(calls) == 1


def long_folder(folder: Path) -> str:
    """Gives a path as clusters of universities have it."""
    return str(folder / ("x" * 120))


def test_a_long_temporary_folder_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/var/tmp")
    assert session_folder() is None  # as Ray does it
    monkeypatch.setenv("TMPDIR", long_folder(tmp_path))
    assert session_folder() == "/tmp/ray"
    monkeypatch.setattr(local_ray, "USUAL_FOLDER", str(tmp_path / "not-there"))
    with pytest.raises(UserError, match=r"set RAY_TMPDIR to a folder .* at most 39 letters"):
        session_folder()


def test_a_folder_that_was_asked_for_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_TMPDIR", long_folder(tmp_path))
    with pytest.raises(UserError, match=f"^{long_folder(tmp_path)}: too long a path"):
        session_folder()
    monkeypatch.setenv("RAY_TMPDIR", "/" + "x" * 38)
    assert session_folder() is None


@pytest.mark.slow
def test_ray_starts_where_the_temporary_folder_has_a_long_path(tmp_path: Path):
    program = "import ray\nfrom pipelines.running.session import ray_session\nwith ray_session(): print(ray.nodes())"
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_TMPDIR")}
    (tmp_path / ("x" * 120)).mkdir()
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**environment, "TMPDIR": long_folder(tmp_path)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "'Alive': True" in ended.stdout
