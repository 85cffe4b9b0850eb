"""How many processes, threads and GPUs the machines of a Ray cluster carry."""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import ray

from grepr_core.errors import UserError
from pipelines.telling.words import counted

log = logging.getLogger(__name__)

#: What a scoring process needs beside its images: Python, Ray, PyTorch and the model.
WORKER_BYTES = 2 * 2**30
#: CPU cores beside each GPU of a node that is not there yet, as the smallest GPU machines have them.
CORES_A_GPU = 4
#: Parts of a GPU that Ray deals out. What it is asked for it rounds down to whole ones.
GPU_PARTS = 10_000


@dataclass(frozen=True)
class Node:
    """What a machine of a Ray cluster has for processes.

    Attributes:
        cpus: CPU cores; none on a head that does no work.
        gpus: GPUs, with a fraction where processes share one that is free in part.
        memory: Bytes, as Ray reckons them: what was free when Ray started there; 0 where Ray does not tell.
    """

    cpus: int
    gpus: float
    memory: int

    @classmethod
    def from_resources(cls, resources: Mapping[str, float]) -> Self:
        """Takes what matters here from what Ray says that a node has, or has free."""
        return cls(int(resources.get("CPU", 0)), resources.get("GPU", 0), int(resources.get("memory", 0)))

    def places(self, cpus: int, per_gpu: int, memory: int) -> int:
        """Counts the processes of some size that it holds at a time.

        Args:
            cpus: CPU cores of each, at least one.
            per_gpu: How many share a GPU; 0 where they take none.
            memory: Bytes of each.
        """
        most = self.cpus // cpus
        if per_gpu:
            # In whole parts, for fractions of Ray's do not add up to one.
            most = min(most, round(self.gpus * GPU_PARTS) // (GPU_PARTS // per_gpu))
        return min(most, self.memory // memory) if memory else most

    def __str__(self) -> str:
        gpus = f", {self.gpus:.3g} GPU{'' if self.gpus == 1 else 's'}" if self.gpus else ""
        return f"{counted(self.cpus, 'CPU core')}{gpus}, {self.memory / 2**30:.1f} GiB"


@dataclass(frozen=True)
class Workers:
    """The processes of a pool, all of one size.

    Attributes:
        count: How many Ray is asked for at the start: those that have a place now, or where the cluster adds nodes for
            those that wait, all that are wanted.
        cpus: CPU cores of each; also its number of threads that compute.
        per_gpu: How many share a GPU, 1 for one of its own; 0 where they take none.
        memory: Bytes that each asks Ray for, by which Ray chooses its node; 0 where Ray does not tell what nodes have.
        most: How many there may be as nodes join; None for as many as have a place.
    """

    count: int
    cpus: int
    per_gpu: int
    memory: int
    most: int | None = None

    @property
    def gpus(self) -> float:
        """GPUs of each. One that is shared is the same for all of its processes; Ray has none span two."""
        return 1 / self.per_gpu if self.per_gpu > 1 else self.per_gpu

    @property
    def request(self) -> dict[str, float]:
        """What each asks Ray for, as ``ray.remote`` takes it."""
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, "memory": self.memory}

    @property
    def bundle(self) -> dict[str, float]:
        """What each asks Ray for, as placement groups and Ray Train take it."""
        asked = {"CPU": float(self.cpus), "GPU": float(self.gpus), "memory": float(self.memory)}
        return {name: amount for name, amount in asked.items() if amount}

    def __str__(self) -> str:
        each = f"each on {_share(self.per_gpu)}" if self.per_gpu else f"each on {counted(self.cpus, 'CPU core')}"
        return f"{counted(self.count, 'process', 'processes')}, {each}"

    def places(self, nodes: Iterable[Node]) -> int:
        """Counts how many of them nodes hold, no more than there may be."""
        found = sum(node.places(self.cpus, self.per_gpu, self.memory) for node in nodes)
        return found if self.most is None else min(found, self.most)


def plan_workers(
    *,
    nodes: Sequence[Node],
    device: str = "auto",
    requested: int | None = None,
    option: str = "--workers",
    per_gpu: int = 1,
    autoscaling: bool = False,
    together: bool = False,
) -> Workers:
    """Divides a cluster among processes that score or train.

    One process a GPU, or as many as are asked for; they share the cores of their node for decoding. Without GPUs one
    process a core, since a network scores more images a second with one thread on each of N than with N threads on one,
    and fewer with more threads where memory is short. Threads times processes never exceed the cores of a node. The
    pool is the only part of a pipeline that holds a CPU, so it may hold all.

    Where more processes are asked for than the nodes of a cluster hold, those that have a place begin, and the others
    when nodes join. A single machine has no others to wait for, so there too many are refused, and memory, which is an
    estimate, keeps nobody from having as many as there are cores.

    Args:
        nodes: Of the cluster.
        device: ``auto``, ``cpu`` or ``cuda``.
        requested: Number of processes asked for.
        option: By which they were, for the message.
        per_gpu: Processes that share a GPU, where there are GPUs.
        autoscaling: Whether the cluster adds nodes for what it has not. Processes that wait for a node are its demand,
            which ends with them; those that have one begin without the others.
        together: Whether the processes can only begin together.

    Returns:
        The processes.

    Raises:
        UserError: The cluster has not what was asked for.
    """
    on_gpus = device == "cuda" or (device == "auto" and any(node.gpus for node in nodes))
    if per_gpu > 1 and not on_gpus:
        raise UserError(f"--processes-per-gpu {per_gpu}: the Ray cluster has no GPU; leave it out or add a GPU node")
    shared = per_gpu if on_gpus else 0
    usable = [node for node in nodes if node.cpus and (node.gpus or not on_gpus)]
    if per_gpu > 1 and (beside := cores_beside_a_gpu(usable)) and per_gpu > beside:
        raise UserError(
            f"--processes-per-gpu {per_gpu}: each needs a CPU core, and no node has more than {beside} beside a GPU; "
            f"ask for {beside} or fewer"
        )
    memory = _memory(usable)
    limit = sum(node.places(1, shared, 0) for node in usable)
    if autoscaling and requested is not None and requested > _places(usable, 1, shared, memory):
        # Those that are there are the best guess at those that will come.
        beside = min([CORES_A_GPU, *(int(node.cpus / node.gpus) for node in usable)]) if on_gpus else 1
        cpus = max(1, beside // per_gpu)
        return Workers(requested, cpus, shared, memory, requested)
    if not limit:
        raise UserError(_nothing(nodes, device, on_gpus) + _growing(option))
    fixed = together or len(nodes) == 1
    if fixed and requested is not None:
        if requested > limit:
            what = "CPU cores" if not on_gpus else "GPUs" if per_gpu == 1 else "shares of GPUs"
            raise UserError(
                f"{option} {requested} needs as many {what}, but Ray has {counted(limit, 'place')} for such a process "
                f"(the largest node: {_largest(usable)}); ask for fewer{_growing(option)}"
            )
        memory = next(size for size in _sizes(usable, memory) if _places(usable, 1, shared, size) >= requested)
    places = _places(usable, 1, shared, memory)
    count = min(places, requested or places)
    cpus = next(n for n in range(_largest(usable).cpus, 0, -1) if _places(usable, n, shared, memory) >= count)
    return Workers(count, cpus, shared, memory, requested)


def cluster_workers(
    device: str,
    requested: int | None,
    *,
    option: str = "--workers",
    per_gpu: int = 1,
    autoscaling: bool = False,
    together: bool = False,
) -> Workers:
    """Plans the processes for the Ray cluster that is connected; see :func:`plan_workers`."""
    workers = plan_workers(
        nodes=cluster_nodes(),
        device=device,
        requested=requested,
        option=option,
        per_gpu=per_gpu,
        autoscaling=autoscaling,
        together=together,
    )
    if workers.most is not None and workers.count < workers.most:
        log.info("%d of %d processes have a place now; the others begin when nodes join", workers.count, workers.most)
    return workers


def cluster_nodes() -> list[Node]:
    """Lists the nodes of the Ray cluster that is connected, with all that they have, be it in use or not."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [Node.from_resources(node["Resources"]) for node in nodes if node["Alive"]]


def cores_beside_a_gpu(nodes: Iterable[Node]) -> int:
    """Counts the CPU cores beside each GPU, rounded up, on the node that has most; 0 where no node has a GPU."""
    return max((math.ceil(node.cpus / node.gpus) for node in nodes if node.gpus), default=0)


def _places(nodes: Sequence[Node], cpus: int, per_gpu: int, memory: int) -> int:
    return sum(node.places(cpus, per_gpu, memory) for node in nodes)


def _memory(nodes: Sequence[Node]) -> int:
    """Gives the bytes to ask for: less than a process needs where no node has them, since one has to run anyway."""
    return min(WORKER_BYTES, max((node.memory for node in nodes), default=WORKER_BYTES))


def _sizes(nodes: Sequence[Node], memory: int) -> Iterator[int]:
    """Gives bytes to ask for, the most first, at which nodes hold more and more processes, in the end one a core."""
    shares = {node.memory // count for node in nodes for count in range(1, node.cpus + 1)}
    yield from sorted({memory} | {share for share in shares if share < memory}, reverse=True)


def _largest(nodes: Sequence[Node]) -> Node:
    return max(nodes, key=lambda node: (node.cpus, node.gpus, node.memory))


def _nothing(nodes: Sequence[Node], device: str, on_gpus: bool) -> str:
    """Says why there is no place for any process."""
    if not on_gpus or not any(node.cpus for node in nodes):
        return "the Ray cluster has no CPU to work on; add a worker node"
    if any(node.gpus for node in nodes):
        return "no node with a GPU has a CPU core for its processes; use --device cpu, or give these nodes cores"
    return f"--device {device}: the Ray cluster has no GPU; use --device cpu or add a GPU node"


def _growing(option: str) -> str:
    return f", or, where the cluster adds nodes by itself, for {option} N --autoscaling"


def _share(per_gpu: int) -> str:
    return "a GPU" if per_gpu == 1 else f"a {per_gpu}th of a GPU" if per_gpu > 3 else f"1/{per_gpu} of a GPU"
