"""Reading one encoded image from wherever it lies, again and again where that may help."""

import itertools
import os
import random
import stat
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import obstore
import requests
from obstore.exceptions import BaseError

from grepr_core.decoding.images import Failure, Limits, Status
from grepr_core.decoding.read_errors import failure_from_exception
from grepr_core.errors import UserError
from grepr_core.storage import is_local, open_file_system
from grepr_core.web.access import WebAccess, is_web
from pipelines.lake.sources import Entry, uri_to_path
from pipelines.lake.sources.image_table import ImageTableReader
from pipelines.lake.sources.versions import file_etag, object_etag, plain_etag
from pipelines.lake.web_session import open_web_session
from pipelines.stores.object_store import is_object_store, open_store

#: A request that has not ended after this part of an image's time is given up, so that there is time for others.
PATIENCE = 1 / 4
#: Seconds before a second attempt at most; it doubles with every further one.
FIRST_DELAY = 0.1
LONGEST_DELAY = 10.0
CHUNK_BYTES = 2**20
_REFUSALS = (requests.codes.unauthorized, requests.codes.forbidden)
_WITHHELD = (
    "permission denied; the headers of --storage-options go to the source's host alone, and to others that its key "
    "headers_for lists"
)
#: Of a member that a table named without its place, and no archive had when it was listed.
NO_MEMBER = "its archive has no such member, or could not be read up to it"
#: Opening a store takes long the first time, which all threads would otherwise do at once.
_OPENING = threading.Lock()


class Fetched(NamedTuple):
    """What became of reading one image.

    Attributes:
        content: The encoded bytes, or why they could not be read.
        etag: Of the object that they are from, or its time and size, in the form of the manifest; None where they could
            not be read or the storage does not tell.
    """

    content: bytes | Failure
    etag: str | None = None


class ImageReader:
    """Reads encoded images; safe to use from many threads.

    An error is a value: an image that cannot be read becomes a :class:`~grepr_core.decoding.images.Failure`.
    """

    def __init__(self, *, limits: Limits, timeout: float, storage_options: Mapping[str, Any] | None = None) -> None:
        """Prepares reading.

        Args:
            limits: Objects over ``limits.max_bytes`` are refused without reading more than that of them.
            timeout: Seconds that one image may take, all attempts together.
            storage_options: As fsspec takes them.
        """
        self._limits = limits
        self._timeout = timeout
        self._storage_options = dict(storage_options or {})
        self._web = WebAccess.of(self._storage_options)
        self._tables = ImageTableReader(self._storage_options)

    def read(self, entry: Entry) -> Fetched:
        """Reads an image.

        What may pass is tried again until the image's time is over: throttling, errors of the server, lost connections,
        silence, answers cut short. What asking again does not change is not: a missing or forbidden object.

        Args:
            entry: The image.

        Returns:
            Its content, or why it could not be read.
        """
        # A size that a table tells of a whole file may mean something else there, so that is looked at instead.
        told = entry.etag is not None or entry.offset is not None
        if told and entry.size is not None and entry.size > self._limits.max_bytes:
            return Fetched(self._too_large(entry.size))
        if entry.offset is not None and not entry.size:
            return Fetched(b"", entry.etag)  # no range tells nothing
        deadline = time.monotonic() + self._timeout
        attempt = self._attempt(entry)
        for tries in itertools.count(1):
            try:
                return _checked(entry, attempt(entry))
            except _TooLargeError as error:
                return Fetched(self._too_large(error.size))
            except Exception as error:  # whatever a client raises costs one image, never the job
                failure = failure_from_exception(error)
            # Full jitter: of many readers that were turned away together, each comes back at a time of its own.
            delay = random.uniform(0, min(FIRST_DELAY * 2 ** min(tries, 16), LONGEST_DELAY))  # noqa: S311
            if failure.status != Status.TIMEOUT or time.monotonic() + delay >= deadline:
                return Fetched(failure)
            time.sleep(delay)
        raise AssertionError("the loop does not end")

    def _attempt(self, entry: Entry) -> Callable[[Entry], Fetched]:
        if entry.member is not None and entry.offset is None:
            return self._read_row if entry.uri.lower().endswith(".parquet") else _no_place
        if is_local(entry.uri):
            return self._read_file
        if is_web(entry.uri):
            return self._read_web
        return self._read_object if is_object_store(entry.uri) else self._read_fsspec

    def _read_row(self, entry: Entry) -> Fetched:
        assert entry.member is not None
        try:
            content = self._tables.read(entry.uri, entry.member)
        except UserError as error:
            raise error.__cause__ or error from None  # which tells whether to try again
        if len(content) > self._limits.max_bytes:
            raise _TooLargeError(len(content))
        return Fetched(content, entry.etag)

    def _read_file(self, entry: Entry) -> Fetched:
        path = uri_to_path(entry.uri)
        kind = os.stat(path).st_mode
        # A pipe or device would block or never end. Opening a folder, listed because it could not be walked, would say
        # no more than that it is one.
        if stat.S_ISDIR(kind):
            os.listdir(path)
        elif not stat.S_ISREG(kind):
            return Fetched(Failure(Status.UNREADABLE, "not a regular file"))
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            start, end = _span(entry) or (0, self._limits.max_bytes + 1)
            file.seek(start)
            # Room for what is there, and only if that turns out to be more, for more: room for the limit takes the
            # kernel longer than the reading.
            content = file.read(min(end - start, status.st_size + 1))
            if len(content) > status.st_size:
                content += file.read(end - start - len(content))
        if len(content) > self._limits.max_bytes:
            raise _TooLargeError(status.st_size)
        return Fetched(content, file_etag(status))

    def _read_object(self, entry: Entry) -> Fetched:
        try:
            with _OPENING:
                store, key = open_store(entry.uri, self._storage_options, timeout=PATIENCE * self._timeout)
            span = _span(entry)
            result = obstore.get(store, key, options={"range": span} if span else None)
        except ValueError as error:
            if "Could not parse path" not in str(error):
                raise
            return self._read_fsspec(entry)  # obstore knows no key with an empty segment, a//b
        # The body is read only now. An object that grew since it was listed is not read at all.
        if span is None and result.meta["size"] > self._limits.max_bytes:
            raise _TooLargeError(result.meta["size"])
        try:
            content = bytes(result.bytes())
        except BaseError as error:
            # Where a body breaks off, obstore goes on from there, which is beyond the end if its length was told wrong.
            if "status code: 416" in str(error):
                raise ConnectionError("the answer is shorter than it says") from error
            raise
        meta = result.meta
        # The same stand-in as in the listing, where a store has no ETags.
        return Fetched(content, object_etag(meta))

    def _read_web(self, entry: Entry) -> Fetched:
        # Not by obstore, which knows no queries, encoded characters, redirects of its own or answers without a length.
        span = _span(entry)
        ranges = {"Range": f"bytes={span[0]}-{span[1] - 1}"} if span else {}
        patience = PATIENCE * self._timeout
        session = open_web_session(self._web)
        with session.get(entry.uri, headers=ranges, stream=True, timeout=patience) as response:
            if response.status_code in _REFUSALS and self._web.withholds(response.url):
                return Fetched(Failure(Status.DENIED, _WITHHELD))
            response.raise_for_status()
            if span and response.status_code != requests.codes.partial_content:
                return Fetched(Failure(Status.UNREADABLE, "the server does not give parts of files"))
            size = int(response.headers.get("Content-Length", 0))
            content = bytearray()
            for chunk in response.iter_content(CHUNK_BYTES) if size <= self._limits.max_bytes else ():
                content += chunk
                if len(content) > self._limits.max_bytes:
                    break
            if max(size, len(content)) > self._limits.max_bytes:
                raise _TooLargeError(max(size, len(content)))
            return Fetched(bytes(content), plain_etag(response.headers.get("ETag")))

    def _read_fsspec(self, entry: Entry) -> Fetched:
        fs, name = open_file_system(entry.uri, self._storage_options)
        start, end = _span(entry) or (None, self._limits.max_bytes + 1)
        content: bytes = fs.cat_file(name, start=start, end=end)
        if len(content) > self._limits.max_bytes:
            raise _TooLargeError(len(content))
        return Fetched(content)

    def _too_large(self, size: int) -> Failure:
        return Failure(Status.TOO_LARGE, f"{size:,} bytes or more; the limit is {self._limits.max_bytes:,}")


class _TooLargeError(Exception):
    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


def _no_place(_: Entry) -> Fetched:
    return Fetched(Failure(Status.MISSING, NO_MEMBER))


def _span(entry: Entry) -> tuple[int, int] | None:
    """Gives first byte and end of a member that lies in one piece in its container."""
    if entry.offset is None:
        return None
    assert entry.size is not None, "a member's place is told with its size"
    return entry.offset, entry.offset + entry.size


def _checked(entry: Entry, fetched: Fetched) -> Fetched:
    """Refuses what cannot be the image that was listed, or not all of it."""
    changed = None not in (entry.etag, fetched.etag) and entry.etag != fetched.etag
    if changed and entry.offset is not None:
        # Whatever lies in the member's place now is scored under no other's name.
        return Fetched(Failure(Status.UNREADABLE, "its container changed after it was listed; list it anew"))
    if isinstance(fetched.content, bytes) and entry.size is not None and len(fetched.content) != entry.size:
        if entry.offset is not None:
            return Fetched(Failure(Status.UNREADABLE, "its container ends before it does"))
        if entry.etag is not None and entry.etag == fetched.etag:
            # The same object of another length: an answer with a wrong Content-Length, which no client can tell.
            raise ConnectionError("the answer is shorter than the file")
    return fetched
