"""What a source lists, and which names are images'."""

import collections
import os
import posixpath
import urllib.parse
from dataclasses import dataclass

from grepr_core.storage import file_url_path, is_file_url, is_local
from grepr_core.web.access import with_lower_scheme

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
#: Files that hold images or name them, taken only when the source names them.
CONTAINER_SUFFIXES = (".tar", ".parquet")


@dataclass(frozen=True, slots=True)
class Entry:
    """An image that a source lists.

    Attributes:
        uri: Absolute local path, or URL. A local path that is not valid UTF-8 is given as a percent-encoded ``file://``
            URL, since Parquet strings are UTF-8.
        size: Encoded bytes, where the listing tells.
        etag: What changes when the object changes: the store's ETag, or else time and size.
        member: Name inside the container that ``uri`` is, if it is one.
        offset: Where in an uncompressed container the member's ``size`` bytes begin, if they lie there in one piece.
    """

    uri: str
    size: int | None = None
    etag: str | None = None
    member: str | None = None
    offset: int | None = None


class NameFilter:
    """Tells images from other files by their names, and counts the others.

    Attributes:
        skipped: Files passed over so far.
        containers: How many of them end in each of :data:`CONTAINER_SUFFIXES`.
    """

    def __init__(self, *, all_files: bool) -> None:
        self.all_files = all_files
        self.skipped = 0
        self.containers: collections.Counter[str] = collections.Counter()

    def wants(self, path: str) -> bool:
        """Tells whether a file is taken for an image.

        Args:
            path: Of the file; only its last component counts.
        """
        if self.all_files:
            return True
        name = posixpath.basename(path)
        suffix = posixpath.splitext(name)[1].lower()
        wanted = suffix in IMAGE_SUFFIXES and not name.startswith(".")
        self.skipped += not wanted
        if suffix in CONTAINER_SUFFIXES:
            self.containers[suffix] += 1
        return wanted


def path_to_uri(path: str) -> str:
    """Gives the URI of a local path: the path itself, or a ``file://`` URL where it is not valid UTF-8.

    The bytes of the name count, so that it is the same in every locale. A URL stays one, with its scheme in small
    letters.
    """
    if not is_local(path):
        return with_lower_scheme(path)
    name = os.fsencode(path)
    try:
        return name.decode()
    except UnicodeDecodeError:
        return "file://" + urllib.parse.quote_from_bytes(name)


def uri_to_path(uri: str) -> str:
    """Gives the local path of a URI made by :func:`path_to_uri` or by others, as the locale has it."""
    if not is_local(uri):
        return with_lower_scheme(uri)
    name = uri.encode(errors="surrogateescape")
    return os.fsdecode(file_url_path(name) if is_file_url(uri) else name)
