"""One listing for every kind of source."""

import itertools
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from grepr_core.errors import UserError
from grepr_core.storage import absolute, is_local
from pipelines.lake.sources.duplicates import Seen
from pipelines.lake.sources.entry import Entry, NameFilter
from pipelines.lake.sources.files import open_file
from pipelines.lake.sources.image_table import image_columns, list_image_table
from pipelines.lake.sources.inventory import INVENTORY_FILE, list_inventory
from pipelines.lake.sources.local import list_local
from pipelines.lake.sources.remote import list_remote
from pipelines.lake.sources.tables import TABLE_SUFFIXES, list_table
from pipelines.lake.sources.tar import COMPRESSED_TARS, list_tars
from pipelines.stores.object_store import STORE_ERRORS

log = logging.getLogger(__name__)


class Listing:
    """The images of a source, in a stable order; iterate once."""

    def __init__(
        self, source: str, *, all_files: bool = False, storage_options: Mapping[str, Any] | None = None
    ) -> None:
        """Prepares a listing; nothing is read before iteration.

        Args:
            source: A file, folder or glob, by a path or URL: of images, tar archives or tables. A name that ends in
                ``.tar``, ``.csv``, ``.tsv``, ``.txt`` (or these with ``.gz``) or ``.parquet`` stands for the images in
                it, one that ends in ``manifest.json`` for an S3 Inventory.
            all_files: Takes every file of a folder or archive, whatever its name, hidden ones included.
            storage_options: For fsspec.
        """
        self._source = absolute(source)
        self._names = NameFilter(all_files=all_files)
        self._storage_options = dict(storage_options or {})

    @property
    def skipped(self) -> int:
        """Files passed over so far because their name is not an image's."""
        return self._names.skipped

    @property
    def hint(self) -> str:
        """What to do about the files passed over; empty where there were none."""
        if not self.skipped:
            return ""
        for suffix, count in self._names.containers.most_common(1):
            folder = self._source.rstrip("/")
            return f" ({count} {suffix} files: name them with a glob such as '{folder}/*{suffix}')"
        return f" ({self.skipped} files of other names were passed over; --all-files takes them)"

    def __iter__(self) -> Iterator[Entry]:
        """Yields the images, each once.

        Raises:
            UserError: The source does not exist, or cannot be read.
        """
        if is_local(self._source) and os.path.isdir(self._source):
            return self._files(self._names)
        containers = NameFilter(all_files=True)
        name = self._source.lower()
        if name.endswith(COMPRESSED_TARS):
            raise UserError(f"{self._source}: a compressed archive cannot be read at random; unpack it to .tar")
        if name.endswith("/" + INVENTORY_FILE):
            return list_inventory(self._source, self._names, self._storage_options)
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
        seen = Seen()
        for table in tables:
            if table.uri.lower().endswith(".parquet") and self._holds_images(table.uri):
                yield from list_image_table(table, self._storage_options)
            else:
                yield from self._in_archives(list_table(table.uri, self._storage_options, seen))
        if seen.repeated:
            log.warning("%s: %d images are named more than once; each is taken once", self._source, seen.repeated)

    def _in_archives(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Puts the members of whole archives in the place of their names."""
        for whole, group in itertools.groupby(entries, lambda e: e.member is None and e.uri.lower().endswith(".tar")):
            if whole:
                yield from list_tars(group, self._names, self._storage_options)
            else:
                yield from group

    def _holds_images(self, uri: str) -> bool:
        with open_file(uri, self._storage_options) as file:
            try:
                schema = pq.ParquetFile(file).schema_arrow
            except (pa.ArrowException, *STORE_ERRORS) as error:
                raise UserError(f"{uri}: {error}") from error
        # A column of that very name decides; Hugging Face's image columns are called image.
        return "uri" not in schema.names and bool(image_columns(schema))
