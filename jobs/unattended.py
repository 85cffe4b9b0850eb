"""``python -m jobs.unattended COMMAND``: ``grepr COMMAND`` for those who try again whatever does not end with 0.

KubeRay starts a job that failed on another cluster, up to ``backoffLimit`` times, and cannot tell one exit code from
another. A wrong command and a lake of too many bad images would end there as they ended here.
"""

import sys
from collections.abc import Sequence
from typing import NoReturn

from jobs import cli
from jobs.exit_codes import DONE, TOO_MANY_FAILED, WRONG_USAGE

#: What no second attempt mends.
FINAL = {
    WRONG_USAGE: "wrong usage",
    TOO_MANY_FAILED: "done, but more images failed than --max-failed-fraction allows",
}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line in this process, so that signals reach it, and exits as it does, or with 0 and a last line.

    Args:
        arguments: Without the program's name; by default those of the process.
    """
    try:
        cli.main(arguments)
    except SystemExit as ended:
        if not isinstance(ended.code, int) or ended.code not in FINAL:
            raise
        print(  # noqa: T201
            f"grepr: exit code {ended.code}: {FINAL[ended.code]}. Another attempt would end so too, so this one ends "
            "with 0",
            file=sys.stderr,
            flush=True,
        )
        sys.exit(DONE)


if __name__ == "__main__":
    main()
