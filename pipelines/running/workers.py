"""How many processes, threads and GPUs the machines of a Ray cluster carry."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray

from grepr_core.errors import UserError

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
