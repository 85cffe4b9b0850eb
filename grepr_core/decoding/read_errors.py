"""Why a file could not be fetched, told from what the clients of file systems and object stores raise."""

import errno
import http
import re

from grepr_core.decoding.images import Failure, Status, error_words
from grepr_core.web.access import LinkLocalError

#: Answers of a server that say it is busy or unwell, or too slow for a proxy before it.
_BUSY = frozenset({408, 425, 429})
_SILENCE = "the storage did not answer in time"


def failure_from_exception(error: BaseException) -> Failure:
    """Tells why a file could not be fetched.

    Args:
        error: What the file system raised.

    Returns:
        ``missing`` and ``denied``, which asking again at once would not change; ``timeout`` for what it may, which
        besides silence is throttling, server errors and lost connections; ``too_large`` when memory ran out; else
        ``unreadable``. The words hold no part of a URL that may be secret.
    """
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return Failure(Status.MISSING, "no such file")
        case LinkLocalError():
            return Failure(Status.DENIED, str(error))
        case PermissionError():
            return Failure(Status.DENIED, "permission denied")
        case IsADirectoryError():
            return Failure(Status.UNREADABLE, "a directory, not a file")
        case MemoryError():
            return Failure(Status.TOO_LARGE, "reading it takes more memory than there is")
        case OSError(errno=errno.ELOOP):
            return Failure(Status.UNREADABLE, "its symbolic links form a loop")
        case TimeoutError():
            return Failure(Status.TIMEOUT, _SILENCE)
        case ConnectionError():
            return Failure(Status.TIMEOUT, f"no connection to the storage: {_words(error) or 'lost'}")
        case _:
            return _failure_of_client(error)


def _failure_of_client(error: BaseException) -> Failure:
    # Clients of object stores share no base classes, but their names tell: NoCredentialsError, ReadTimeoutError,
    # EndpointConnectionError, PermissionDeniedError. Those of obstore and requests have all else in their text.
    kind = type(error).__name__.lower()
    text = str(error)
    if (code := _http_code(error)) is not None:
        return _failure_from_answer(code, text)
    if re.search("credential|denied|unauthenticated", kind):
        # Of an exception of ours inside an exception of the client, ours says it better.
        inner = re.search(r"PermissionError: ([^\n]+)", text)
        return Failure(Status.DENIED, f"permission denied: {inner[1] if inner else _words(error)}")
    if "timeout" in kind or re.search(r"(?i)timed ?out", text):
        return Failure(Status.TIMEOUT, _SILENCE)
    if re.search(r"Name or service not known|nodename nor servname|No address associated", text):
        return Failure(Status.MISSING, "no such host")
    if re.search(r"response body error|IncompleteRead|Connection broken", text):
        return Failure(Status.TIMEOUT, "the connection broke off in the middle of the file")
    if re.search(r"error sending request|HTTPS?ConnectionPool", text):
        if "certificate" in text.lower():  # which will be no better when asked again
            return Failure(Status.UNREADABLE, "the storage's certificate is not trusted")
        reason = re.search(r"(?i)connection (refused|reset)|network is unreachable", text)
        return Failure(Status.TIMEOUT, f"no connection to the storage: {reason[0].lower() if reason else 'lost'}")
    if "connect" in kind:
        return Failure(Status.TIMEOUT, f"no connection to the storage: {_words(error) or 'lost'}")
    return Failure(Status.UNREADABLE, f"cannot be read: {_words(error) or type(error).__name__}")


def _http_code(error: BaseException) -> int | None:
    """Gives the status of the server's answer, where there was one and it was not the file."""
    code = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(code, int):
        return code
    found = re.search(r"non-2xx status code: (\d{3})", str(error))
    return int(found[1]) if found else None


def _failure_from_answer(code: int, text: str) -> Failure:
    if code in (404, 410):
        return Failure(Status.MISSING, "no such file")
    # Stores explain themselves in XML, of which the code is the shortest.
    reason = re.search(r"<Code>(\w+)</Code>", text)
    more = f" ({reason[1]})" if reason else ""
    if code in (401, 403):
        return Failure(Status.DENIED, f"permission denied{more}")
    said = f"the storage answered {code} {_phrase(code)}".rstrip() + more
    return Failure(Status.TIMEOUT if code in _BUSY or code >= 500 else Status.UNREADABLE, said)


def _phrase(code: int) -> str:
    try:
        return http.HTTPStatus(code).phrase
    except ValueError:
        return ""


def _words(error: BaseException) -> str:
    """Gives an exception's message in words, without what URLs may hold of secrets: users and queries."""
    if isinstance(error, OSError) and error.strerror:
        return error_words(error)
    text = str(error).partition("\n\nDebug source")[0]  # obstore appends all it knows
    return error_words(Exception(re.sub(r"(?<=//)[^\s/@]*@|\?[^\s'\")]*", "", text)))
