"""What the user knows of the images: a table to be joined with the scores."""

import contextlib
import csv
import io
import itertools
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from grepr_core.errors import UserError
from grepr_core.storage import absolute
from grepr_core.web.access import for_reading
from pipelines.lake.sources.column_choice import ColumnChoice
from pipelines.lake.sources.files import open_file, resolve
from pipelines.lake.sources.parquet_columns import text_columns
from pipelines.lake.sources.tables import TABLE_ERRORS, TEXT_SUFFIXES, holds_member, open_text_table, whole_number
from pipelines.lake.sources.text_tables import Block, TextTable

BATCH_ROWS = 65_536
#: Read to tell the types of a CSV file's columns.
CSV_BLOCK_BYTES = 16 * 2**20
ID = "image_id"
#: Which tell whether ``member`` is one of an archive.
_PLACE = ("size", "offset")
Batches = Callable[[Sequence[str], Sequence[str]], Iterator[pa.Table]]
_NO_KEY = f"no column to join by, {ID} or one of URIs"


class _KeyChoice(ColumnChoice):
    """The column to join by, ``image_id`` first."""

    def find(self, names: Sequence[str]) -> str | None:
        return ID if self.named is None and ID in names else super().find(names)

    def tell(self, table: str, chosen: Sequence[str], others: Sequence[str]) -> None:
        if ID not in chosen:
            super().tell(table, chosen, others)

    def none_found(self, table: str, names: Sequence[str], *, wanted: str = _NO_KEY) -> UserError:
        return super().none_found(f"--metadata {table}", names, wanted=wanted)


def read_metadata(
    table: str, storage_options: Mapping[str, Any], mentions: Callable[[str], bool], *, column: str | None = None
) -> tuple[tuple[str, ...], Iterator[pa.Table]]:
    """Reads a table of metadata.

    Args:
        table: Path or URL of a Parquet, CSV, TSV or JSON file, the text ones also compressed by gzip.
        storage_options: For fsspec.
        mentions: Tells which columns are wanted.
        column: The one to join by; by default ``image_id``, or the one that is named like one of URIs.

    Returns:
        The columns of the scores that it is joined by; and its rows, a part at a time, with these as ``__key0``,
        ``__key1``, and the columns that are wanted. ``__path`` and ``__member`` are what a lake that was moved is
        joined by, null where a row tells no path below a folder.

    Raises:
        UserError: It cannot be read, or has no column to join by.
    """
    url = absolute(table)
    stack = contextlib.ExitStack()
    try:
        names, key, batches = _open(url, for_reading(storage_options, url), _KeyChoice(column), stack)
    except TABLE_ERRORS as error:
        raise UserError(f"--metadata {table}: {error}") from error
    by_id = key.lower() == ID
    keys = (
        {ID: key} if by_id else {"uri": key} | ({"member": "member"} if "member" in names and key != "member" else {})
    )
    columns = [name for name in names if name not in keys.values() and mentions(name)]
    if "member" in keys and mentions("metadata.member"):
        columns.append("member")
    place = [name for name in _PLACE if "member" in keys and name in names and name not in columns]
    path = "path" if "path" in names else None if by_id else key
    places = [name for name in (path, "member") if name is not None and name in names]

    def parts() -> Iterator[pa.Table]:
        text = [*dict.fromkeys((*keys.values(), *places))]
        with stack:
            for batch in batches([*dict.fromkeys((*text, *columns, *place))], text):
                found = {f"__key{i}": _as_text(batch[name]) for i, name in enumerate(keys.values())}
                found["__path"] = found["__member"] = pa.chunked_array([pa.nulls(len(batch), pa.string())])
                if path is not None:
                    found["__path"] = _paths(_as_text(batch[path]))
                    if "member" in places:
                        found["__member"] = _members(found["__path"], _as_text(batch["member"]), batch)
                if "member" in keys:
                    found["__key1"] = _members(found["__key0"], found["__key1"], batch)
                if not by_id:
                    found["__key0"] = _resolved(found["__key0"], url)
                yield pa.table({**found, **{name: batch[name] for name in columns}})

    return tuple(keys), _complaining(parts(), table)


def _open(
    url: str, storage_options: Mapping[str, Any], choice: ColumnChoice, stack: contextlib.ExitStack
) -> tuple[Sequence[str], str, Batches]:
    """Gives the names of the columns, the one to join by, and what reads some of them, of which some as text."""
    if url.lower().endswith(TEXT_SUFFIXES):
        table = stack.enter_context(open_text_table(url, storage_options, choice))
        if table.typed:
            return table.names, table.column, lambda columns, text: _typed_batches(table.blocks(columns), columns, text)
        return table.names, table.column, lambda columns, text: _csv_batches(table, columns, text)
    parquet = pq.ParquetFile(stack.enter_context(open_file(url, storage_options)))
    schema = parquet.schema_arrow
    candidates = [schema.names] if choice.named is not None else text_columns(schema)
    key = next((key for names in candidates if (key := choice.find(names)) is not None), None)
    if key is None:
        raise choice.none_found(url, schema.names)
    choice.tell(url, [key], choice.candidates(candidates[0]))

    def batches(columns: Sequence[str], _: Sequence[str]) -> Iterator[pa.Table]:
        yield schema.empty_table().select(columns)
        for batch in parquet.iter_batches(BATCH_ROWS, columns=list(columns)):
            yield pa.Table.from_batches([batch])

    return schema.names, key, batches


def _csv_batches(table: TextTable, columns: Sequence[str], text: Sequence[str]) -> Iterator[pa.Table]:
    """Has pyarrow tell the types of columns whose rows were read and checked already."""
    rows = io.BufferedReader(_Written(columns, table.blocks(columns)), CSV_BLOCK_BYTES)
    reader = pyarrow.csv.open_csv(
        rows,
        read_options=pyarrow.csv.ReadOptions(block_size=CSV_BLOCK_BYTES),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(text, pa.string()), null_values=[""], strings_can_be_null=True
        ),
    )
    yield reader.schema.empty_table()
    for batch in reader:
        yield pa.Table.from_batches([batch])


class _Written(io.RawIOBase):
    """Rows as a file of CSV, written while it is read."""

    def __init__(self, columns: Sequence[str], blocks: Iterable[Block]) -> None:
        self._parts = self._write(columns, blocks)
        self._rest = memoryview(b"")

    @staticmethod
    def _write(columns: Sequence[str], blocks: Iterable[Block]) -> Iterator[bytes]:
        for rows in itertools.chain([[columns]], (zip(*block, strict=True) for block in blocks)):
            part = io.StringIO(newline="")
            csv.writer(part, lineterminator="\n").writerows(rows)
            yield part.getvalue().encode()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - whatever can be written to
        if not self._rest:
            self._rest = memoryview(next(self._parts, b""))
        part, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


def _typed_batches(blocks: Iterable[Block], columns: Sequence[str], text: Sequence[str]) -> Iterator[pa.Table]:
    """Gives rows whose values have types; those of the first block are those of all."""
    kinds: dict[str, pa.DataType] = dict.fromkeys(text, pa.string())
    for block in blocks:
        found = {}
        for name, values in zip(columns, block, strict=True):
            given = [None if value is None else str(value) for value in values] if name in text else values
            try:
                found[name] = pa.array(given, kinds.get(name))
            except (pa.ArrowException, TypeError) as error:
                raise ValueError(f"column {name}: {error}; its values need one type") from error
            if pa.types.is_null(found[name].type):
                found[name] = found[name].cast(pa.string())
            kinds[name] = found[name].type
        yield pa.table(found)


def _complaining(parts: Iterable[pa.Table], table: str) -> Iterator[pa.Table]:
    try:
        yield from parts
    except TABLE_ERRORS as error:
        raise UserError(f"--metadata {table}: {error}") from error


def _as_text(values: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_nested(values.type):  # a column of the user's own that has the name of one of ours
        return pa.chunked_array([pa.nulls(len(values), pa.string())])
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    return values.cast(pa.string())


def _members(uris: pa.ChunkedArray, members: pa.ChunkedArray, batch: pa.Table) -> pa.ChunkedArray:
    """Gives members of containers; what else a table may mean by the word is no part of the key."""
    if members.null_count == len(members):
        return members
    places = [batch[name].to_pylist() if name in batch.column_names else [None] * len(batch) for name in _PLACE]
    rows = zip(uris.to_pylist(), members.to_pylist(), *places, strict=True)
    kept = [
        member if uri is not None and holds_member(uri, whole_number(size), whole_number(offset)) else None
        for uri, member, size, offset in rows
    ]
    return pa.chunked_array([kept], pa.string())


def _resolved(uris: pa.ChunkedArray, table: str) -> pa.ChunkedArray:
    """Gives URIs as scores have them."""
    relative = pc.invert(pc.or_(pc.starts_with(uris, "/"), pc.match_substring(uris, "://")))
    # Schemes in capitals, file URLs, paths with dots.
    odd = pc.or_(relative, pc.match_substring_regex(uris, r"^(file:|[^/:]*[A-Z][^/:]*:)|/\.{1,2}/"))
    if not pc.any(odd).as_py():
        return uris
    return pa.chunked_array([[uri if uri is None else resolve(uri, table) for uri in uris.to_pylist()]], pa.string())


def _paths(references: pa.ChunkedArray) -> pa.ChunkedArray:
    """Gives the paths below a folder that references are, as scores have them; null for all others."""
    absolute = pc.or_(pc.starts_with(references, "/"), pc.match_substring(references, "://"))
    paths = pc.if_else(absolute, None, references)
    if not pc.any(pc.match_substring_regex(paths, r"(^|/)\.{0,2}/|/\.{0,2}$")).as_py():
        return paths
    normal = [path if path is None else posixpath.normpath(path) for path in paths.to_pylist()]
    return pa.chunked_array([normal], pa.string())
