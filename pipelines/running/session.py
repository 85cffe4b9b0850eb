"""Starting Ray for a command, or connecting to it."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator

import psutil
import ray

from pipelines.running.cores import available_cores


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
