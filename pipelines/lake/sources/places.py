"""Where members of archives are that a table names without their places."""

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.lake.sources.entry import Entry, NameFilter
from pipelines.lake.sources.tar import list_tars

#: Members of archives that are remembered, 24 bytes each.
MOST_REMEMBERED = 5_000_000


@dataclass(frozen=True, eq=False)
class _Archive:
    """The members of an archive.

    Attributes:
        names: (N,) uint64, hashes of their names, ascending. Two names are taken for one as rarely as
            :class:`~pipelines.lake.sources.duplicates.Seen` does.
        offsets: (N,) int64, where the content of each begins.
        sizes: (N,) int64, in bytes.
    """

    names: NDArray[np.uint64]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def find(self, members: Sequence[Entry]) -> Iterable[Entry | None]:
        """Gives members with their places; None for one that is not there."""
        names = _hashes(members)
        places = np.searchsorted(self.names, names)
        for entry, name, place in zip(members, names.tolist(), places.tolist(), strict=True):
            if place < len(self.names) and self.names[place] == name:
                yield Entry(entry.uri, int(self.sizes[place]), None, entry.member, int(self.offsets[place]))
            else:
                yield None


class Places:
    """Looks up members of archives; an archive is gone through once, as long as there is room to remember it.

    A list that is sorted by something else than its archives, such as the best image first, names the same ones again
    and again.
    """

    def __init__(self, storage_options: Mapping[str, Any]) -> None:
        """Remembers nothing yet.

        Args:
            storage_options: For fsspec.
        """
        self._storage_options = storage_options
        self._known: dict[str, _Archive] = {}
        self._room = MOST_REMEMBERED

    def __call__(self, members: Iterable[Entry]) -> dict[tuple[str, str | None], Entry]:
        """Looks up some, each archive once at most.

        Args:
            members: Entries with a URI and a member.

        Returns:
            By URI and member those that are there, without an etag and a path.
        """
        wanted: dict[str, list[Entry]] = {}
        for entry in members:
            wanted.setdefault(entry.uri, []).append(entry)
        found: dict[tuple[str, str | None], Entry] = {}

        def look_up(uri: str, archive: _Archive) -> None:
            found.update({(uri, entry.member): entry for entry in archive.find(wanted[uri]) if entry is not None})

        for uri in wanted:
            if uri in self._known:
                look_up(uri, self._known[uri])
        unknown = (Entry(uri) for uri in wanted if uri not in self._known)
        listed = list_tars(unknown, NameFilter(all_files=True), self._storage_options)
        for uri, entries in itertools.groupby(listed, lambda entry: entry.uri):
            here = list(entries)
            archive = _indexed([entry for entry in here if entry.member is not None])
            look_up(uri, archive)
            # One that breaks off, which is the last entry, may be read further the next time.
            if here[-1].member is not None and len(archive.names) <= self._room:
                self._room -= len(archive.names)
                self._known[uri] = archive
        return found


def _indexed(members: Sequence[Entry]) -> _Archive:
    names = _hashes(members)
    order = np.argsort(names)
    offsets = np.array([entry.offset for entry in members], np.int64)
    sizes = np.array([entry.size for entry in members], np.int64)
    return _Archive(names[order], offsets[order], sizes[order])


def _hashes(members: Sequence[Entry]) -> NDArray[np.uint64]:
    digests = (hashlib.blake2b((entry.member or "").encode(), digest_size=8).digest() for entry in members)
    return np.frombuffer(b"".join(digests), np.uint64)
