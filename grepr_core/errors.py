"""The exceptions that others act on: most are for the person at the keyboard. What of their words is not for all."""

import re

#: Users and passwords of servers, and whatever has a password; else what stands before the @ may be a container.
_USERS = re.compile(
    r"\b((?:(?:https?|s?ftp|ssh|smb|(?:web)?hdfs)://|[a-z][a-z0-9+.-]*://(?=[^\s/?#@]*:)))[^\s/?#]*@", re.IGNORECASE
)
#: Values in queries whose name, as a whole, tells that they are secret, those of signed URLs among them.
_SIGNATURES = re.compile(
    r"([?&](?:(?:x|aws|amz|goog|google|ms|ocp|apim|access|account|api|app|auth|bearer|client|id|oauth|private|refresh"
    r"|sas|secret|security|session|shared|subscription|user)[_.-]?)*"
    r"(?:auth|authorization|credentials?|jwt|key(?:[_-]?id)?|passphrase|passwd|password|pwd|sas|secret|sig|signature"
    r"|token)=)[^\s&#'\")]+",
    re.IGNORECASE,
)


def without_secrets(text: str) -> str:
    """Gives a text with ``***`` for passwords and signatures in the URLs that it names."""
    return _SIGNATURES.sub(r"\1***", _USERS.sub(r"\1***@", text))


class UserError(Exception):
    """Something the user can mend: the message names the file or option, and says what to do."""

    def __str__(self) -> str:
        return without_secrets(super().__str__())


class Unavailable(UserError):  # noqa: N818 - says what the matter is with what was asked for
    """The command is right, but what it needs is not to be had now: a server, a cluster, an output that is in use."""


class DeviceLostError(Exception):
    """The device can be used no more by this process, as after an illegal access to its memory."""
