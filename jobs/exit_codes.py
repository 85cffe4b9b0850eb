"""How the command line ends."""

DONE, FAILED, WRONG_USAGE, TOO_MANY_FAILED, INTERRUPTED = 0, 1, 2, 3, 130
