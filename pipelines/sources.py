"""What images there are: a file, folder or glob on any file system fsspec knows, walked in a stable order."""

import glob
import logging
import os
import posixpath
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fsspec.core import url_to_fs

from grepr_core.errors import UserError
from grepr_core.storage import absolute, is_local

log = logging.getLogger(__name__)

#: Names taken for images when a folder is walked. A glob takes what it matches.
IMAGE_SUFFIXES = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".mpo",
        ".png",
        ".apng",
        ".webp",
        ".tif",
        ".tiff",
        ".bmp",
        ".dib",
        ".gif",
    }
    | {".avif", ".heic", ".heif", ".jp2", ".j2k"}
)


@dataclass(frozen=True, slots=True)
class Entry:
    """An image that a source lists.

    Attributes:
        uri: Absolute local path, or URL. A local path that is not valid UTF-8 is given as a percent-encoded ``file://``
            URL, since Parquet strings are UTF-8.
        size: Encoded bytes, where the listing tells.
        etag: What changes when the object changes: the store's ETag, or time and size of a local file.
        member: Name inside the container that ``uri`` is, if it is one.
        offset: Where in an uncompressed container the member's ``size`` bytes begin, if they lie there in one piece.
    """

    uri: str
    size: int | None = None
    etag: str | None = None
    member: str | None = None
    offset: int | None = None


class Listing:
    """The images of a source, in the order of their names; iterate once.

    Attributes:
        skipped: Files passed over so far because their name is not an image's.
    """

    def __init__(
        self, source: str, *, all_files: bool = False, storage_options: Mapping[str, Any] | None = None
    ) -> None:
        """Prepares a listing; nothing is read before iteration.

        Args:
            source: A file, folder or glob; a path or fsspec URL.
            all_files: Takes every file of a folder, whatever its name, hidden ones included.
            storage_options: For fsspec.
        """
        self.skipped = 0
        self._source = source
        self._all_files = all_files
        self._storage_options = dict(storage_options or {})

    def __iter__(self) -> Iterator[Entry]:
        """Yields the images.

        Raises:
            UserError: The source does not exist.
        """
        return self._local() if is_local(self._source) else self._remote()

    def _wanted(self, name: str) -> bool:
        if self._all_files:
            return True
        suffix = posixpath.splitext(name)[1].lower()
        wanted = suffix in IMAGE_SUFFIXES and not name.startswith(".")
        self.skipped += not wanted
        return wanted

    def _local(self) -> Iterator[Entry]:
        source = absolute(self._source)
        if os.path.isdir(source):
            yield from self._walk(source, ())
        elif os.path.lexists(source):
            yield _local_entry(source)
        elif glob.has_magic(source):
            for path in sorted(glob.iglob(source, recursive=True), key=os.fsencode):
                if not os.path.isdir(path):
                    yield _local_entry(path)
        else:
            raise UserError(f"{source}: no such file or folder")

    def _walk(self, folder: str, ancestors: tuple[tuple[int, int], ...]) -> Iterator[Entry]:
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in ancestors:
                log.warning("%s: a link back to a folder above it; not followed", folder)
                return
            with os.scandir(folder) as entries:
                # Bytes, since names that are not UTF-8 have no order as text.
                found = sorted(entries, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            # Listed as if it were an image, so that scoring tells the reason in a row.
            log.warning("%s: cannot be listed: %s", folder, error.strerror)
            yield Entry(path_to_uri(folder))
            return
        for entry in found:
            if os.path.isdir(entry.path):
                if self._all_files or not entry.name.startswith("."):
                    yield from self._walk(entry.path, (*ancestors, (status.st_dev, status.st_ino)))
            elif self._wanted(entry.name):
                yield _local_entry(entry.path)

    def _remote(self) -> Iterator[Entry]:
        fs, root = url_to_fs(self._source, **self._storage_options)
        try:
            if glob.has_magic(root) and not fs.exists(root):
                found = fs.glob(root, detail=True)
                wanted = {path: info for path, info in found.items() if info["type"] == "file"}
            else:
                found = fs.find(root, detail=True)
                wanted = {path: info for path, info in found.items() if self._wanted(posixpath.basename(path))}
        except (FileNotFoundError, ValueError) as error:  # no such bucket; a pattern that is none
            raise UserError(f"{self._source}: {error}") from error
        if not found:
            raise UserError(f"{self._source}: nothing there")
        for path in sorted(wanted):
            info = wanted[path]
            yield Entry(fs.unstrip_protocol(path), info.get("size"), (info.get("ETag") or "").strip('"') or None)


def _local_entry(path: str) -> Entry:
    try:
        status = os.stat(path)
    except OSError:
        # A broken link is listed all the same, so that it ends as a row with its reason.
        return Entry(path_to_uri(path))
    return Entry(path_to_uri(path), status.st_size, f"{status.st_mtime_ns:x}-{status.st_size:x}")


def path_to_uri(path: str) -> str:
    """Gives the URI of a local path: the path itself, or a ``file://`` URL where it is not valid UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "file://" + urllib.parse.quote_from_bytes(os.fsencode(path))
    return path


def uri_to_path(uri: str) -> str:
    """Gives the local path of a URI made by :func:`path_to_uri`."""
    if uri.startswith("file://"):
        return os.fsdecode(urllib.parse.unquote_to_bytes(uri.removeprefix("file://")))
    return uri
