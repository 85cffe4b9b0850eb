"""Where in an output the manifest and the scores are that hold now, while an update is being put in their place.

``grepr score --update`` builds the new state whole in a folder of its own. One write of the record then makes it the
state that holds; only after that its files go where those of the old one are. So whatever ends the command, readers
that come here find the old state or the new one.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from grepr_core.errors import Unavailable, UserError
from grepr_core.storage import Folder
from pipelines.lake.manifest import MANIFEST_FOLDER
from pipelines.running.run_files import RUN_FILE
from pipelines.running.run_lock import RunLock
from pipelines.running.settings import SETTINGS_FILE, with_unknown

#: Where an update is built, below the output.
UPDATE_FOLDER = "update"


def current_folder(output: Folder, name: str) -> Folder:
    """Finds the manifest or the scores that hold now.

    Args:
        output: Folder that ``grepr score`` wrote to, finished or not.
        name: ``MANIFEST_FOLDER`` or ``SCORES_FOLDER``.

    Returns:
        The folder; it need not exist.

    Raises:
        UserError: The record is broken.
    """
    unsettled = _record(output).get("unsettled")
    # One that is not in the update any more has been moved to its place.
    moved = not unsettled or (name in unsettled and not output.exists(f"{UPDATE_FOLDER}/{name}"))
    return output.child(name if moved else f"{UPDATE_FOLDER}/{name}")


def no_scores(output: Folder) -> UserError:
    """Gives the error of who wants to read the scores of an output that has none."""
    if output.exists(SETTINGS_FILE):
        return UserError(f"{output.url}: nothing is scored there yet; run the 'grepr score' that began it again")
    if not output.names():
        return UserError(f"{output.url}: there is no such folder, or nothing in it")
    return UserError(f"{output.url}: holds no scores; name the folder that 'grepr score' or 'grepr filter' wrote to")


def output_state(output: Folder) -> bytes | None:
    """Reads what tells one state of a finished output from the next; to be called before anything else is read.

    Args:
        output: Folder that ``grepr score`` wrote to.

    Returns:
        The record as it is written; None where the output is not finished.

    Raises:
        UserError: It is a file.
    """
    try:
        return output.read(RUN_FILE) if output.exists(RUN_FILE) else None
    except NotADirectoryError as error:
        raise UserError(f"{output.url}: is a file; name the folder that 'grepr score' wrote to") from error


@contextlib.contextmanager
def one_state(output: Folder, state: bytes | None) -> Iterator[None]:
    """Makes sure that what is read inside is of one state, also where an update comes to hold in the meantime.

    Args:
        output: Folder that ``grepr score`` wrote to.
        state: What :func:`output_state` gave. An output that was not finished has no other state to come between.

    Raises:
        Unavailable: There is another state by now, so that what was read, or could not be, may be of both.
    """
    try:
        yield
    except Exception as error:
        if _has_other_state(output, state):
            raise _updated(output) from error
        raise
    if _has_other_state(output, state):
        raise _updated(output)


def _has_other_state(output: Folder, state: bytes | None) -> bool:
    return state is not None and output_state(output) != state


def _updated(output: Folder) -> Unavailable:
    return Unavailable(f"{output.url}: was brought up to date while it was read; run the same command again")


def settle(output: Folder, lock: RunLock) -> None:
    """Puts an update that holds already where the scores before it are; does nothing where there is none.

    Killed at any moment, it is to be called again.

    Args:
        output: Folder that ``grepr score`` wrote to.
        lock: On it.

    Raises:
        Unavailable: Another command has taken the output over.
    """
    record, update = _record(output), output.child(UPDATE_FOLDER)
    if not (unsettled := record.get("unsettled")):
        return

    def check() -> None:
        lock.check()
        # One that was suspended in the midst of a step may come back when another has settled this update.
        if _record(output) != record:
            raise Unavailable(f"{output.url}: another command has taken this output over; this one stops")

    for name in unsettled:
        check()
        update.child(name).take_place(output.child(name), aside=update.child(f"replaced-{name}"))
    check()
    if MANIFEST_FOLDER not in unsettled:  # then it is the one that the command was given
        output.child(MANIFEST_FOLDER).remove()
    before = output.read_json(SETTINGS_FILE) if output.exists(SETTINGS_FILE) else {}
    check()
    output.write_json(SETTINGS_FILE, with_unknown(before, record["settings"]))
    check()
    # An update without settings is of no use to the next one; what is left of it may be a part of it.
    update.delete(SETTINGS_FILE)
    check()
    output.write_json(RUN_FILE, record | {"unsettled": []})
    lock.check()
    update.remove()


def _record(output: Folder) -> dict[str, Any]:
    try:
        record = output.read_json(RUN_FILE)
    except FileNotFoundError:
        return {}
    return record if isinstance(record, dict) else {}
