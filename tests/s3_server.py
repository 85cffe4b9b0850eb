"""An S3 server for tests, spoken to over the network by the clients of production."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def s3_server(folder: Path) -> Iterator[dict[str, str]]:
    """Runs a server in its own process; gives the environment in which every client finds it, and sets it here.

    Args:
        folder: For its log.
    """
    output = folder / "s3-server.log"
    program = "from moto.server import main; main(['-p0', '-H127.0.0.1'])"
    with output.open("w") as log:
        server = subprocess.Popen([sys.executable, "-u", "-c", program], stdout=log, stderr=subprocess.STDOUT)
    try:
        environment = {
            "AWS_ENDPOINT_URL": _address(output),
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            yield environment
    finally:
        server.terminate()
        server.wait(timeout=10)


def _address(log: Path) -> str:
    deadline = time.monotonic() + 60
    while (found := re.search(r"Running on (http://\S+)", log.read_text())) is None:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    return found[1]
