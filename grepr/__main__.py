"""``python -m grepr COMMAND``."""

import sys
from typing import NoReturn

from jobs.exit_codes import INTERRUPTED


def main() -> NoReturn:
    """Runs the command line and exits, also where it is interrupted before it has been read."""
    try:
        from jobs.cli import main as run  # noqa: PLC0415 - takes the time in which people change their minds
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    run()


if __name__ == "__main__":
    main()
