"""Listing files, folders and globs of the local disk."""

import fnmatch
import glob
import logging
import os
from collections.abc import Iterator

from grepr_core.errors import UserError
from pipelines.lake.sources.entry import Entry, NameFilter, glob_root, path_below, path_to_uri
from pipelines.lake.sources.versions import file_etag

log = logging.getLogger(__name__)

#: Folders above one, each by its device and inode.
_Ancestors = tuple[tuple[int, int], ...]


def list_local(source: str, names: NameFilter) -> Iterator[Entry]:
    """Lists a file, a folder or what a glob matches.

    Args:
        source: Absolute path or glob.
        names: Decides what is taken of a folder.

    Yields:
        The files, in the order of their names' bytes.

    Raises:
        UserError: There is no such file or folder.
    """
    if os.path.isdir(source):
        yield from _walk(source, source, (), names)
    elif os.path.lexists(source):
        yield _entry(source, source)
    elif glob.has_magic(source):
        # A set, since several ** may find a file several times.
        for path in sorted({*_glob("/", source.strip("/").split("/"), ())}, key=os.fsencode):
            if names.allows(path_below(path, glob_root(source))):
                yield _entry(path, glob_root(source))
    else:
        raise UserError(f"{source}: no such file or folder")


def _glob(folder: str, parts: list[str], ancestors: _Ancestors) -> Iterator[str]:
    """Gives the files that a glob matches, and the folders that would have to be searched but cannot be.

    The standard library's leaves those out in silence, and follows links in a circle.

    Args:
        folder: Where the glob begins.
        parts: Of the glob, between its slashes; ``**`` stands for any number of folders, and at the end for all files.
        ancestors: Of the folder, where it is below a ``**``.
    """
    first, *rest = parts
    if not glob.has_magic(first):
        path = os.path.join(folder, first)
        if rest:
            yield from _glob(path, rest, ancestors) if os.path.isdir(path) else ()
        elif os.path.lexists(path) and not os.path.isdir(path):
            yield path
        return
    scanned = _scan(folder, ancestors)
    if scanned is None:
        yield folder
        return
    names, ancestors = scanned
    if first == "**" and names:
        yield from _glob(folder, rest or ["*"], ())
    for name in names:
        # As in a shell, no wildcard stands for the dot of a hidden file.
        if name.startswith(".") and not first.startswith("."):
            continue
        path = os.path.join(folder, name)
        if first == "**":
            yield from _glob(path, parts, ancestors) if os.path.isdir(path) else ()
        elif fnmatch.fnmatchcase(name, first):
            if rest:
                yield from _glob(path, rest, ()) if os.path.isdir(path) else ()
            elif not os.path.isdir(path):
                yield path


def _scan(folder: str, ancestors: _Ancestors) -> tuple[list[str], _Ancestors] | None:
    """Gives the names in a folder, none where it is a link back to one above; and the folders above them.

    The order is that of their bytes, since names that are not UTF-8 have none as text. None where it cannot be listed.
    """
    try:
        status = os.stat(folder)
        here = status.st_dev, status.st_ino
        if here in ancestors:
            log.warning("%s: a link back to a folder above it; not followed", folder)
            return [], ancestors
        return sorted(os.listdir(folder), key=os.fsencode), (*ancestors, here)
    except OSError as error:
        log.warning("%s: cannot be listed: %s", folder, error.strerror)
        return None


def _walk(folder: str, root: str, ancestors: _Ancestors, names: NameFilter) -> Iterator[Entry]:
    scanned = _scan(folder, ancestors)
    if scanned is None:
        # Listed as if it were an image, so that scoring tells the reason in a row.
        yield Entry(path_to_uri(folder), path=path_below(folder, root))
        return
    found, ancestors = scanned
    for name in found:
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            if names.all_files or not name.startswith("."):
                yield from _walk(path, root, ancestors, names)
            else:
                names.skipped += 1  # with all that is in it
        elif names.wants(path_below(path, root)):
            yield _entry(path, root)


def _entry(path: str, root: str) -> Entry:
    """Gives the entry of one file; a broken link has one too, so that it ends as a row with its reason."""
    try:
        status = os.stat(path)
    except OSError:
        return Entry(path_to_uri(path), path=path_below(path, root))
    return Entry(path_to_uri(path), status.st_size, file_etag(status), path=path_below(path, root))
