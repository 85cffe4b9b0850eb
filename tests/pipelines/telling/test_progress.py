"""What is shown of long work, on terminals and off them."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

from pipelines.telling.activity import activity, still, under_way
from pipelines.telling.progress import Progress

AT_WORK = """
from pipelines.telling.progress import Progress
shown = Progress(2000, what="encoding pristine photographs", unit="photo")
for _ in range(20):
    shown.update(100, 1)
shown.close()
"""


def test_a_log_has_lines(capsys: pytest.CaptureFixture[str]):
    shown = Progress(200, 50)
    assert still() == "scoring: 50 of 200 images (25 %), 0 s"
    shown.update(50, 2)
    told = still()
    assert told is not None
    assert told.startswith("scoring: 100 of 200 images (50 %), ")
    assert told.endswith(" left, 2 failed")
    shown.update(100, 0)
    shown.close()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("scoring: 200 of 200 images (100 %), ")
    assert still() is None


def test_a_number_that_is_not_known_is_not_told(capsys: pytest.CaptureFixture[str]):
    shown = Progress(0, what="reading", unit="row")
    shown.update(1, 0)
    shown.close()
    assert capsys.readouterr().err.startswith("reading: 1 row, ")


def test_the_innermost_is_what_is_told():
    with activity("listing photos/", lambda: "7 images found"), under_way(lambda: "within"):
        assert still() == "within"
    with activity("listing photos/", lambda: "7 images found"):
        assert still() == "listing photos/: 0 s so far, 7 images found"


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_a_bar_fits_its_terminal(columns: int):
    there, here = pty.openpty()
    fcntl.ioctl(here, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen([sys.executable, "-c", AT_WORK], stderr=here)
    os.close(here)
    written = b""
    try:
        while piece := os.read(there, 4096):
            written += piece
    except OSError:  # the other side is closed
        pass
    assert process.wait() == 0
    os.close(there)
    frames = [frame.strip() for frame in written.decode().replace("\n", "\r").split("\r")]
    assert max(map(len, frames)) <= columns
    assert any("100%" in frame and "2000/2000" in frame for frame in frames)


def test_a_terminal_that_is_closed_ends_nothing():
    there, here = pty.openpty()
    program = "import os; from jobs.streams import outlive_readers; outlive_readers(); os.read(0, 1)" + AT_WORK
    program += "print('done')"
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=here, text=True
    )
    os.close(here)
    os.close(there)
    out, _ = process.communicate("x", timeout=60)
    assert (process.returncode, out) == (0, "done\n")
