"""``grepr score --update``: brings a finished output up to date in place.

The source is listed anew and scored below the output, in a folder of its own, which takes over the rows of images that
have not changed; see :mod:`pipelines.scoring.current` for how it then comes to hold. Killed at any moment, the same
command goes on.
"""

import logging
from dataclasses import asdict, replace

from grepr_core.bundles.bundle_files import BundleHeader
from grepr_core.storage import Folder
from pipelines.lake.manifest import MANIFEST_FOLDER, Manifest
from pipelines.options import ScoreOptions
from pipelines.running.run_files import RUN_FILE
from pipelines.running.run_lock import RunLock, run_lock
from pipelines.running.settings import SETTINGS_FILE
from pipelines.scoring.current import UPDATE_FOLDER, settle
from pipelines.scoring.score import (
    RunRecord,
    check_finished,
    open_manifest,
    read_record,
    score_listed,
    score_manifest,
    scoring_model,
)
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
        settle(output)
        finished = read_record(output)
        if finished is None:
            if output.exists(SETTINGS_FILE):
                log.info("%s: not finished yet, so this is done first; what is new since takes another run", output.url)
            return score_listed(options, output, model, lock)
        manifest = check_finished(finished, options, output, model)
        if manifest is not None:
            log.info("%s: is a manifest, and no source is listed anew", options.source)
        record = _score_update(manifest, options, output, model, lock)
        update = output.child(UPDATE_FOLDER)
        folders = [name for name in (MANIFEST_FOLDER, SCORES_FOLDER) if update.exists(name)]
        lock.check()
        # From here on the update is what readers find.
        output.write_json(RUN_FILE, asdict(replace(record, unsettled=folders)))
        settle(output)
    return record


def _score_update(
    given: Manifest | None, options: ScoreOptions, output: Folder, model: BundleHeader, lock: RunLock
) -> RunRecord:
    """Builds the new state, or goes on with one that was begun before."""
    update = output.child(UPDATE_FOLDER)
    begun = {"manifest": None} if given is None else {"manifest": given.folder.url, "digest": given.digest}
    # What is left of one that came to hold has no settings any more.
    if not update.exists(SETTINGS_FILE) or update.read_json(BEGUN_FILE) != begun:
        update.remove()
        update.write_json(BEGUN_FILE, begun)
    elif record := read_record(update):
        return record
    else:
        log.info("%s: going on with an update begun earlier; what is new since takes another one", output.url)
    return score_manifest(
        given or open_manifest(options, update),
        update,
        model,
        options,
        features=options.features,
        since=output,
        lock=lock,
    )
