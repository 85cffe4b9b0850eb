"""The words and statuses of files that could not be fetched."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from grepr_core.decoding.images import Status
from grepr_core.decoding.read_errors import failure_from_exception
from tests.grepr_core.decoding.test_images import check_is_a_value


class PermissionDeniedError(Exception):
    """Named like the one of a storage client."""


class UnauthenticatedError(Exception):
    """Named like the one of a storage client."""


class HTTPError(Exception):
    """Has what the one of a storage client has."""

    def __init__(self, code: int) -> None:
        super().__init__(f"{code} Server Error for url: http://h/a.jpg?sig=SECRET")
        self.response = SimpleNamespace(status_code=code)


def answer(code: str, body: str = "") -> str:
    """What obstore says of a server's answer."""
    return (
        f"Generic S3 error: Error performing GET http://h/lake/a.jpg?sig=SECRET in 2.6s, after 10 retries - Server "
        f'returned non-2xx status code: {code}: {body}\n\nDebug source:\nGeneric {{\n store: "S3",\n}}'
    )


def pool(cause: str) -> str:
    """What requests says when there was no answer."""
    return (
        f"HTTPSConnectionPool(host='h', port=443): Max retries exceeded with url: /a.jpg?sig=SECRET (Caused by {cause})"
    )


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
        (Exception(answer("404 Not Found", "<Code>NoSuchKey</Code>")), Status.MISSING, "no such file"),
        (
            PermissionDeniedError(answer("403 Forbidden", "<Code>AccessDenied</Code>")),
            Status.DENIED,
            "permission denied (AccessDenied)",
        ),
        (
            UnauthenticatedError("lacked credentials: PermissionError: no AWS credentials\n\nDebug source:\nSECRET"),
            Status.DENIED,
            "permission denied: no AWS credentials",
        ),
        (
            Exception(answer("503 Service Unavailable", "<Error><Code>SlowDown</Code></Error>")),
            Status.TIMEOUT,
            "the storage answered 503 Service Unavailable (SlowDown)",
        ),
        (Exception(answer("416 Range Not Satisfiable")), Status.UNREADABLE, "the storage answered 416"),
        (
            Exception(
                "Generic S3 error: HTTP error: request or response body error\n\nDebug source:\n kind: Interrupted"
            ),
            Status.TIMEOUT,
            "the connection broke off in the middle of the file",
        ),
        (
            Exception("HTTP error: request or response body error\n\nDebug source:\nkind: Timeout, source: TimedOut"),
            Status.TIMEOUT,
            "did not answer in time",
        ),
        (Exception("HTTP error: error sending request\n\nDebug source:\nSECRET"), Status.TIMEOUT, "no connection"),
        (HTTPError(410), Status.MISSING, "no such file"),
        (HTTPError(401), Status.DENIED, "permission denied"),
        (HTTPError(429), Status.TIMEOUT, "the storage answered 429 Too Many Requests"),
        (HTTPError(599), Status.TIMEOUT, "the storage answered 599"),
        (Exception(pool("NewConnectionError('[Errno 111] Connection refused')")), Status.TIMEOUT, "connection refused"),
        (
            Exception(pool("NameResolutionError('[Errno -2] Name or service not known')")),
            Status.MISSING,
            "no such host",
        ),
        (Exception(pool("SSLError('certificate verify failed')")), Status.UNREADABLE, "certificate is not trusted"),
        (Exception("HTTPSConnectionPool(host='h', port=443): Read timed out."), Status.TIMEOUT, "in time"),
        (Exception("Exceeded 30 redirects at https://me:SECRET@h/a?sig=SECRET"), Status.UNREADABLE, "https://h/a"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_failure_to_fetch_has_its_status(error: Exception, status: Status, words: str):
    result = failure_from_exception(error)
    assert result.status == status
    assert words in result.error
    assert "SECRET" not in result.error
    check_is_a_value(result)


def test_real_symbolic_loop(tmp_path: Path):
    loop = tmp_path / "loop.jpg"
    loop.symlink_to(loop)
    with pytest.raises(OSError) as caught:
        loop.read_bytes()
    assert failure_from_exception(caught.value).error == "its symbolic links form a loop"
