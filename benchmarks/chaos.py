"""Runs of one lake that are disturbed at a random moment, each repeated until it is done; their rows must be the same.

Every run scores the same photos from S3 to S3 into a place of its own, and meets one of these at a random moment
between its start and its end:

- ``driver``: kill -9 of the command
- ``interrupt``: Ctrl-C
- ``actor``: kill -9 of a scoring process
- ``node``: kill -9 of the raylet of one of three nodes of a Ray cluster
- ``store``: kill -9 of the S3 server, which is started again 5 seconds later

Then the same command is run again until it ends well. Lost, doubled and differing rows are counted against a run that
nothing disturbed. The S3 server is s3rver (npm install --global s3rver), which keeps its objects on disk.

Example: python -m benchmarks.chaos --runs 100
"""

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow as pa
import s3fs
from ray.cluster_utils import Cluster

from grepr_core.storage import Folder
from pipelines.scoring.score_table import read_scores
from tests.lake import grepr, jpeg, photo

KINDS = ("driver", "interrupt", "actor", "node", "store")
STORE_AWAY_SECONDS = 5.0
#: About the time from the start of a scoring process to its end.
SCORING_SECONDS = 10.0
MOST_REPEATS = 6
NODES = 3


class Store:
    """An S3 server in a process of its own, on one port from life to life."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("s3rver")
        if program is None:
            sys.exit("chaos: needs s3rver on the path; npm install --global s3rver")
        self._command = [program, "-d", str(folder / "data"), "-a", "127.0.0.1"]
        self._log = folder / "s3rver.log"
        (folder / "data").mkdir()
        self._port = 0
        self._start()
        os.environ |= {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
            "AWS_ACCESS_KEY_ID": "S3RVER",
            "AWS_SECRET_ACCESS_KEY": "S3RVER",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def _start(self) -> None:
        with self._log.open("w") as log:
            command = [*self._command, "-p", str(self._port)]
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        while (found := re.search(r" on [0-9.]+:([0-9]+)", self._log.read_text())) is None:
            time.sleep(0.1)
        self._port = int(found[1])

    def disturb(self) -> None:
        self.kill()
        time.sleep(STORE_AWAY_SECONDS)
        self._start()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def keep_up(self) -> None:
        """Starts the server again if it died of itself, as a supervisor would.

        An object written into a folder whose last one is being deleted can do that to it.
        """
        if self._process.poll() is not None:
            print(f"the S3 server ended by itself with {self._process.returncode}", flush=True)
            print(self._log.read_text()[-2000:], flush=True)
            self._start()


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        for _ in range(NODES - 1):
            made.add_node(num_cpus=1)
        yield made
    finally:
        made.shutdown()


def kill_node(where: Cluster) -> None:
    """Kills the raylet of a node that is not the head, and puts another node in its place."""
    node = next(node for node in where.list_all_nodes() if not node.head)
    os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)
    where.remove_node(node, allow_graceful=False)
    where.add_node(num_cpus=1)


def scoring_processes(command: int) -> list[psutil.Process]:
    """The scoring processes of a command that has started Ray itself."""
    found = []
    for process in psutil.Process(command).children(recursive=True):
        try:
            name = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if "ShardScorer" in name:
            found.append(process)
    return found


def disturb(kind: str, process: "subprocess.Popen[str]", store: Store, where: Cluster | None) -> bool:
    """Disturbs a run; tells whether there was something to disturb."""
    match kind:
        case "driver":
            process.kill()
        case "interrupt":
            process.send_signal(signal.SIGINT)
        case "actor":
            while not (found := scoring_processes(process.pid)):
                if process.poll() is not None:
                    return False
                time.sleep(0.1)
            time.sleep(random.uniform(0, SCORING_SECONDS))
            with contextlib.suppress(psutil.NoSuchProcess):
                random.choice(found).kill()
                return process.poll() is None
            return False
        case "node":
            assert where is not None
            kill_node(where)
        case "store":
            store.disturb()
    return True


def start(output: str, where: Cluster | None, workers: int = 1) -> "subprocess.Popen[str]":
    address = ["--address", where.address] if where is not None else []
    return grepr("score", "s3://lake/photos", output, "--shard-size", "4", "--workers", str(workers), *address)


def run_to_end(output: str, where: Cluster | None, store: Store) -> int:
    """Runs the command until it ends well; gives how often that was."""
    for attempt in range(1, MOST_REPEATS + 1):
        store.keep_up()
        process = start(output, where)
        _, err = process.communicate(timeout=600)
        if process.returncode == 0:
            return attempt
    raise RuntimeError(f"{output}: still not done after {MOST_REPEATS} times: {err}")


def rows_of(output: str) -> pa.Table:
    return read_scores(Folder(output))


def differences(expected: pa.Table, found: pa.Table) -> Counter[str]:
    wanted, got = expected["image_id"].to_pylist(), found["image_id"].to_pylist()
    counts: Counter[str] = Counter(lost=len(set(wanted) - set(got)), doubled=len(got) - len(set(got)))
    counts["differing"] = int(not counts.total() and not found.equals(expected))
    return counts


def chaos(runs: int, seed: int, photos: int, kinds: list[str]) -> Counter[str]:
    """Disturbs runs and prints a line for each.

    Args:
        runs: How many.
        seed: Of the moments.
        photos: In the lake.
        kinds: Of disturbance, in turn.

    Returns:
        Lost and doubled rows, and tables that differ otherwise, over all runs.
    """
    random.seed(seed)
    total: Counter[str] = Counter(lost=0, doubled=0, differing=0)
    with tempfile.TemporaryDirectory() as temporary:
        store = Store(Path(temporary))
        where = None
        try:
            fs = s3fs.S3FileSystem()
            for bucket in ("lake", "scores"):
                fs.mkdir(bucket)
            for i in range(photos):
                fs.pipe_file(f"lake/photos/{i:04d}.jpg", jpeg(photo(i)))
            fs.pipe_file("lake/photos/broken.jpg", b"not an image")
            began = time.monotonic()
            run_to_end("s3://scores/undisturbed", None, store)
            duration = time.monotonic() - began
            expected = rows_of("s3://scores/undisturbed")
            print(f"undisturbed: {len(expected)} rows in {duration:.1f} s", flush=True)
            with cluster() if "node" in kinds else contextlib.nullcontext() as made:
                for run in range(runs):
                    kind = kinds[run % len(kinds)]
                    where = made if kind == "node" else None
                    output = f"s3://scores/run-{run}"
                    process = start(output, where, workers=2 if kind == "actor" else 1)
                    moment = 0.0 if kind == "actor" else random.uniform(0, duration)
                    time.sleep(moment)
                    in_time = process.poll() is None and disturb(kind, process, store, where)
                    process.communicate(timeout=600)
                    repeats = run_to_end(output, where, store)
                    store.keep_up()
                    found = differences(expected, rows_of(output))
                    total.update(found)  # where adding would drop zeros
                    total["in_time"] += in_time
                    said = "" if in_time else " (nothing there to disturb)"
                    print(f"run {run}: {kind} after {moment:.1f} s{said}, {repeats} more: {dict(found)}", flush=True)
        finally:
            store.kill()
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--photos", type=int, default=60)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    options = parser.parse_args()
    total = chaos(options.runs, options.seed, options.photos, options.kinds)
    print(json.dumps({"runs": options.runs, "disturbed in time": total.pop("in_time", 0), **total}))
    sys.exit(1 if total["lost"] or total["doubled"] or total["differing"] else 0)


if __name__ == "__main__":
    main()
