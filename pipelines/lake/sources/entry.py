"""What a source lists, and which names are images'."""

import collections
import os
import posixpath
import re
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass, field

from fsspec.utils import glob_translate

from grepr_core.errors import UserError
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
    | {".avif", ".heic", ".heif", ".hif", ".jp2", ".j2k", ".jpx", ".jpf", ".jxl"}
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
        path: Where ``uri`` is below the source, as :func:`path_below` gives it: the same wherever the lake is. None
            where there is no such path.
    """

    uri: str
    size: int | None = None
    etag: str | None = None
    member: str | None = None
    offset: int | None = None
    #: Not of what tells images apart.
    path: str | None = field(default=None, compare=False)


class _Glob:
    """One of the globs that say which names count; those that begin with ``!`` say which do not."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.excludes = text.startswith("!")
        self.matched = False
        pattern = text.removeprefix("!")
        try:
            self._pattern = re.compile(glob_translate(pattern))
        except ValueError as error:
            raise UserError(f"--members {text!r}: {error}") from error
        if not pattern:
            raise UserError(f"--members {text!r}: is no glob such as '*.jpg' or '!*.mask.png'")
        self._whole = "/" in pattern
        # As in a shell, no wildcard stands for the dot of a hidden file.
        self._hidden = self.excludes or posixpath.basename(pattern).startswith(".")

    def matches(self, path: str) -> bool:
        name = posixpath.basename(path)
        if name.startswith(".") and not self._hidden:
            return False
        found = self._pattern.match(path.removeprefix("./") if self._whole else name) is not None
        self.matched |= found
        return found


class NameFilter:
    """Tells images from other files by their names, and counts the others.

    Attributes:
        all_files: Whether every name is an image's.
        members: Globs, of which a name has to match one, and those that begin with ``!``, of which it may match none.
        skipped: Files passed over so far.
        containers: How many of them end in each of :data:`CONTAINER_SUFFIXES`.
    """

    def __init__(self, *, all_files: bool, members: Sequence[str] = ()) -> None:
        """Prepares.

        Args:
            all_files: Takes every name, hidden ones included, where no glob says otherwise.
            members: The globs. One without a slash is for the last component of a path, any other for the whole path.
                What a glob takes need not have an image's name.

        Raises:
            UserError: A glob is none.
        """
        self.all_files = all_files
        self.members = tuple(members)
        self.skipped = 0
        self.containers: collections.Counter[str] = collections.Counter()
        globs = [_Glob(text) for text in members]
        self._taken = [glob for glob in globs if not glob.excludes]
        self._left_out = [glob for glob in globs if glob.excludes]

    def wants(self, path: str) -> bool:
        """Tells whether a file is taken for an image.

        Args:
            path: Of the file, below the source or in its container.
        """
        wanted = self.allows(path)
        if wanted and not (self._taken or self.all_files or _is_image(path)):
            wanted = False
            self.skipped += 1
        suffix = posixpath.splitext(path)[1].lower()
        if not wanted and suffix in CONTAINER_SUFFIXES:
            self.containers[suffix] += 1
        return wanted

    def allows(self, path: str) -> bool:
        """Tells whether the globs let a file in that the source itself names by a glob, whatever its name."""
        # Each is asked, to be known for one that matches something.
        left_out = any([glob.matches(path) for glob in self._left_out])
        taken = any([glob.matches(path) for glob in self._taken])
        allowed = (taken or not self._taken) and not left_out
        self.skipped += not allowed
        return allowed

    def unmatched(self) -> list[str]:
        """Gives the globs that have matched nothing so far."""
        return [glob.text for glob in (*self._taken, *self._left_out) if not glob.matched]


def _is_image(path: str) -> bool:
    name = posixpath.basename(path)
    return posixpath.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")


def path_below(path: str, root: str) -> str:
    """Gives the path of a file below a folder, or its name where that folder is the file itself.

    Args:
        path: As :func:`uri_to_path` gives it, or URL.
        root: Of the folder, likewise.

    Returns:
        The path; where it is not valid UTF-8, percent-encoded behind ``file:``.
    """
    root = root.rstrip("/") + "/"
    return _as_text(path[len(root) :] if path.startswith(root) else posixpath.basename(path))


def path_from(uri: str, root: str) -> str | None:
    """Gives the path from a folder to a file that need not be below it.

    Args:
        uri: Of the file.
        root: URI of the folder, with a slash at its end.

    Returns:
        The path, ``..`` in it where need be; None where there is none, as on another server.
    """
    if uri.startswith(root) and is_local(uri) == is_local(root) and not is_file_url(uri):
        return uri[len(root) :]
    if is_local(uri) and is_local(root):
        return _as_text(posixpath.relpath(uri_to_path(uri), uri_to_path(root)))
    if is_local(uri) or is_local(root):
        return None
    ours, theirs = urllib.parse.urlsplit(uri), urllib.parse.urlsplit(root)
    if (ours.scheme, ours.netloc) != (theirs.scheme, theirs.netloc):
        return None
    begin = len(f"{ours.scheme}://{ours.netloc}")
    return posixpath.relpath(uri[begin:] or "/", theirs.path or "/")


def glob_root(pattern: str) -> str:
    """Gives the folder that all is below that a glob can match."""
    return re.split(r"[*?[]", pattern)[0].rpartition("/")[0]


def _as_text(path: str) -> str:
    name = os.fsencode(path)
    try:
        return name.decode()
    except UnicodeDecodeError:
        return "file:" + urllib.parse.quote_from_bytes(name)


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
