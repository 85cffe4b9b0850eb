"""Starting Ray on this machine."""

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator

import psutil
import ray
from ray._common.utils import get_default_system_temp_dir
from ray._private import node

from grepr_core.errors import Unavailable, UserError
from pipelines.running.cores import available_cores
from pipelines.telling.activity import activity

log = logging.getLogger(__name__)

#: Ray waits half a minute for its processes, which may start later than that on a busy machine.
ATTEMPTS = 3
#: Where Ray's sockets go by default.
USUAL_FOLDER = "/tmp"  # noqa: S108 - Ray makes the folder of a session there, of a name that is its own

#: What Ray says where its processes did not answer in time. Its exceptions have no type of their own.
_TOO_SLOW = re.compile("timed out|failed to (start|connect)", re.IGNORECASE)
#: Bytes that the path of a socket may have, and what Ray's has beside the folder, with the longest id of a process.
_LONGEST_PATH = 103 if sys.platform == "darwin" else 107
_LONGEST_NAME = len("/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")


def start_ray() -> None:
    """Starts Ray on this machine, without dashboard.

    Raises:
        Unavailable: The machine is too busy to start it.
        UserError: There is no folder of a short path for its sockets.
    """
    folder = session_folder()
    for attempt in range(1, ATTEMPTS + 1):
        before = psutil.Process().children()
        try:
            with activity("starting Ray on this machine"), _without_watchers():
                ray.init(
                    address="local",  # not a cluster that happens to run on this machine
                    num_cpus=available_cores(),
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    object_store_memory=_object_store_bytes(),
                    _temp_dir=folder,
                )
            return
        except Exception as error:
            if not _TOO_SLOW.search(str(error)):
                raise
            _end_processes(before)
            load = f"the load is {os.getloadavg()[0]:.0f} on {available_cores()} cores"
            if attempt == ATTEMPTS:
                raise Unavailable(
                    f"Ray did not start in {ATTEMPTS} attempts, as where the machine is too busy: {load}. The same "
                    f"command goes on when it is less so. Ray says: {error}"
                ) from error
            log.warning("Ray did not start in time; %s; trying again (%d of %d)", load, attempt + 1, ATTEMPTS)


class _Node(node.Node):
    """Ray on one machine for one command, without what nobody looks at.

    Without a dashboard, Ray starts the dashboard's process all the same, waits for it, and has it do nothing. The
    monitor adds nodes, and the log monitor follows logs for a driver that wants them. The three take 4 s of CPU time to
    start, as much as scoring 100 photographs. No option leaves them out.
    """

    def start_api_server(self, **options: object) -> None:
        self._webui_url = None

    def start_monitor(self) -> None:
        pass

    def start_log_monitor(self) -> None:
        pass


@contextlib.contextmanager
def _without_watchers() -> Iterator[None]:
    usual = node.Node
    node.Node = _Node  # type: ignore[misc]
    try:
        yield
    finally:
        node.Node = usual  # type: ignore[misc]


def session_folder() -> str | None:
    """Gives the folder for the files of Ray's sessions, or None where that of Ray's own choice will do.

    Raises:
        UserError: There is none of a short path.
    """
    usual: str = get_default_system_temp_dir()  # type: ignore[no-untyped-call]
    longest = _LONGEST_PATH - _LONGEST_NAME
    if len(os.fsencode(usual)) <= longest:
        return None
    if "RAY_TMPDIR" not in os.environ and os.access(USUAL_FOLDER, os.W_OK | os.X_OK):
        return os.path.join(USUAL_FOLDER, "ray")
    raise UserError(
        f"{usual}: too long a path for the sockets of Ray; set RAY_TMPDIR to a folder of this machine whose path has "
        f"at most {longest} letters"
    )


def _end_processes(before: list[psutil.Process]) -> None:
    # Ray does not know them as its own yet, so that its shutdown leaves them at work.
    ray.shutdown()
    started = [process for process in psutil.Process().children() if process not in before]
    all_of_them = [*started]
    for process in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            all_of_them += process.children(recursive=True)
    for process in all_of_them:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(started, timeout=10)


def _object_store_bytes() -> int:
    # Only shard numbers and summaries pass through the object store, so the memory is the models'.
    return min(200 * 2**20, psutil.virtual_memory().total // 8)
