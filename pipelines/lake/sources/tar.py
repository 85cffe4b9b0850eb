"""Tar archives, such as WebDataset shards: which images lie where in them."""

import collections
import contextlib
import itertools
import logging
import posixpath
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

from grepr_core.errors import UserError
from pipelines.lake.sources.entry import Entry, NameFilter
from pipelines.lake.sources.files import open_file, unread
from pipelines.stores.object_store import STORE_ERRORS
from pipelines.telling.words import counted

log = logging.getLogger(__name__)

COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
#: Archives read side by side. One is read from header to header, so it is a wait for one request after another.
THREADS = 8
#: Small, since of a member only its header is wanted.
_BLOCK = 64 * 2**10
_BREAKS: tuple[type[Exception], ...] = (tarfile.TarError, UserError, *STORE_ERRORS)
#: Links from link to link that are followed.
_MOST_LINKS = 40


def list_tars(tars: Iterable[Entry], names: NameFilter, storage_options: Mapping[str, Any]) -> Iterator[Entry]:
    """Lists the images in uncompressed archives; memory holds the members of some archives at a time.

    A link to another member is an image of its own, of the same bytes.

    Args:
        tars: The archives.
        names: Decides what is taken of them.
        storage_options: For fsspec.

    Yields:
        Their images, in the order of the archives and of the members. An archive that breaks off gives those before the
        break, and then itself, as a row that cannot be scored.
    """
    rest = iter(tars)
    waiting: collections.deque[Future[_Contents]] = collections.deque()
    unreadable: collections.Counter[str] = collections.Counter()
    with ThreadPoolExecutor(THREADS, thread_name_prefix="tar") as pool:
        while True:
            for tar in itertools.islice(rest, 2 * THREADS - len(waiting)):
                waiting.append(pool.submit(_read, tar, storage_options))
            if not waiting:
                break
            contents = waiting.popleft().result()
            for entry, name in contents.images:
                if names.wants(name):
                    yield entry
            for name, why in contents.others:
                if names.wants(name):
                    names.skipped += 1
                    unreadable[why] += 1
            if contents.broken is not None:
                yield contents.broken
    for why, count in sorted(unreadable.items()):
        log.warning("%s passed over: %s", counted(count, "member of an archive is", "members of archives are"), why)


@dataclass
class _Contents:
    """What is in an archive.

    Attributes:
        images: Members whose bytes lie in one piece, each with its name before that was made unique.
        others: Names of the others, but for folders, with what they are.
        broken: The archive itself, where it could not be read to its end.
    """

    images: list[tuple[Entry, str]] = field(default_factory=list)
    others: list[tuple[str, str]] = field(default_factory=list)
    broken: Entry | None = None


@dataclass(frozen=True, slots=True)
class _Member:
    """A member as its header tells it: a file, or a link to one, which is soft where it holds a path alone."""

    name: str
    size: int
    offset: int
    target: str | None = None
    soft: bool = False


def _read(tar: Entry, storage_options: Mapping[str, Any]) -> _Contents:
    contents, members = _Contents(), []
    try:
        with open_file(tar.uri, storage_options, block=_BLOCK) as file:
            for member in _members(tar, file):
                if (found := _member(member)) is not None:
                    members.append(found)
                elif not member.isdir():
                    contents.others.append((_text(member.name), "no files in one piece (sparse, devices or pipes)"))
    except _BREAKS as error:
        log.warning("%s: breaks off after %s: %s", tar.uri, counted(len(members), "file"), error)
        contents.broken = unread(tar)
    times: collections.Counter[str] = collections.Counter()
    for name, found in _resolved(members):
        if found is None:
            contents.others.append((name, "links to what is not in their archive"))
            continue
        times[name] += 1
        # An archive may hold a name twice, and a manifest may not.
        unique = name if times[name] == 1 else f"{times[name]}#{name}"
        contents.images.append((Entry(tar.uri, found.size, tar.etag, unique, found.offset, tar.path), name))
    return contents


def _members(tar: Entry, file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Gives the members of an archive, and of those that were appended to it as a whole."""
    begin = 0
    while True:
        file.seek(begin)
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
            for member in iter(archive.next, None):
                # tarfile keeps all members otherwise.
                archive.members = []  # type: ignore[attr-defined]
                yield member
            end = archive.offset
        if begin and end == begin:  # not even a first member
            log.warning("%s: what follows its end, from byte %d on, is no archive, and is passed over", tar.uri, begin)
            return
        # A header that is none ends the iteration as the end of the archive does: a block of zeros, or the file's.
        following = _after_zeros(file, end)
        if following is None:
            return
        if following == end:
            raise tarfile.ReadError(f"no header at byte {end:,}")
        begin = following


def files_between(file: BinaryIO, begin: int, end: int | None) -> Iterator[tuple[str, int, int]]:
    """Lists files of a part of an archive that begins with a header; what is damaged there ends it.

    Args:
        file: The archive, or a part of it.
        begin: Where the first header is, in bytes.
        end: Where the part ends; by default with the archive.

    Yields:
        Of each file that lies in it whole and in one piece: name, where its content begins, and its size in bytes.
    """
    position: int | None = begin
    with contextlib.suppress(tarfile.TarError):
        while position is not None:
            file.seek(position)
            with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
                for member in iter(archive.next, None):
                    archive.members = []  # type: ignore[attr-defined]
                    if end is not None and member.offset_data + member.size > end:
                        return
                    if member.isreg() and not member.issparse():
                        yield _text(member.name), member.offset_data, member.size
                following = _after_zeros(file, archive.offset)
            position = None if following == position else following


def _after_zeros(file: BinaryIO, begin: int) -> int | None:
    """Gives where the first block from here on begins that is not all zeros; None where the file ends before."""
    file.seek(begin)
    while chunk := file.read(128 * tarfile.BLOCKSIZE):
        rest = len(chunk.lstrip(b"\0"))
        if rest:
            return begin + (len(chunk) - rest) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
        begin += len(chunk)
    return None


def _member(info: tarfile.TarInfo) -> _Member | None:
    """Gives a member that is a file in one piece, or a link; None for any other."""
    name = _text(info.name)
    if info.isreg() and not info.issparse():
        return _Member(name, info.size, info.offset_data)
    if info.islnk():
        return _Member(name, 0, 0, posixpath.normpath(_text(info.linkname)))
    if info.issym():
        folder = posixpath.dirname(name)
        return _Member(name, 0, 0, posixpath.normpath(posixpath.join(folder, _text(info.linkname))), soft=True)
    return None


def _resolved(members: list[_Member]) -> Iterator[tuple[str, _Member | None]]:
    """Puts the files that links lead to in their places; None where there is none.

    As after unpacking, a hard link means the last member of that name before it, and a soft one the last at all; so
    does a hard one without any before it.
    """
    last = {posixpath.normpath(member.name): member for member in members}
    before: dict[str, _Member] = {}
    for member in members:
        found: _Member | None = member
        for _ in range(_MOST_LINKS):
            if found is None or found.target is None:
                break
            found = (None if found.soft else before.get(found.target)) or last.get(found.target)
        found = None if found is None or found.target is not None else found
        yield member.name, found
        # A link that leads on from here has what this one leads to.
        before[posixpath.normpath(member.name)] = member if found is None else replace(found, name=member.name)


def _text(name: str) -> str:
    """Gives a member's name as valid Unicode."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")
