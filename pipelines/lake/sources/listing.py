"""One listing for every kind of source."""

import itertools
import logging
import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from grepr_core.errors import UserError
from grepr_core.storage import absolute, is_local
from pipelines.lake.sources.column_choice import ColumnChoice
from pipelines.lake.sources.duplicates import Seen
from pipelines.lake.sources.entry import Entry, NameFilter, path_from
from pipelines.lake.sources.files import open_file
from pipelines.lake.sources.image_table import list_image_table
from pipelines.lake.sources.inventory import INVENTORY_FILE, list_inventory
from pipelines.lake.sources.local import list_local
from pipelines.lake.sources.parquet_columns import BUFFER_BYTES, Chosen, choose_columns
from pipelines.lake.sources.places import Places
from pipelines.lake.sources.remote import list_remote
from pipelines.lake.sources.tables import TABLE_SUFFIXES, list_table
from pipelines.lake.sources.tar import COMPRESSED_TARS, list_tars
from pipelines.stores.object_store import STORE_ERRORS
from pipelines.telling.words import counted

log = logging.getLogger(__name__)

_WITH_COLUMNS = tuple(suffix for suffix in TABLE_SUFFIXES if ".txt" not in suffix)
#: Rows of a table whose members of archives, named without their places, are looked up together.
_LOOKED_UP = 16_384


class Listing:
    """The images of a source, in a stable order; iterate once.

    Attributes:
        found: Images so far.
    """

    def __init__(
        self,
        source: str,
        *,
        all_files: bool = False,
        column: str | None = None,
        members: Sequence[str] = (),
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Prepares a listing; nothing is read before iteration.

        Args:
            source: A file, folder or glob, by a path or URL: of images, tar archives or tables. A name that ends in
                ``.tar``, ``.parquet``, or ``.csv``, ``.tsv``, ``.txt``, ``.json``, ``.jsonl`` or ``.ndjson`` (or these
                with ``.gz``) stands for the images in it, one that ends in ``manifest.json`` for an S3 Inventory.
            all_files: Takes every file of a folder or archive, whatever its name, hidden ones included.
            column: Of a table, the one that names or holds the images; by default by its name.
            members: Globs of the names that are taken of a folder or archive in place of all that images have; one
                that begins with ``!`` says what is not. See :class:`~pipelines.lake.sources.entry.NameFilter`.
            storage_options: For fsspec.

        Raises:
            UserError: A glob is none.
        """
        self._source = absolute(source)
        self._names = NameFilter(all_files=all_files, members=members)
        self._choice = ColumnChoice(column)
        self._storage_options = dict(storage_options or {})
        self._places = Places(self._storage_options)
        self.found = 0

    @property
    def skipped(self) -> int:
        """Files passed over so far, by their names, or since they are none that can be read."""
        return self._names.skipped

    @property
    def hint(self) -> str:
        """What to do about the files passed over; empty where there were none."""
        if not self.skipped:
            return ""
        for suffix, count in self._names.containers.most_common(1):
            folder = self._source.rstrip("/")
            return f" ({counted(count, f'{suffix} file')}: name them with a glob such as '{folder}/*{suffix}')"
        if self._names.members:
            globs = " ".join(map(repr, self._names.members))
            passed_over = counted(self.skipped, "file was", "files were")
            return f" ({passed_over} passed over, which --members {globs} does not take)"
        passed_over = counted(self.skipped, "file of another name was", "files of other names were")
        return f" ({passed_over} passed over; --all-files takes them)"

    def __iter__(self) -> Iterator[Entry]:
        """Yields the images, each once.

        Raises:
            UserError: The source does not exist, or cannot be read.
        """
        if self._choice.named is not None and not self._source.lower().endswith(_WITH_COLUMNS):
            raise UserError(
                f"{self._source}: --column is of tables with named columns ({', '.join(_WITH_COLUMNS)}); leave it out"
            )
        for entry in self._images():
            self.found += 1
            yield entry
        for glob in self._names.unmatched():
            log.warning("%s: no name matches --members %r", self._source, glob)

    def _images(self) -> Iterator[Entry]:
        if is_local(self._source) and os.path.isdir(self._source):
            return self._files(self._names)
        containers = NameFilter(all_files=True)
        name = self._source.lower()
        if name.endswith(COMPRESSED_TARS):
            raise UserError(f"{self._source}: a compressed archive cannot be read at random; unpack it to .tar")
        if name.endswith("/" + INVENTORY_FILE):
            found = list_inventory(self._source, self._names, self._storage_options)
            return (replace(entry, path=entry.uri.split("/", 3)[3]) for entry in found)
        if name.endswith(".tar"):
            return list_tars(self._files(containers), self._names, self._storage_options)
        if name.endswith(TABLE_SUFFIXES):
            return self._in_tables(self._files(containers))
        return self._files(self._names)

    def _files(self, names: NameFilter) -> Iterator[Entry]:
        if is_local(self._source):
            return list_local(self._source, names)
        return list_remote(self._source, names, self._storage_options)

    def _in_tables(self, tables: Iterable[Entry]) -> Iterator[Entry]:
        seen, members = Seen(), Seen()
        for table in tables:
            # Where all tables are below, which are several where the source is a glob.
            here = table.path is not None and table.uri.endswith(table.path)
            root = table.uri.removesuffix(table.path or "") if here else posixpath.dirname(table.uri) + "/"
            chosen = self._chosen(table.uri) if table.uri.lower().endswith(".parquet") else Chosen()
            if chosen.images:
                yield from _with_paths(list_image_table(table, chosen.images, self._storage_options), root)
            else:
                images = list_table(table.uri, self._storage_options, seen, self._choice, chosen.uris)
                yield from _first_times(self._in_archives(_with_paths(images, root)), members)
        if repeated := seen.repeated + members.repeated:
            times = counted(repeated, "image is", "images are")
            log.warning("%s: %s named more than once; each is taken once", self._source, times)

    def _in_archives(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Puts the members of whole archives in the place of their names, and places to members named without."""
        rows = iter(entries)
        while some := list(itertools.islice(rows, _LOOKED_UP)):
            # What is not found ends as a row that says so.
            placed = self._places(entry for entry in some if _kind(entry) == "member")
            for kind, group in itertools.groupby(some, _kind):
                if kind == "archive":
                    yield from list_tars(group, self._names, self._storage_options)
                elif kind == "member":
                    for entry in group:
                        yield replace(placed.get((entry.uri, entry.member), entry), path=entry.path)
                else:
                    yield from group

    def _chosen(self, uri: str) -> Chosen:
        with open_file(uri, self._storage_options) as file:
            try:
                return choose_columns(uri, pq.ParquetFile(file, buffer_size=BUFFER_BYTES), self._choice)
            except (pa.ArrowException, *STORE_ERRORS) as error:
                raise UserError(f"{uri}: {error}") from error


def _kind(entry: Entry) -> str:
    if not entry.uri.lower().endswith(".tar"):
        return "file"
    if entry.member is None:
        return "archive"
    return "member" if entry.offset is None else "file"


def _first_times(entries: Iterable[Entry], seen: Seen) -> Iterator[Entry]:
    """Leaves out members of archives that have come before, by their own row or with their archive."""
    rows = iter(entries)
    while some := list(itertools.islice(rows, _LOOKED_UP)):
        members = [entry for entry in some if entry.member is not None]
        new = iter(seen.first_time([f"{entry.uri}\0{entry.member}" for entry in members]).tolist() if members else [])
        yield from (entry for entry in some if entry.member is None or next(new))


def _with_paths(entries: Iterable[Entry], root: str) -> Iterator[Entry]:
    return (replace(entry, path=path_from(entry.uri, root)) for entry in entries)
