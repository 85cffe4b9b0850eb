"""The one exception that is meant for the person at the keyboard."""


class UserError(Exception):
    """Something the user can mend: the message names the file or option, and says what to do."""
