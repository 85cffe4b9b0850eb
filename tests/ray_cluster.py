"""A Ray cluster of this machine as an administrator starts it: by ``ray start``, with the job server and a token."""

import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class RayCluster:
    """A running cluster.

    Attributes:
        address: URL of the job server.
        head: HOST:PORT that its nodes and ``--address`` know it by.
        token: That the cluster wants.
        folder: Of its sessions.
    """

    address: str
    head: str
    token: str
    folder: Path

    def job_log(self, job: str) -> str:
        """Reads the log of a job where the cluster keeps it."""
        return self._log(job).read_text()

    def has_job_log(self, job: str) -> bool:
        """Tells whether a job has begun."""
        return self._log(job).exists()

    def _log(self, job: str) -> Path:
        return self.folder / "session_latest/logs" / f"job-driver-{job}.log"


@contextmanager
def ray_cluster(cpus: int, environment: Mapping[str, str]) -> Iterator[RayCluster]:
    """Starts a cluster in processes of its own, and ends them.

    Args:
        cpus: Logical cores.
        environment: Of its processes, beside the token.

    Yields:
        The cluster.
    """
    # The paths of sockets may not be long.
    folder, token = Path(tempfile.mkdtemp(prefix="ray-")), secrets.token_hex(16)
    # Jobs find 'python' on the path, as in a cluster's image.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--port=0"]
    command += [
        "--dashboard-port=0",
        "--dashboard-agent-listen-port=0",
        f"--num-cpus={cpus}",
        f"--temp-dir={folder}",
        "--disable-usage-stats",
    ]
    with (folder / "start.log").open("w") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**environment, "PATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token},
            start_new_session=True,
        )
    try:
        address = _told(folder / "start.log", process, "RAY_API_SERVER_ADDRESS='(http://[^']+)'")
        head = _told(folder / "start.log", process, "--address='([^']+)'")
        yield RayCluster(address, head, token, folder)
    finally:
        root = psutil.Process(process.pid)
        own = [root, *root.children(recursive=True)]
        process.terminate()
        alive = psutil.wait_procs(own, timeout=5)[1]
        for child in alive:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(alive, timeout=10)
        shutil.rmtree(folder, ignore_errors=True)


def _told(log: Path, process: subprocess.Popen[bytes], pattern: str) -> str:
    deadline = time.monotonic() + 120
    while (found := re.search(pattern, log.read_text())) is None:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    return found[1]
