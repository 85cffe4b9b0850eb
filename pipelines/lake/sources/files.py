"""Files that name or hold images, opened wherever they are."""

import io
import posixpath
from collections.abc import Mapping
from typing import Any, BinaryIO, cast

import obstore
from obstore.store import ObjectStore

from grepr_core.storage import is_file_url, is_local, open_file_system
from grepr_core.web.access import is_web
from pipelines.lake.sources.entry import Entry, path_to_uri, uri_to_path
from pipelines.stores.object_store import STORE_ERRORS, is_object_store, open_store
from pipelines.stores.store_errors import store_error

#: Seconds for one request.
TIMEOUT = 60.0


class _ObjectFile(io.RawIOBase):
    """An object of a store as a file that can be read at random, a request a read."""

    def __init__(self, store: ObjectStore, key: str) -> None:
        self._store, self._key = store, key
        self._size = store.head(key)["size"]
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - whatever can be written to
        length = min(len(buffer), self._size - self._position)
        if length <= 0:
            return 0
        content = obstore.get_range(self._store, self._key, start=self._position, length=length)
        buffer[: len(content)] = memoryview(content)
        self._position += len(content)
        return len(content)


def open_file(uri: str, storage_options: Mapping[str, Any], *, block: int = 2**20) -> BinaryIO:
    """Opens a file for reading at random.

    Args:
        uri: Of the file, as entries have it.
        storage_options: For fsspec.
        block: Bytes read at once from an object store.

    Returns:
        The file; not to be shared between threads.

    Raises:
        UserError: It cannot be opened.
    """
    try:
        if is_local(uri):
            return open(uri_to_path(uri), "rb")
        if is_object_store(uri):
            store, key = open_store(uri, storage_options, timeout=TIMEOUT)
            # A buffered reader has all that a binary file has, but for its declared type.
            return cast(BinaryIO, io.BufferedReader(_ObjectFile(store, key), block))
        fs, name = open_file_system(uri, storage_options)
        return cast(BinaryIO, fs.open(name, "rb", block_size=block))
    except STORE_ERRORS as error:
        raise store_error(uri, error) from error


def resolve(reference: str, container: str) -> str:
    """Gives the URI that a file's reference means.

    Args:
        reference: A URI, an absolute path, or a path relative to the folder of the file that it stands in.
        container: URI of that file.

    Returns:
        The URI. ``..`` leads to the folder above, but never above a bucket or a server.
    """
    if "://" in reference or is_file_url(reference):
        return path_to_uri(uri_to_path(reference))
    if is_local(container):
        folder = posixpath.dirname(uri_to_path(container))
        return path_to_uri(posixpath.normpath(posixpath.join(folder, uri_to_path(reference))))
    if reference.startswith("/"):
        return reference
    store, separator, key = (container.partition("?")[0] if is_web(container) else container).partition("://")
    root, *folders = key.split("/")[:-1] or [""]
    for part in reference.split("/"):
        if part == "..":
            folders = folders[:-1]
        elif part != ".":
            folders.append(part)
    return f"{store}{separator}{'/'.join((root, *folders))}"


def unread(container: Entry) -> Entry:
    """Gives a row for a container that could not be read to its end, which ends in a status that says so."""
    return Entry(container.uri, container.size, container.etag, path=container.path)
