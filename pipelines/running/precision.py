"""One arithmetic for a whole run: what ``auto`` means is settled once, by asking the machines, and recorded."""

import logging
import socket
from collections.abc import Iterator
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from grepr_core.encoders.precision import Precision, has_bf16
from grepr_core.errors import UserError
from grepr_core.storage import Folder
from pipelines.running.placement import PlacementWatch
from pipelines.running.settings import AUTO, SETTINGS_FILE
from pipelines.running.workers import Node, Workers
from pipelines.telling.words import counted

log = logging.getLogger(__name__)

#: Seconds that a node has to answer. One that does not is not waited for: where it has no bf16, it says so later.
ANSWER_SECONDS = 60.0


def recorded_precision(asked: Precision, *outputs: Folder | None) -> Precision:
    """Gives the arithmetic that a run goes on in.

    Args:
        asked: What the person asked for.
        outputs: Of the run, then of others that it takes results over from; those that are there count.

    Returns:
        What was asked for, unless that is ``auto``: then what the first output was begun in. That is ``auto`` again
        where there is none, or where an earlier version has recorded it.
    """
    for output in outputs:
        if asked == AUTO and output is not None and output.exists(SETTINGS_FILE):
            recorded: Precision = output.read_json(SETTINGS_FILE).get("precision", AUTO)
            return recorded
    return asked


def settle_precision(output: Folder, settings: dict[str, Any], where: Workers | str) -> Precision:
    """Settles what ``auto`` is, for the whole run, and records it where the output is new.

    Args:
        output: Of the run.
        settings: What its result depends on, with ``precision``; completed.
        where: The processes to come on the Ray cluster that is connected; or this one's device, ``cpu`` or ``cuda``.

    Returns:
        ``fp32`` or ``bf16``, as every process is to be told.
    """
    precision: Precision = settings["precision"]
    if precision == AUTO:
        precision = shared_precision(where) if isinstance(where, Workers) else _best(where)
        # Results of an earlier version may be of either, so what it has recorded stays.
        if not output.exists(SETTINGS_FILE):
            settings["precision"] = precision
            output.write_json(SETTINGS_FILE, settings)
    return precision


def shared_precision(workers: Workers) -> Precision:
    """Settles what ``auto`` is on the Ray cluster that is connected.

    Args:
        workers: The processes to come.

    Returns:
        ``bf16`` where every node that may get one of them has it, else ``fp32``. Where there is no such node yet, the
        first one that comes decides.
    """
    device = "cuda" if workers.gpus else "cpu"
    nodes = _nodes(workers)
    if not nodes:
        answers = [_first_answer(workers, device)]
    elif device == "cpu" and nodes == [ray.get_runtime_context().get_node_id()]:
        return _best(device)
    else:
        answers = list(_answers(nodes, device))
    if any(answers) and not all(answers):
        log.info("%d of %s without bf16, so all work in fp32", answers.count(False), counted(len(answers), "machine"))
    return "bf16" if answers and all(answers) else "fp32"


def check_precision(precision: Precision, device: str) -> None:
    """Makes sure that this machine can do its part of a run.

    Args:
        precision: Of the run.
        device: Where the model runs here, ``cpu`` or ``cuda``.

    Raises:
        UserError: It cannot.
    """
    if precision == "bf16" and not has_bf16(device):
        where = "GPU" if device == "cuda" else "CPU"
        raise UserError(
            f"the {where} of {socket.gethostname()} has no bf16, in which this run is made; use machines that have it, "
            "or name another output and --precision fp32"
        )


def _best(device: str) -> Precision:
    return "bf16" if has_bf16(device) else "fp32"


def _nodes(workers: Workers) -> list[str]:
    """Lists the ids of the nodes that may get a process."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [
        node["NodeID"] for node in nodes if node["Alive"] and workers.places([Node.from_resources(node["Resources"])])
    ]


# Answers come from processes that Ray starts anyway; another try would come too late.
@ray.remote(num_cpus=0, max_retries=0)
def _asked(device: str) -> bool:
    return has_bf16(device)


def _answers(nodes: list[str], device: str) -> Iterator[bool]:
    asked = [
        _asked.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(device)
        for node in nodes
    ]
    answered, silent = ray.wait(asked, num_returns=len(asked), timeout=ANSWER_SECONDS)
    for answer in answered:
        try:
            yield ray.get(answer)
        except RayError as error:  # a node that has gone
            log.debug("a node did not say whether it has bf16: %s", error)
    for answer in silent:
        ray.cancel(answer, force=True)


def _first_answer(workers: Workers, device: str) -> bool:
    """Waits for the first node. As many questions as there will be processes wait for theirs, which makes them come."""
    waiting = [_asked.options(**workers.request).remote(device) for _ in range(workers.count)]
    watch = PlacementWatch(workers)
    try:
        while True:
            answered, waiting = ray.wait(waiting, timeout=1)
            for answer in answered:
                try:
                    return bool(ray.get(answer))
                except RayError:  # the node has gone again
                    waiting.append(_asked.options(**workers.request).remote(device))
            watch.look(0)
    finally:
        for answer in waiting:
            ray.cancel(answer, force=True)
