"""Tar archives, such as WebDataset shards: which images lie where in them."""

import collections
import itertools
import logging
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from grepr_core.errors import UserError
from pipelines.lake.sources.entry import Entry, NameFilter
from pipelines.lake.sources.files import open_file, unread
from pipelines.stores.object_store import STORE_ERRORS

log = logging.getLogger(__name__)

COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
#: Archives read side by side. One is read from header to header, so it is a wait for one request after another.
THREADS = 8
#: Small, since of a member only its header is wanted.
_BLOCK = 64 * 2**10
_BREAKS: tuple[type[Exception], ...] = (tarfile.TarError, UserError, *STORE_ERRORS)


def list_tars(tars: Iterable[Entry], names: NameFilter, storage_options: Mapping[str, Any]) -> Iterator[Entry]:
    """Lists the images in uncompressed archives; memory holds the members of some archives at a time.

    Args:
        tars: The archives.
        names: Decides what is taken of them.
        storage_options: For fsspec.

    Yields:
        Their images, in the order of the archives and of the members. An archive that breaks off gives those before the
        break, and then itself, as a row that cannot be scored.
    """
    rest = iter(tars)
    waiting: collections.deque[Future[list[Entry]]] = collections.deque()
    with ThreadPoolExecutor(THREADS, thread_name_prefix="tar") as pool:
        while True:
            for tar in itertools.islice(rest, 2 * THREADS - len(waiting)):
                waiting.append(pool.submit(_members, tar, storage_options))
            if not waiting:
                return
            yield from (e for e in waiting.popleft().result() if e.member is None or names.wants(e.member))


def _members(tar: Entry, storage_options: Mapping[str, Any]) -> list[Entry]:
    found: list[Entry] = []
    try:
        with (
            open_file(tar.uri, storage_options, block=_BLOCK) as file,
            tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as archive,
        ):
            times: collections.Counter[str] = collections.Counter()
            for member in iter(archive.next, None):
                # tarfile keeps all members otherwise.
                archive.members = []  # type: ignore[attr-defined]
                if member.isreg() and not member.issparse():
                    name = _text(member.name)
                    times[name] += 1
                    # An archive may hold a name twice, and a manifest may not.
                    unique = name if times[name] == 1 else f"{times[name]}#{name}"
                    found.append(Entry(tar.uri, member.size, tar.etag, unique, member.offset_data))
            # A header that is none ends the iteration as the end of the archive does: a block of zeros, or the file's.
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError(f"no header at byte {archive.offset:,}")
    except _BREAKS as error:
        log.warning("%s: breaks off after %d files: %s", tar.uri, len(found), error)
        found.append(unread(tar))
    return found


def _text(name: str) -> str:
    """Gives a member's name as valid Unicode."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")
