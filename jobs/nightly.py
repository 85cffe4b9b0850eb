"""Every night's scores of a lake: what a cluster's clock starts.

A night's scores go to ``SCORES/<date>``; images that have not changed since the last finished night are taken over from
it. Started again in the same night, it goes on where it ended.

Example: python -m jobs.nightly s3://lake/ s3://scores/ --workers 8
"""

import sys
from datetime import UTC, datetime, timedelta
from typing import Annotated

import tyro
from tyro.conf import Positional, arg

from grepr_core.storage import Folder
from jobs.cli import main
from pipelines.run_files import RUN_FILE

#: A night's date is that of the noon before it (UTC), so that a job which is started again after midnight goes on.
NIGHT_BEGINS = timedelta(hours=12)


def command(source: str, scores: str, options: list[str], now: datetime) -> list[str]:
    """Gives the arguments of grepr for a night.

    Args:
        source: Lake to score.
        scores: Folder or URL that holds a folder a night.
        options: Further ones of ``grepr score``.
        now: Time in UTC.

    Returns:
        Arguments of the command line.
    """
    night, folder = (now - NIGHT_BEGINS).date().isoformat(), Folder(scores)
    earlier = (name for name in reversed(folder.names()) if name < night and folder.exists(f"{name}/{RUN_FILE}"))
    since = next(earlier, None)
    output = [source, f"{folder.url}/{night}", *([] if since is None else ["--since", f"{folder.url}/{since}"])]
    return ["score", *output, *options]


def _nightly(
    source: Annotated[Positional[str], arg(metavar="SOURCE")],
    scores: Annotated[Positional[str], arg(metavar="SCORES")],
) -> tuple[str, str]:
    """Score a lake into a folder a night; all further options are those of 'grepr score'.

    Args:
        source: Lake to score.
        scores: Folder or URL that holds a folder a night.
    """
    return source, scores


if __name__ == "__main__":
    (lake, nights), further = tyro.cli(_nightly, return_unknown_args=True)
    sys.exit(main(command(lake, nights, further, datetime.now(UTC))))
