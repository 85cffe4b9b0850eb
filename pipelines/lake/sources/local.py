"""Listing files, folders and globs of the local disk."""

import glob
import logging
import os
from collections.abc import Iterator

from grepr_core.errors import UserError
from pipelines.lake.sources.entry import Entry, NameFilter, glob_root, path_below, path_to_uri
from pipelines.lake.sources.versions import file_etag

log = logging.getLogger(__name__)


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
        for path in sorted({*glob.iglob(source, recursive=True)}, key=os.fsencode):
            if not os.path.isdir(path):
                yield _entry(path, glob_root(source))
    else:
        raise UserError(f"{source}: no such file or folder")


def _walk(folder: str, root: str, ancestors: tuple[tuple[int, int], ...], names: NameFilter) -> Iterator[Entry]:
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
        yield Entry(path_to_uri(folder), path=path_below(folder, root))
        return
    for entry in found:
        if os.path.isdir(entry.path):
            if names.all_files or not entry.name.startswith("."):
                yield from _walk(entry.path, root, (*ancestors, (status.st_dev, status.st_ino)), names)
            else:
                names.skipped += 1  # with all that is in it
        elif names.wants(path_below(entry.path, root)):
            yield _entry(entry.path, root)


def _entry(path: str, root: str) -> Entry:
    """Gives the entry of one file; a broken link has one too, so that it ends as a row with its reason."""
    try:
        status = os.stat(path)
    except OSError:
        return Entry(path_to_uri(path), path=path_below(path, root))
    return Entry(path_to_uri(path), status.st_size, file_etag(status), path=path_below(path, root))
