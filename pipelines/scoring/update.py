"""``grepr score --update``: brings a finished output up to date in place.

The source is listed anew and scored below the output, in a folder of its own, which takes over the rows of images that
have not changed; see :mod:`pipelines.scoring.current` for how it then comes to hold. Killed at any moment, the same
command goes on.
"""

import logging
from dataclasses import replace

from grepr_core.bundles.bundle_files import BundleHeader
from grepr_core.storage import Folder
from pipelines.lake.manifest import MANIFEST_FOLDER, Manifest
from pipelines.options import ScoreOptions
from pipelines.running.run_files import RUN_FILE
from pipelines.running.run_lock import RunLock, run_lock
from pipelines.running.settings import SETTINGS_FILE
from pipelines.scoring.current import UPDATE_FOLDER, settle
from pipelines.scoring.run_record import RunRecord, read_record, write_record
from pipelines.scoring.score import check_finished, open_manifest, score_listed, score_manifest, scoring_model
from pipelines.scoring.score_table import SCORES_FOLDER

log = logging.getLogger(__name__)

#: In an update, of which manifest it is, so that no command with another one goes on with it.
BEGUN_FILE = "begun.json"


def run(options: ScoreOptions) -> RunRecord:
    """Scores what is new or has changed, takes over the other rows, and drops those of images that are gone.

    An output that is not finished is finished, and an empty one filled, as without ``--update``.

    Args:
        options: Of the command.

    Returns:
        The record that ``run.json`` holds.

    Raises:
        UserError: As :func:`pipelines.scoring.score.run` does.
        ShardError: Likewise.
    """
    output = Folder(options.output, options.storage_options)
    model = scoring_model(options.model)
    with run_lock(output) as lock:
        settle(output, lock)
        finished = read_record(output)
        if finished is None:
            if output.exists(SETTINGS_FILE):
                log.info("%s: not finished yet, so this is done first; what is new since takes another run", output.url)
            return score_listed(options, output, model, lock)
        manifest = check_finished(finished, options, output, model)
        if manifest is not None:
            log.info("%s: is a manifest, and no source is listed anew", options.source)
        begun = _beginning(manifest)
        if left := _complete_update(output, begun):
            log.info(
                "%s: an update was complete already, and takes its place now%s",
                output.url,
                "" if manifest is not None else "; then what is new since is scored",
            )
            _put_in_place(left, output, lock)
            if manifest is not None:  # which tells nothing newer
                return left
        record = _score_update(manifest, begun, options, output, model, lock)
        _put_in_place(record, output, lock)
    return record


def _beginning(given: Manifest | None) -> dict[str, str | None]:
    """Gives what an update is begun of."""
    return {"manifest": None} if given is None else {"manifest": given.folder.url, "digest": given.digest}


def _begun(update: Folder) -> object:
    """Reads what an update was begun of; None where there is none, or none that can be gone on with."""
    # What is left of one that came to hold has no settings any more.
    if not update.exists(SETTINGS_FILE) or not update.exists(BEGUN_FILE):
        return None
    return update.read_json(BEGUN_FILE)


def _complete_update(output: Folder, begun: dict[str, str | None]) -> RunRecord | None:
    """Finds an update that was scored whole, and did not come to hold yet."""
    update = output.child(UPDATE_FOLDER)
    return read_record(update) if _begun(update) == begun else None


def _put_in_place(record: RunRecord, output: Folder, lock: RunLock) -> None:
    """Makes an update that is complete the state that holds."""
    update = output.child(UPDATE_FOLDER)
    folders = [name for name in (MANIFEST_FOLDER, SCORES_FOLDER) if update.exists(name)]
    before = output.read_json(RUN_FILE)
    lock.check()
    # From here on the update is what readers find.
    write_record(output, replace(record, unsettled=folders), before)
    settle(output, lock)


def _score_update(
    given: Manifest | None,
    begun: dict[str, str | None],
    options: ScoreOptions,
    output: Folder,
    model: BundleHeader,
    lock: RunLock,
) -> RunRecord:
    """Builds the new state, or goes on with one that was begun before."""
    update = output.child(UPDATE_FOLDER)
    if _begun(update) == begun:
        log.info("%s: going on with an update begun earlier; what is new since takes another one", output.url)
    else:
        update.remove()
        update.write_json(BEGUN_FILE, begun)
    return score_manifest(
        given or open_manifest(options, update),
        update,
        model,
        options,
        features=options.written_features,
        since=output,
        lock=lock,
    )
