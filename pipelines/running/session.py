"""Starting Ray for a command, and how many processes its machines carry."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import ray

from grepr_core.errors import UserError
from pipelines.running.cores import available_cores

#: What a scoring process on the CPU needs beside its images: Python, Ray, PyTorch and the model.
WORKER_BYTES = 2 * 2**30
#: CPU cores beside each GPU of a node that is not there yet, as the smallest GPU machines have them.
CORES_A_GPU = 4


@dataclass(frozen=True)
class Workers:
    """The processes of an actor pool.

    Attributes:
        count: How many.
        cpus: CPU cores of each; also its number of threads that compute.
        gpus: GPUs of each, 0 or 1.
    """

    count: int
    cpus: int
    gpus: int


def plan_workers(
    *,
    node_cpus: Sequence[int],
    gpus: int,
    memory: int,
    device: str = "auto",
    requested: int | None = None,
    option: str = "--workers",
    autoscaling: bool = False,
) -> Workers:
    """Divides a cluster among scoring processes.

    One process a GPU, which shares the cores among them for decoding; without GPUs one process a core, since a network
    scores more images a second with one thread on each of N than with N threads on one. Threads times processes never
    exceed the cores, and no process is larger than fits a node beside the others. The pool is the only operator of the
    pipeline that holds a CPU, so it may hold all.

    Args:
        node_cpus: CPU cores of each node of the cluster.
        gpus: GPUs of the cluster.
        memory: Bytes of memory of the cluster.
        device: ``auto``, ``cpu`` or ``cuda``.
        requested: Number of processes asked for.
        option: By which they were, for the message.
        autoscaling: Whether the cluster adds nodes for what it has not. Processes that wait for a node are its demand,
            which ends with them; those that have one begin without the others.

    Returns:
        The processes.

    Raises:
        UserError: The cluster has not what was asked for.
    """
    cpus = sum(node_cpus)
    if autoscaling and requested is not None:
        use_gpus = device == "cuda" or (gpus > 0 and device == "auto")
        if requested > (gpus if use_gpus else cpus):
            return Workers(requested, CORES_A_GPU if use_gpus else 1, int(use_gpus))
    if cpus < 1:
        raise UserError(f"the Ray cluster has no CPU to work on; add a worker node{_growing(option)}")
    use_gpus = gpus > 0 and device != "cpu"
    if device == "cuda" and not use_gpus:
        raise UserError(
            f"--device cuda: the Ray cluster has no GPU; use --device cpu or add a GPU node{_growing(option)}"
        )
    limit, what = (gpus, "GPU") if use_gpus else (cpus, "CPU core")
    if requested is not None and requested > limit:
        raise UserError(
            f"{option} {requested} needs as many {what}s, but Ray has {limit}; ask for fewer{_growing(option)}"
        )
    fitting = limit if use_gpus else max(1, min(limit, memory // WORKER_BYTES))
    count = requested or fitting
    sizes = range(max(node_cpus), 0, -1)
    cpus_each = next((size for size in sizes if sum(n // size for n in node_cpus) >= count), 1)
    return Workers(count, cpus_each, int(use_gpus))


def _growing(option: str) -> str:
    return f", or, where the cluster adds nodes by itself, for {option} N --autoscaling"


def cluster_address(address: str | None = None) -> str | None:
    """Gives the address of the cluster to use: the one named, or, in a Ray job, that of the cluster it runs on."""
    return address or os.environ.get("RAY_ADDRESS")


@contextlib.contextmanager
def ray_session(address: str | None = None) -> Iterator[None]:
    """Connects to Ray, or starts it on this machine; leaves or stops it at the end.

    A Ray that is connected already, as in a Ray job or a test, is used and left as it is.

    Args:
        address: Of a cluster; None takes the one that this process is a job of, or else starts one here, without
            dashboard.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray").setLevel(logging.ERROR)
    on_termination = signal.getsignal(signal.SIGTERM)
    if (address := cluster_address(address)) is None:
        ray.init(
            address="local",  # not a cluster that happens to run on this machine
            num_cpus=available_cores(),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=_object_store_bytes(),
        )
    else:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    if threading.current_thread() is threading.main_thread():
        # Ray puts a handler of its own in place, which ends the process with 15 as exit code.
        signal.signal(signal.SIGTERM, on_termination)
    try:
        yield
    finally:
        ray.shutdown()


def _object_store_bytes() -> int:
    # Only shard numbers and summaries pass through the object store, so the memory is the models'.
    return min(200 * 2**20, psutil.virtual_memory().total // 8)


def cluster_workers(
    device: str, requested: int | None, *, option: str = "--workers", autoscaling: bool = False
) -> Workers:
    """Plans the processes for the Ray cluster that is connected; see :func:`plan_workers`."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    resources: list[dict[str, float]] = [node["Resources"] for node in nodes if node["Alive"]]
    return plan_workers(
        node_cpus=[int(node.get("CPU", 0)) for node in resources],
        gpus=int(sum(node.get("GPU", 0) for node in resources)),
        memory=int(sum(node.get("memory", 0) for node in resources)),
        device=device,
        requested=requested,
        option=option,
        autoscaling=autoscaling,
    )
