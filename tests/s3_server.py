"""An S3 server for tests, spoken to over the network by the clients of production."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import s3fs

from pipelines.stores.object_store import _open

#: Independent implementations: moto's, which comes with the development tools, and s3rver of npm, which also checks
#: signatures and is used where its program is on the path.
SERVERS = ("moto", "s3rver")
#: What whole commands are tested with; GREPR_ALL_S3_SERVERS=1 has them run with each.
ALL = SERVERS if "GREPR_ALL_S3_SERVERS" in os.environ else ()


@contextmanager
def s3_server(folder: Path, server: str = "moto") -> Iterator[dict[str, str]]:
    """Runs a server in its own process; gives the environment in which every client finds it, and sets it here.

    Args:
        folder: For its log and data.
        server: One of :data:`SERVERS`; the test is skipped where it is not there.
    """
    output = folder / "s3-server.log"
    if server == "moto":
        program = "from moto.server import main; main(['-p0', '-H127.0.0.1'])"
        command, key, secret = [sys.executable, "-u", "-c", program], "test", "a-secret-of-the-test"
    else:
        if (path := shutil.which(server)) is None:
            pytest.skip(f"no {server} on the path; npm install --global {server}")
        (folder / "data").mkdir()
        command, key, secret = [path, "-d", str(folder / "data"), "-a", "127.0.0.1", "-p", "0"], "S3RVER", "S3RVER"
    with output.open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        environment = {
            "AWS_ENDPOINT_URL": _address(output),
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            # Clients that were opened in this process for another server know no better.
            s3fs.S3FileSystem.clear_instance_cache()
            _open.cache_clear()
            yield environment
    finally:
        process.terminate()
        process.wait(timeout=10)


def _address(log: Path) -> str:
    deadline = time.monotonic() + 60
    # "Running on http://host:port", says one; "listening on host:port" the other.
    while (found := re.search(r" on (?:http://)?([0-9.]+:[0-9]+)", log.read_text())) is None:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    return f"http://{found[1]}"
