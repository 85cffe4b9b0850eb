"""Whoever waits for a command hears of it."""

import subprocess
import sys

BUSY = """
import logging, sys, time
from jobs import cli, heartbeat
from pipelines.telling.activity import activity

def work(options):
    time.sleep(1.5)
    with activity("listing s3://key:SECRET@lake/photos"):
        time.sleep(1.5)
    for _ in range(30):
        print("a word", file=sys.stderr)
        time.sleep(0.05)

heartbeat.SILENCE = 1.0
cli.COMMANDS["demo"] = (cli.COMMANDS["demo"][0], work)
sys.argv = ["grepr", "demo", "out"]
cli.main()
"""


def test_silence_is_broken_by_what_is_under_way():
    done = subprocess.run([sys.executable, "-c", BUSY], capture_output=True, text=True, check=False)
    words = [line for line in done.stderr.splitlines() if line != "a word"]
    assert [word.partition(":")[0] for word in words[:2]] == ["at work", "listing s3"]
    assert any(word.endswith("@lake/photos: 1 s so far") for word in words), words
    assert "SECRET" not in done.stderr
    assert len(words) == 3, words
