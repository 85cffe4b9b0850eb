"""``grepr nightly``: every night's scores of a lake, which a cluster's clock starts.

A night's scores go to ``SCORES/<date>``; images that have not changed since the last finished night are taken over from
it. Started again in the same night, it goes on where it ended.
"""

from dataclasses import fields
from datetime import datetime, timedelta

from grepr_core.storage import Folder
from pipelines.options import LakeOptions, NightlyOptions, ScoreOptions
from pipelines.running.run_files import RUN_FILE

#: A night's date is that of the noon before it (UTC), so that a job which is started again after midnight goes on.
NIGHT_BEGINS = timedelta(hours=12)


def night_options(options: NightlyOptions, now: datetime) -> ScoreOptions:
    """Gives what ``grepr score`` has to do for a night.

    Args:
        options: Of the command.
        now: Time in UTC.

    Returns:
        Its options: output, earlier night, and all that the command was given.
    """
    night, folder = (now - NIGHT_BEGINS).date().isoformat(), Folder(options.scores, options.storage_options)
    earlier = (name for name in reversed(folder.names()) if name < night and folder.exists(f"{name}/{RUN_FILE}"))
    since = next(earlier, None)
    return ScoreOptions(
        **{field.name: getattr(options, field.name) for field in fields(LakeOptions)},
        output=f"{folder.url}/{night}",
        since=None if since is None else f"{folder.url}/{since}",
    )
