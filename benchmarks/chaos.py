"""Runs of one lake that are disturbed at a random moment, each repeated until it is done; their rows must be the same.

Every run scores the same photos from S3 to S3 into a place of its own, on a Ray cluster of two nodes and a head that
does no work, and meets one of these at a random moment between its start and its end:

- ``driver``: kill -9 of the command
- ``interrupt``: Ctrl-C
- ``actor``: kill -9 of a scoring process
- ``store``: kill -9 of the S3 server, which is started again 5 seconds later
- ``model``: an exception in the model, at a random image
- ``start``: a scoring process whose start fails
- ``unread``: the S3 server answers 503 for some seconds while scoring processes read the model from it
- ``suspend``: a scoring process or the command is suspended for 60 seconds
- ``node``: kill -9 of the raylet of a node, and another in its place
- ``join``: a node joins the cluster
- ``unlike``: likewise ``node``, but the other has three cores and a GPU, as far as Ray knows

Then the same command is run again until it ends well. Lost, doubled and differing rows are counted against a run that
nothing disturbed. The S3 server is s3rver (npm install --global s3rver), which keeps its objects on disk.

Example: python -m benchmarks.chaos --runs 150
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
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import s3fs
from ray._private.node import Node
from ray.cluster_utils import Cluster

import grepr_core.bundles
from grepr_core.storage import Folder
from pipelines.scoring.score_table import read_scores
from tests.fault_proxy import FaultProxy, fault_proxy
from tests.lake import grepr, jpeg, photo

KINDS = ("driver", "interrupt", "actor", "store", "model", "start", "unread", "suspend", "node", "join", "unlike")
#: Those that begin when the faults that are in place take effect, or when there is a scoring process.
IN_PROCESS = ("actor", "suspend", "unread", "model", "start")
STORE_AWAY_SECONDS = 5.0
SUSPENDED_SECONDS = 60.0
#: About the time from the start of a scoring process to its end.
SCORING_SECONDS = 10.0
MOST_REPEATS = 6
NODES = 2
MODEL = "s3://models/grepr-lite"


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
            "AWS_ENDPOINT_URL": self.address,
            "AWS_ACCESS_KEY_ID": "S3RVER",
            "AWS_SECRET_ACCESS_KEY": "S3RVER",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}"

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
        """Starts the server again if it died of itself, as a supervisor would."""
        if self._process.poll() is not None:
            print(f"the S3 server ended by itself with {self._process.returncode}", flush=True)
            print(self._log.read_text()[-2000:], flush=True)
            self._start()


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        restore(made)
        yield made
    finally:
        made.shutdown()


def workers(where: Cluster) -> list[Node]:
    return [node for node in where.list_all_nodes() if not node.head]


def restore(where: Cluster) -> None:
    """Makes the cluster what it was before a run."""
    for node in workers(where):
        if node.get_resource_and_label_spec().num_cpus != 1 or len(workers(where)) > NODES:
            where.remove_node(node)
    while len(workers(where)) < NODES:
        where.add_node(num_cpus=1)


def scoring_processes() -> list[psutil.Process]:
    """The scoring processes of the cluster, which are this process's."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "ShardScorer" in " ".join(process.cmdline()):
                found.append(process)
    return found


def wait_for_one(command: "subprocess.Popen[str]") -> psutil.Process | None:
    """Gives a scoring process at a random moment of its life; none where the command has ended meanwhile."""
    while not (found := scoring_processes()):
        if command.poll() is not None:
            return None
        time.sleep(0.1)
    time.sleep(random.uniform(0, SCORING_SECONDS))
    return random.choice(found) if command.poll() is None else None


@dataclass
class Place:
    """What can be disturbed beside the command."""

    store: Store
    proxy: FaultProxy
    faults: Path
    cluster: Cluster


def disturb(kind: str, process: "subprocess.Popen[str]", place: Place) -> bool:
    """Disturbs a run; tells whether there was something to disturb."""
    where = place.cluster
    match kind:
        case "driver":
            process.kill()
        case "interrupt":
            process.send_signal(signal.SIGINT)
        case "store":
            place.store.disturb()
        case "actor":
            return _signal(wait_for_one(process), signal.SIGKILL)
        case "suspend":
            return suspend(process)
        case "model" | "start":
            process.wait()
            return not (place.faults / kind).exists()
        case "unread":
            return keep_model_back(process, place.proxy)
        case "join":
            where.add_node(num_cpus=1)
        case "node" | "unlike":
            node = random.choice(workers(where))
            os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)
            where.remove_node(node, allow_graceful=False)
            where.add_node(**({"num_cpus": 1} if kind == "node" else {"num_cpus": 3, "num_gpus": 1}))
    return True


def suspend(process: "subprocess.Popen[str]") -> bool:
    chosen = wait_for_one(process)
    if random.random() < 1 / 2 and process.poll() is None:
        chosen = psutil.Process(process.pid)
    if not _signal(chosen, signal.SIGSTOP):
        return False
    time.sleep(SUSPENDED_SECONDS)
    return _signal(chosen, signal.SIGCONT)


def keep_model_back(process: "subprocess.Popen[str]", proxy: FaultProxy) -> bool:
    while process.poll() is None and not scoring_processes():
        time.sleep(0.1)
    proxy.share = 1.0
    while process.poll() is None and not proxy.counts:
        time.sleep(0.1)
    time.sleep(random.uniform(0, 8))
    proxy.share = 0.0
    return proxy.counts.total() > 0


def _signal(process: psutil.Process | None, number: signal.Signals) -> bool:
    try:
        if process is not None:
            process.send_signal(number)
    except psutil.NoSuchProcess:
        return False
    return process is not None


def start(kind: str, output: str, where: Cluster) -> "subprocess.Popen[str]":
    # An object written into a folder while its last one is deleted ends s3rver.
    s3fs.S3FileSystem().pipe_file(f"{output.removeprefix('s3://')}/in-progress/keep", b"")
    # Without a number, as many as the cluster holds.
    size = [] if kind in ("actor", "node", "join", "unlike") else ["--workers", "1"]
    model = ["--model", MODEL] if kind == "unread" else []
    options = ["--shard-size", "4", "--device", "cpu", "--address", where.address]
    return grepr("score", "s3://lake/photos", output, *options, *size, *model)


def run_to_end(kind: str, output: str, where: Cluster, store: Store) -> int:
    """Runs the command until it ends well; gives how often that was."""
    for attempt in range(1, MOST_REPEATS + 1):
        store.keep_up()
        process = start(kind, output, where)
        _, err = process.communicate(timeout=900)
        if process.returncode == 0:
            return attempt
        print(f"  ended with {process.returncode}: {err.strip().splitlines()[-1:]}", flush=True)
    raise RuntimeError(f"{output}: still not done after {MOST_REPEATS} times: {err}")


def rows_of(output: str) -> pa.Table:
    return read_scores(Folder(output))


def differences(expected: pa.Table, found: pa.Table) -> Counter[str]:
    wanted, got = expected["image_id"].to_pylist(), found["image_id"].to_pylist()
    counts: Counter[str] = Counter(lost=len(set(wanted) - set(got)), doubled=len(got) - len(set(got)))
    counts["differing"] = int(not counts.total() and not found.equals(expected))
    return counts


def chaos(runs: int, seed: int, photos: int, kinds: list[str]) -> dict[str, Counter[str]]:
    """Disturbs runs and prints a line for each.

    Args:
        runs: How many.
        seed: Of the moments.
        photos: In the lake.
        kinds: Of disturbance, in turn.

    Returns:
        For each kind: runs, those disturbed in time, commands that were needed, lost and doubled rows, and tables that
        differ otherwise.
    """
    random.seed(seed)
    # Drawn before all else, so that a seed gives the same moments whatever else is drawn.
    moments = [random.random() for _ in range(runs)]
    totals = {kind: Counter(runs=0, in_time=0, commands=0, lost=0, doubled=0, differing=0) for kind in kinds}
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        store = Store(Path(temporary))
        stack.callback(store.kill)
        faults = Path(temporary, "faults")
        faults.mkdir()
        proxy = stack.enter_context(fault_proxy(store.address))
        proxy.kinds, proxy.only = ("slow_down",), "GET /models/"
        os.environ |= {
            "AWS_ENDPOINT_URL": proxy.address,
            "PYTHONPATH": str(Path(__file__).parent / "chaos_faults"),
            "GREPR_CHAOS": str(faults),
            "RAY_prestart_worker_first_driver": "0",  # processes that no run would use
            "RAY_worker_niceness": "0",
        }
        fill(photos)
        where = stack.enter_context(cluster())
        began = time.monotonic()
        run_to_end("", "s3://scores/undisturbed", where, store)
        duration = time.monotonic() - began
        expected = rows_of("s3://scores/undisturbed")
        print(f"undisturbed: {len(expected)} rows in {duration:.1f} s", flush=True)
        for run, share in enumerate(moments):
            kind, output = kinds[run % len(kinds)], f"s3://scores/run-{run}"
            if kind in ("model", "start"):
                (faults / kind).touch()
            proxy.counts.clear()
            process = start(kind, output, where)
            moment = 0.0 if kind in IN_PROCESS else share * duration
            time.sleep(moment)
            in_time = process.poll() is None and disturb(kind, process, Place(store, proxy, faults, where))
            process.communicate(timeout=900)
            commands = 1 if process.returncode == 0 else 1 + run_to_end(kind, output, where, store)
            store.keep_up()
            (faults / kind).unlink(missing_ok=True)
            restore(where)
            found = differences(expected, rows_of(output))
            # update, where adding would drop zeros
            totals[kind].update(Counter(runs=1, in_time=int(in_time), commands=commands) + found)
            said = "" if in_time else " (nothing there to disturb)"
            print(f"run {run}: {kind} after {moment:.1f} s{said}, {commands} commands: {dict(found)}", flush=True)
    return totals


def fill(photos: int) -> None:
    """Puts the lake and a model into the store."""
    fs = s3fs.S3FileSystem()
    for bucket in ("lake", "scores", "models"):
        fs.mkdir(bucket)
    for i in range(photos):
        fs.pipe_file(f"lake/photos/{i:04d}.jpg", jpeg(photo(i)))
    fs.pipe_file("lake/photos/broken.jpg", b"not an image")
    for file in (Path(grepr_core.bundles.__file__).parent / "grepr-lite").iterdir():
        fs.put_file(str(file), f"{MODEL.removeprefix('s3://')}/{file.name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--photos", type=int, default=60)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    options = parser.parse_args()
    totals = chaos(options.runs, options.seed, options.photos, options.kinds)
    for kind, total in totals.items():
        print(f"{kind:10} {dict(total)}")
    whole = sum(totals.values(), Counter())
    print(json.dumps({name: whole[name] for name in ("runs", "in_time", "commands", "lost", "doubled", "differing")}))
    sys.exit(1 if whole["lost"] or whole["doubled"] or whole["differing"] else 0)


if __name__ == "__main__":
    main()
