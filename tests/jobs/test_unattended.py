"""What KubeRay runs: exit codes that no second attempt mends become 0, all else ends as grepr itself does."""

import signal
import subprocess
import sys

import pytest

from jobs import cli, unattended

#: Stands for a command at work, which says when it may be disturbed.
AT_WORK = """
import signal
from jobs import cli, unattended

def work(options):
    print("at work", flush=True)
    signal.pause()

cli.COMMANDS["score"] = (cli.COMMANDS["score"][0], work)
# A job in a shell's background ignores interrupts, and so would its children.
signal.signal(signal.SIGINT, signal.default_int_handler)
unattended.main(["score", "photos", "scores"])
"""


@pytest.mark.parametrize(
    ("code", "ends_with", "last"),
    [(0, 0, ""), (1, 1, ""), (2, 0, "wrong usage"), (3, 0, "more images failed"), (130, 130, ""), (137, 137, "")],
)
def test_only_what_no_attempt_mends_ends_with_0(
    code: int, ends_with: int, last: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(cli, "main", lambda arguments: sys.exit(code))
    with pytest.raises(SystemExit) as ended:
        unattended.main(["score"])
    assert ended.value.code == ends_with
    told = capsys.readouterr().err
    assert told.count("\n") == bool(last)
    assert last in told
    assert (f"exit code {code}" in told) == bool(last)


def test_wrong_usage_is_told_before_the_last_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    # The command line moves the descriptor, which in these tests is pytest's.
    monkeypatch.setattr(cli, "_mute_libraries", lambda: None)
    with pytest.raises(SystemExit) as ended:
        unattended.main(["score", "photos", "scores", "--workers", "0"])
    assert ended.value.code == 0
    told = capsys.readouterr()
    assert "--workers must be at least 1" in told.out + told.err
    assert told.err.splitlines()[-1].startswith("grepr: exit code 2: wrong usage.")


@pytest.mark.parametrize(
    ("sent", "ends_with"), [(signal.SIGTERM, 130), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_signals_reach_the_command(sent: signal.Signals, ends_with: int):
    with subprocess.Popen([sys.executable, "-c", AT_WORK], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"at work\n"
        process.send_signal(sent)
        try:
            told = process.communicate(timeout=60)[1].decode()
        finally:
            process.kill()
    assert process.returncode == ends_with
    assert "ends with 0" not in told
