"""The words and statuses of files that could not be fetched."""

import errno
import os
from pathlib import Path

import pytest

from grepr_core.images import Status
from grepr_core.read_errors import failure_from_exception
from tests.grepr_core.test_images import check_is_a_value


class ReadTimeoutError(Exception):
    """Named like the one of a storage client."""


class EndpointConnectionError(Exception):
    """Named like the one of a storage client."""


class NoCredentialsError(Exception):
    """Named like the one of a storage client."""


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/a"), Status.MISSING, "no such file"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory"), Status.MISSING, "no such file"),
        (PermissionError(errno.EACCES, "Permission denied"), Status.DENIED, "permission denied"),
        (NoCredentialsError("Unable to locate credentials"), Status.DENIED, "Unable to locate credentials"),
        (TimeoutError(), Status.TIMEOUT, "did not answer in time"),
        (OSError(errno.ETIMEDOUT, "Connection timed out"), Status.TIMEOUT, "did not answer in time"),
        (ReadTimeoutError("endpoint"), Status.TIMEOUT, "did not answer in time"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), Status.TIMEOUT, "reset by peer"),
        (EndpointConnectionError("Could not connect"), Status.TIMEOUT, "Could not connect"),
        (IsADirectoryError(errno.EISDIR, "Is a directory"), Status.UNREADABLE, "a directory"),
        (OSError(errno.ELOOP, "Too many levels"), Status.UNREADABLE, "symbolic links form a loop"),
        (OSError(errno.EIO, os.strerror(errno.EIO)), Status.UNREADABLE, os.strerror(errno.EIO)),
        (MemoryError(), Status.TOO_LARGE, "memory"),
        (ValueError(f"bad\n{object()}\nreply 0xdeadbeef"), Status.UNREADABLE, "cannot be read: bad reply"),
        (KeyError(), Status.UNREADABLE, "cannot be read: KeyError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_failure_to_fetch_has_its_status(error: Exception, status: Status, words: str):
    result = failure_from_exception(error)
    assert result.status == status
    assert words in result.error
    check_is_a_value(result)


def test_real_symbolic_loop(tmp_path: Path):
    loop = tmp_path / "loop.jpg"
    loop.symlink_to(loop)
    with pytest.raises(OSError) as caught:
        loop.read_bytes()
    assert failure_from_exception(caught.value).error == "its symbolic links form a loop"
