import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.scoring.watchdog import EXIT_CODE

PROGRAM = """
import ctypes, os, signal, time
from pipelines.scoring.watchdog import Watchdog
dog = Watchdog(0.5)
{}
"""


def run(program: str) -> tuple[int, str, float]:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(program)], capture_output=True, text=True, timeout=100, check=False
    )
    return done.returncode, done.stdout, time.monotonic() - began


def test_a_process_that_hangs_is_ended_after_its_last_words():
    code, out, seconds = run("dog.arm(lambda: print('row 7', flush=True)); time.sleep(60)")
    assert (code, out) == (EXIT_CODE, "row 7\n")
    assert seconds < 50


def test_native_code_that_holds_the_interpreter_is_ended_too():
    # PyDLL calls with the interpreter's lock held, so that no other thread of Python can run.
    code, _, seconds = run("dog.arm(int); ctypes.PyDLL(None).sleep(60)")
    assert code == -signal.SIGALRM
    assert seconds < 50


@pytest.mark.parametrize("program", ["for _ in range(6): dog.arm(int); time.sleep(0.2)", "dog.arm(int)"])
def test_a_process_that_gets_on_is_left_alone(program: str):
    assert run(program + "\ndog.disarm(); time.sleep(1.5); print('alive')")[:2] == (0, "alive\n")


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are told by /proc")
def test_no_image_costs_a_thread():
    program = """
before = set(os.listdir('/proc/self/task'))
for _ in range(20): dog.arm(int); assert set(os.listdir('/proc/self/task')) == before; dog.disarm()
"""
    assert run(program)[0] == 0


def test_a_process_that_is_suspended_while_it_waits_goes_on():
    program = PROGRAM.format("dog.arm(int); dog.disarm(); os.kill(os.getpid(), signal.SIGSTOP); print('alive')")
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        os.waitpid(process.pid, os.WUNTRACED)
        time.sleep(1.2)  # more than twice what an image may take
        process.send_signal(signal.SIGCONT)
        assert (process.communicate(timeout=50)[0], process.returncode) == ("alive\n", 0)
