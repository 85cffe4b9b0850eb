"""How many processes, threads and GPUs the machines of a Ray cluster carry."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import ray

from grepr_core.errors import UserError

log = logging.getLogger(__name__)

#: What a scoring process needs beside its images: Python, Ray, PyTorch and the model.
WORKER_BYTES = 2 * 2**30
#: CPU cores beside each GPU of a node that is not there yet, as the smallest GPU machines have them.
CORES_A_GPU = 4


@dataclass(frozen=True)
class Node:
    """What a machine of a Ray cluster has for processes.

    Attributes:
        cpus: CPU cores; none on a head that does no work.
        gpus: GPUs.
        memory: Bytes, as Ray reckons them: what was free when Ray started there; 0 where Ray does not tell.
    """

    cpus: int
    gpus: int
    memory: int

    @classmethod
    def from_resources(cls, resources: Mapping[str, float]) -> Self:
        """Takes what matters here from what Ray says that a node has, or has free."""
        return cls(*(int(resources.get(name, 0)) for name in ("CPU", "GPU", "memory")))

    def places(self, cpus: int, gpus: int, memory: int) -> int:
        """Counts the processes of some size, in CPU cores of at least one, GPUs and bytes, that it holds at a time."""
        most = self.cpus // cpus
        if gpus:
            most = min(most, self.gpus // gpus)
        return min(most, self.memory // memory) if memory else most

    def __str__(self) -> str:
        gpus = f", {_number(self.gpus, 'GPU')}" if self.gpus else ""
        return f"{_number(self.cpus, 'CPU core')}{gpus}, {self.memory / 2**30:.1f} GiB"


@dataclass(frozen=True)
class Workers:
    """The processes of a pool, all of one size.

    Attributes:
        count: How many Ray is asked for at the start: those that have a place now, or where the cluster adds nodes for
            those that wait, all that are wanted.
        cpus: CPU cores of each; also its number of threads that compute.
        gpus: GPUs of each, 0 or 1.
        memory: Bytes that each asks Ray for, by which Ray chooses its node; 0 where Ray does not tell what nodes have.
        most: How many there may be as nodes join; None for as many as have a place.
    """

    count: int
    cpus: int
    gpus: int
    memory: int
    most: int | None = None

    @property
    def request(self) -> dict[str, int]:
        """What each asks Ray for, as ``ray.remote`` takes it."""
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, "memory": self.memory}

    @property
    def bundle(self) -> dict[str, float]:
        """What each asks Ray for, as placement groups and Ray Train take it."""
        asked = {"CPU": float(self.cpus), "GPU": float(self.gpus), "memory": float(self.memory)}
        return {name: amount for name, amount in asked.items() if amount}

    def places(self, nodes: Iterable[Node]) -> int:
        """Counts how many of them nodes hold, no more than there may be."""
        found = sum(node.places(self.cpus, self.gpus, self.memory) for node in nodes)
        return found if self.most is None else min(found, self.most)


def plan_workers(
    *,
    nodes: Sequence[Node],
    device: str = "auto",
    requested: int | None = None,
    option: str = "--workers",
    autoscaling: bool = False,
    together: bool = False,
) -> Workers:
    """Divides a cluster among processes that score or train.

    One process a GPU, which shares the cores of its node among its GPUs for decoding; without GPUs one process a core,
    since a network scores more images a second with one thread on each of N than with N threads on one, and fewer with
    more threads where memory is short. Threads times processes never exceed the cores of a node. The pool is the only
    part of a pipeline that holds a CPU, so it may hold all.

    Where more processes are asked for than the nodes of a cluster hold, those that have a place begin, and the others
    when nodes join. A single machine has no others to wait for, so there too many are refused, and memory, which is an
    estimate, keeps nobody from having as many as there are cores.

    Args:
        nodes: Of the cluster.
        device: ``auto``, ``cpu`` or ``cuda``.
        requested: Number of processes asked for.
        option: By which they were, for the message.
        autoscaling: Whether the cluster adds nodes for what it has not. Processes that wait for a node are its demand,
            which ends with them; those that have one begin without the others.
        together: Whether the processes can only begin together.

    Returns:
        The processes.

    Raises:
        UserError: The cluster has not what was asked for.
    """
    gpus = int(device == "cuda" or (device == "auto" and any(node.gpus for node in nodes)))
    usable = [node for node in nodes if node.cpus and (node.gpus or not gpus)]
    memory = _memory(usable)
    limit = sum(node.places(1, gpus, 0) for node in usable)
    if autoscaling and requested is not None and requested > _places(usable, 1, gpus, memory):
        # Those that are there are the best guess at those that will come.
        cpus = min([CORES_A_GPU, *(max(1, node.cpus // node.gpus) for node in usable)]) if gpus else 1
        return Workers(requested, cpus, gpus, memory, requested)
    if not limit:
        raise UserError(_nothing(nodes, device, gpus) + _growing(option))
    fixed = together or len(nodes) == 1
    if fixed and requested is not None:
        if requested > limit:
            what = "GPU" if gpus else "CPU core"
            raise UserError(
                f"{option} {requested} needs as many {what}s, but Ray has {_number(limit, 'place')} for such a process "
                f"(the largest node: {_largest(usable)}); ask for fewer{_growing(option)}"
            )
        memory = next(size for size in _sizes(usable, memory) if _places(usable, 1, gpus, size) >= requested)
    places = _places(usable, 1, gpus, memory)
    count = min(places, requested or places)
    cpus = next(n for n in range(_largest(usable).cpus, 0, -1) if _places(usable, n, gpus, memory) >= count)
    return Workers(count, cpus, gpus, memory, requested)


def cluster_workers(
    device: str,
    requested: int | None,
    *,
    option: str = "--workers",
    autoscaling: bool = False,
    together: bool = False,
) -> Workers:
    """Plans the processes for the Ray cluster that is connected; see :func:`plan_workers`."""
    workers = plan_workers(
        nodes=cluster_nodes(),
        device=device,
        requested=requested,
        option=option,
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


def _places(nodes: Sequence[Node], cpus: int, gpus: int, memory: int) -> int:
    return sum(node.places(cpus, gpus, memory) for node in nodes)


def _memory(nodes: Sequence[Node]) -> int:
    """Gives the bytes to ask for: less than a process needs where no node has them, since one has to run anyway."""
    return min(WORKER_BYTES, max((node.memory for node in nodes), default=WORKER_BYTES))


def _sizes(nodes: Sequence[Node], memory: int) -> Iterator[int]:
    """Gives bytes to ask for, the most first, at which nodes hold more and more processes, in the end one a core."""
    shares = {node.memory // count for node in nodes for count in range(1, node.cpus + 1)}
    yield from sorted({memory} | {share for share in shares if share < memory}, reverse=True)


def _largest(nodes: Sequence[Node]) -> Node:
    return max(nodes, key=lambda node: (node.cpus, node.gpus, node.memory))


def _nothing(nodes: Sequence[Node], device: str, gpus: int) -> str:
    """Says why there is no place for any process."""
    if not gpus or not any(node.cpus for node in nodes):
        return "the Ray cluster has no CPU to work on; add a worker node"
    if any(node.gpus for node in nodes):
        return "no node with a GPU has a CPU core for its processes; use --device cpu, or give these nodes cores"
    return f"--device {device}: the Ray cluster has no GPU; use --device cpu or add a GPU node"


def _growing(option: str) -> str:
    return f", or, where the cluster adds nodes by itself, for {option} N --autoscaling"


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
