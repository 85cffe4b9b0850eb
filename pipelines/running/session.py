"""Starting Ray for a command, or connecting to it."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator

import ray
from ray._private.accelerators import get_accelerator_manager_for_resource

from grepr_core.errors import UserError
from pipelines.running import cluster, local_ray
from pipelines.running.interrupts import undisturbed
from pipelines.telling.activity import activity


def cluster_address(address: str | None = None) -> str | None:
    """Gives the address of the cluster to use: the one named, or, in a Ray job, that of the cluster it runs on.

    Args:
        address: As ``--address`` takes it.

    Returns:
        The address; None where Ray is to be started on this machine.
    """
    if address in (None, "auto"):
        address = os.environ.get("RAY_ADDRESS") or address
    return None if address == "local" else address


def check_cluster(address: str | None = None) -> None:
    """Makes sure within seconds that :func:`ray_session` will find its cluster, before there is other work to do.

    Raises:
        Unavailable: The cluster does not answer.
        UserError: The cluster cannot be used in this way.
    """
    if not ray.is_initialized() and (there := cluster_address(address)) is not None:
        _mute_ray()
        cluster.find(there, _named(there, address))


def check_gpu(device: str, address: str | None = None) -> None:
    """Makes sure that there is a GPU where one is asked for, before anything is made.

    A cluster may have some that this machine has not, or add nodes with them; it is asked by who plans its processes.

    Args:
        device: As ``--device`` takes it.
        address: As ``--address`` takes it.

    Raises:
        UserError: It is to be used on this machine, where Ray sees none.
    """
    if device == "cuda" and not ray.is_initialized() and cluster_address(address) is None and not _gpus_here():
        raise UserError(
            "--device cuda: this machine shows no GPU; leave it out to use the CPU, or see to the driver and "
            "CUDA_VISIBLE_DEVICES"
        )


def _gpus_here() -> int:
    gpus = get_accelerator_manager_for_resource("GPU")
    if gpus is None:
        return 0
    there = gpus.get_current_node_num_accelerators()
    shown = gpus.get_current_process_visible_accelerator_ids()
    return there if shown is None else min(there, len(shown))


@contextlib.contextmanager
def ray_session(address: str | None = None) -> Iterator[None]:
    """Connects to Ray, or starts it on this machine; leaves or stops it at the end.

    A Ray that is connected already, as in a Ray job or a test, is used and left as it is.

    Args:
        address: As ``--address`` takes it; None takes the cluster that this process is a job of, or else starts one.

    Raises:
        Unavailable: The cluster does not answer, or this machine is too busy to start Ray.
        UserError: The cluster cannot be used in this way.
    """
    if ray.is_initialized():
        yield
        return
    _mute_ray()
    on_termination = signal.getsignal(signal.SIGTERM)
    try:
        if (there := cluster_address(address)) is None:
            local_ray.start_ray()
        else:
            with activity(f"connecting to the Ray cluster, {_named(there, address)}"):
                cluster.connect(there, _named(there, address))
    finally:
        if threading.current_thread() is threading.main_thread():
            # Ray puts a handler of its own in place, which ends the process with 15 as exit code.
            signal.signal(signal.SIGTERM, on_termination)
    try:
        yield
    finally:
        with undisturbed():
            ray.shutdown()


def _mute_ray() -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray").setLevel(logging.ERROR)


def _named(address: str, given: str | None) -> str:
    return f"--address {address}" if address == given else f"RAY_ADDRESS={address}"
