"""Reading encoded images ahead of the model that scores them."""

import collections
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs

from grepr_core.images import Failure, Limits, Status, failure_from_exception
from grepr_core.storage import is_local
from pipelines.sources import uri_to_path


class Fetcher:
    """Reads images, many requests in flight, and hands them back in order.

    An error is a value: an image that cannot be read becomes a :class:`~grepr_core.images.Failure`.
    """

    def __init__(
        self,
        *,
        limits: Limits,
        timeout: float,
        storage_options: Mapping[str, Any] | None = None,
        threads: int = 16,
        ahead: int = 32,
        ahead_bytes: int = 128 * 2**20,
    ) -> None:
        """Starts the threads.

        Args:
            limits: Objects over ``limits.max_bytes`` are refused; those whose size the manifest tells, unread.
            timeout: Seconds that one image may take from the moment it is waited for.
            storage_options: For fsspec.
            threads: Requests in flight. They wait rather than compute, so they take no core from the model.
            ahead: Images read ahead at most.
            ahead_bytes: Their encoded size at most, as far as the manifest tells; one image is always read.
        """
        self._limits = limits
        self._timeout = timeout
        self._storage_options = dict(storage_options or {})
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="fetch")
        self._ahead = ahead
        self._ahead_bytes = ahead_bytes

    def read(self, images: Sequence[tuple[str, int | None]]) -> Iterator[bytes | Failure]:
        """Reads images.

        Args:
            images: URI and, where known, encoded size of each.

        Yields:
            The encoded bytes of each, or why it could not be read; in order.
        """
        waiting: collections.deque[tuple[Future[bytes | Failure], int]] = collections.deque()
        remaining = collections.deque(images)
        pending_bytes = 0
        while remaining or waiting:
            while remaining and len(waiting) < self._ahead:
                uri, size = remaining[0]
                if waiting and pending_bytes + (size or 0) > self._ahead_bytes:
                    break
                remaining.popleft()
                waiting.append((self._pool.submit(self._read_one, uri, size), size or 0))
                pending_bytes += size or 0
            future, size = waiting.popleft()
            pending_bytes -= size
            try:
                yield future.result(timeout=self._timeout)
            except TimeoutError:
                future.cancel()
                yield Failure(Status.TIMEOUT, f"not read within {self._timeout:g} seconds")

    def _read_one(self, uri: str, size: int | None) -> bytes | Failure:
        try:
            if size is not None and size > self._limits.max_bytes:
                return self._too_large(size)
            if is_local(uri):
                path = Path(uri_to_path(uri))
                # A pipe or device would block or never end. Opening a folder, listed because it could not be walked,
                # would say no more than that it is one.
                if path.is_dir():
                    os.listdir(path)
                elif path.exists() and not path.is_file():
                    return Failure(Status.UNREADABLE, "not a regular file")
                with path.open("rb") as file:
                    content = file.read(self._limits.max_bytes + 1)
            else:
                fs, name = url_to_fs(uri, **self._storage_options)
                content = fs.cat_file(name, end=self._limits.max_bytes + 1)
            return content if len(content) <= self._limits.max_bytes else self._too_large(len(content))
        except Exception as error:  # whatever a file system raises costs one image, never the job
            return failure_from_exception(error)

    def _too_large(self, size: int) -> Failure:
        return Failure(Status.TOO_LARGE, f"{size:,} bytes or more; the limit is {self._limits.max_bytes:,}")
