"""The exceptions that are meant for the person at the keyboard."""


class UserError(Exception):
    """Something the user can mend: the message names the file or option, and says what to do."""


class Unavailable(UserError):  # noqa: N818 - says what the matter is with what was asked for
    """The command is right, but what it needs is not to be had now: a server, a cluster, an output that is in use."""
