"""``grepr nightly``: every night's scores of a lake, which a cluster's clock starts.

A night's scores go to ``SCORES/<date>``; images that have not changed since the last finished night are taken over from
it. A night that was not finished is finished first, so that a lake which takes longer than a night gets done. Started
again in the same night, it goes on where it ended.
"""

import logging
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from datetime import datetime, timedelta

from grepr_core.errors import Unavailable, UserError
from grepr_core.storage import Folder, absolute
from pipelines.lake.manifest import given_manifest
from pipelines.options import LakeOptions, NightlyOptions, ScoreOptions
from pipelines.running.run_files import RUN_FILE
from pipelines.running.settings import SETTINGS_FILE
from pipelines.running.shard_pool import ShardError
from pipelines.scoring import score
from pipelines.scoring.run_record import RunRecord

log = logging.getLogger(__name__)

#: A night's date is that of the noon before it (UTC), so that a job which is started again after midnight goes on.
NIGHT_BEGINS = timedelta(hours=12)
_NIGHT = re.compile(r"\d{4}-\d\d-\d\d")


def run(options: NightlyOptions, now: datetime) -> Iterator[tuple[ScoreOptions, RunRecord | None]]:
    """Scores a night; first the one before it that was not finished.

    Args:
        options: Of the command.
        now: Time in UTC.

    Yields:
        Each night's options of ``grepr score`` with its record, which is None where that one cannot be finished.

    Raises:
        UserError: As :func:`pipelines.scoring.score.run` does, of this night.
        ShardError: Likewise.
    """
    *unfinished, tonight = night_options(options, now)
    for night in unfinished:
        try:
            record = score.run(night)
        except Unavailable:  # nothing is the matter with the night
            raise
        except (UserError, ShardError) as error:
            log.warning("%s: cannot be finished, and this night goes on without it: %s", night.output, error)
            record, tonight = None, replace(tonight, since=night.since)
        yield night, record
    yield tonight, score.run(tonight, newer="what is new or has changed comes in with the next night")


def night_options(options: NightlyOptions, now: datetime) -> list[ScoreOptions]:
    """Gives what ``grepr score`` has to do for a night.

    Args:
        options: Of the command.
        now: Time in UTC.

    Returns:
        Its options, one command after the other: output, earlier night, and all that the command was given. First come
        those of the newest night that was not finished, unless it was begun otherwise or a later one was finished.

    Raises:
        UserError: The model cannot be used.
    """
    tonight, folder = (now - NIGHT_BEGINS).date().isoformat(), Folder(options.scores, options.storage_options)
    names = [name for name in reversed(folder.names()) if _NIGHT.fullmatch(name) and name < tonight]
    unfinished, since = None, None
    for name in names:
        if folder.exists(f"{name}/{RUN_FILE}"):
            since = name
            break
        # Without settings it was ended while it listed, and holds no row.
        if unfinished is None and folder.exists(f"{name}/{SETTINGS_FILE}"):
            unfinished = name
    if folder.exists(f"{tonight}/{RUN_FILE}"):
        unfinished = None
    if unfinished is not None and (changed := _begun_otherwise(folder.child(unfinished), options)):
        log.warning("%s/%s: was begun otherwise (%s), so it stays unfinished", folder.url, unfinished, changed)
        unfinished = None
    if unfinished is None:
        return [_night(options, folder, tonight, since)]
    log.info("%s/%s: was not finished; this is done first, and then the night %s", folder.url, unfinished, tonight)
    return [_night(options, folder, unfinished, since), _night(options, folder, tonight, unfinished)]


def _begun_otherwise(night: Folder, options: NightlyOptions) -> str:
    """Says which settings of a night differ from those of the command; nothing where it can be finished."""
    manifest = given_manifest(options.source, options.storage_options)
    source = manifest.source if manifest is not None else absolute(options.source)
    try:
        begun = night.read_json(SETTINGS_FILE)
    except UserError:  # finishing it will say so
        return ""
    if manifest is not None and (other := score.other_images(begun, manifest)):
        return other
    return score.scored_otherwise(begun, source, options, score.scoring_model(options.model))


def _night(options: NightlyOptions, folder: Folder, night: str, since: str | None) -> ScoreOptions:
    return ScoreOptions(
        **{field.name: getattr(options, field.name) for field in fields(LakeOptions)},
        output=f"{folder.url}/{night}",
        since=None if since is None else f"{folder.url}/{since}",
    )
