"""Tables that name images: CSV, TSV, JSON and Parquet with a column of URIs, and text with a URI a line."""

import collections
import contextlib
import gzip
import logging
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from grepr_core.errors import UserError
from pipelines.lake.sources.column_choice import ColumnChoice
from pipelines.lake.sources.duplicates import Seen
from pipelines.lake.sources.entry import Entry
from pipelines.lake.sources.files import open_file, resolve
from pipelines.lake.sources.text_tables import (
    NAMED_MEMBERS,
    Block,
    TextTable,
    open_csv,
    open_json,
    open_text,
)
from pipelines.stores.object_store import STORE_ERRORS
from pipelines.telling.words import counted

log = logging.getLogger(__name__)

COMPRESSED = ".gz"
_PLAIN_SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json")
TEXT_SUFFIXES = (*_PLAIN_SUFFIXES, *(f"{suffix}{COMPRESSED}" for suffix in _PLAIN_SUFFIXES))
TABLE_SUFFIXES = (*TEXT_SUFFIXES, ".parquet")
#: Further columns that are taken over where they hold what grepr writes there; other tools mean other things by them.
_DETAILS = ("size", "etag", "member", "offset")
#: A few of a batch, since a column may hold long lists.
_BATCH_ROWS = 4096
#: What goes wrong with reading a table.
TABLE_ERRORS: tuple[type[Exception], ...] = (pa.ArrowException, EOFError, zlib.error, *STORE_ERRORS)
_LARGEST = 2**63 - 1


@contextlib.contextmanager
def open_text_table(table: str, storage_options: Mapping[str, Any], choice: ColumnChoice) -> Iterator[TextTable]:
    """Opens a table in a text file; its suffix tells the format, and it may be compressed by gzip.

    Args:
        table: URI of the file.
        storage_options: For fsspec.
        choice: Chooses the column of URIs.

    Yields:
        The table.

    Raises:
        UserError: The file cannot be read, or no column of it will do.
    """
    name = table.lower()
    kind = name.removesuffix(COMPRESSED)
    with open_file(table, storage_options) as stored, _plain(stored, compressed=kind != name) as file:
        if kind.endswith(".txt"):
            yield open_text(table, file)
        elif kind.endswith((".csv", ".tsv")):
            yield open_csv(table, file, choice, "\t" if kind.endswith(".tsv") else ",")
        else:
            yield open_json(table, file, choice, lines=not kind.endswith(".json"))


def _plain(file: BinaryIO, *, compressed: bool) -> BinaryIO:
    return cast(BinaryIO, gzip.GzipFile(fileobj=file)) if compressed else file


def list_table(
    table: str, storage_options: Mapping[str, Any], seen: Seen, choice: ColumnChoice, column: str | None = None
) -> Iterator[Entry]:
    """Lists the images that a table names, each once.

    Args:
        table: URI of the file.
        storage_options: For fsspec.
        seen: What the same source has named before.
        choice: Chooses the column of URIs.
        column: The one that was chosen of a Parquet file.

    Yields:
        The images, in the order of the rows. Relative paths are relative to the table's folder.

    Raises:
        UserError: The file cannot be read, or has no column of URIs.
    """
    rows = _Rows(table)
    try:
        with contextlib.ExitStack() as stack:
            if column is None:
                text = stack.enter_context(open_text_table(table, storage_options, choice))
                names, column, blocks = text.names, text.column, text.blocks
            else:
                parquet = pq.ParquetFile(stack.enter_context(open_file(table, storage_options)))
                names = parquet.schema_arrow.names

                def blocks(columns: Sequence[str]) -> Iterator[Block]:
                    return _parquet_blocks(parquet, columns)

            details = [name for name in _DETAILS if name in names and name != column]
            for values, *more in blocks([column, *details]):
                entries = rows.entries(values, dict(zip(details, more, strict=True)))
                keys = [entry.uri if entry.member is None else f"{entry.uri}\0{entry.member}" for entry in entries]
                yield from (entry for entry, new in zip(entries, seen.first_time(keys), strict=True) if new)
    except TABLE_ERRORS as error:
        raise UserError(f"{table}: {error}") from error
    rows.tell(column)


def _parquet_blocks(parquet: pq.ParquetFile, columns: Sequence[str]) -> Iterator[Block]:
    for batch in parquet.iter_batches(_BATCH_ROWS, columns=list(columns)):
        # Batches come in the file's order of columns.
        yield [batch.column(name).to_pylist() for name in columns]


@dataclass
class _Rows:
    """Makes images of a table's rows, and counts what could not be used."""

    table: str
    read: int = 0
    nameless: int = 0
    ignored: "collections.Counter[str]" = field(default_factory=collections.Counter)
    examples: dict[str, Any] = field(default_factory=dict)

    def entries(self, values: Sequence[Any], details: Mapping[str, Sequence[Any]]) -> list[Entry]:
        """Gives the images of some rows.

        Args:
            values: Their URIs, or lists of them.
            details: Their values in the columns of :data:`_DETAILS` that there are.
        """
        found: list[Entry] = []
        self.read += len(values)
        if not details:
            for value in values:
                found += [Entry(uri) for uri in self._uris(value)]
            return found
        rows = zip(*details.values(), strict=True)
        for value, row in zip(values, rows, strict=True):
            known = dict(zip(details, row, strict=True))
            for uri in self._uris(value):
                found.append(self._entry(uri, **known))
        return found

    def _uris(self, value: object) -> list[str]:
        values = value if isinstance(value, list) else [value]
        uris = [resolve(uri, self.table) for each in values if (uri := _text(each))]
        # An empty list names no image, and does not have to.
        self.nameless += len(values) - len(uris)
        return uris

    def _entry(
        self, uri: str, size: object = None, etag: object = None, member: object = None, offset: object = None
    ) -> Entry:
        length, start = self._whole("size", size), self._whole("offset", offset)
        name = _text(member)
        if name is not None and not holds_member(uri, length, start):
            self._ignore("member", name)
            name = None
        if start is not None and (name is None or length is None):
            self._ignore("offset", offset)
            start = None
        return Entry(uri, length, _text(etag), name, start)

    def _whole(self, column: str, value: object) -> int | None:
        if value in (None, "") or value != value:  # noqa: PLR0124 - not a number
            return None
        number = whole_number(value)
        if number is None:
            self._ignore(column, value)
        return number

    def _ignore(self, column: str, value: object) -> None:
        self.ignored[column] += 1
        self.examples.setdefault(column, value)

    def tell(self, column: str) -> None:
        """Says once what could not be used."""
        if not self.read:
            log.warning("%s: has no rows", self.table)
        if self.nameless:
            rows = counted(self.nameless, "row names no image, without", "rows name no image, without")
            log.warning("%s: %s text in column %s", self.table, rows, column)
        for name, count in self.ignored.items():
            wanted = "number of bytes" if name == "size" else "part of a place in an archive (member, offset, size)"
            log.warning(
                "%s: column %s is ignored where it is no %s: in %d of %d rows, such as %r",
                *(self.table, name, wanted, count, self.read, self.examples[name]),
            )


def _text(value: object) -> str | None:
    """Gives a cell's text, None where it has none."""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            return None
    # JSON can name what is no text, half of a character.
    if not isinstance(value, str) or re.search("[\ud800-\udfff]", value):
        return None
    return value or None


def whole_number(value: object) -> int | None:
    """Gives a number from 0 on, in whatever type it is stored; None where there is none.

    Args:
        value: Of a cell; pandas writes whole numbers as 1.0 in columns with gaps.
    """
    try:
        number = value if isinstance(value, int) else float(value)  # type: ignore[arg-type]
        whole = int(number)
    except (TypeError, ValueError, OverflowError):
        return None
    return whole if whole == number and 0 <= whole <= _LARGEST and not isinstance(value, bool) else None


def holds_member(uri: str, size: int | None, offset: int | None) -> bool:
    """Tells whether a file is known for a container, so that ``member`` beside it names what is in it."""
    return uri.lower().endswith(NAMED_MEMBERS) or None not in (size, offset)
