"""Tables that are text: CSV and TSV, JSON, and a URI a line, a block of rows at a time."""

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import ijson

from grepr_core.errors import UserError
from pipelines.lake.sources.column_choice import ColumnChoice

#: Rows and JSON records that are held at once; of JSON, the first so many also tell columns and types.
_BLOCK_ROWS, _BLOCK_RECORDS = 1024, 4096
#: Characters of a line or a cell at most, so that a quote which is never closed does not swallow a file of any size.
MOST_CHARACTERS = 2**24
#: Bytes within which a first line is looked for, to tell JSON lines from one JSON value.
_FIRST_LINE = 2**20
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
#: Marks at the start of a file, those that begin with another one first.
_MARKS = {
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
#: What an archive's or a table's name ends in, the containers of which an image is told by a member's name alone.
NAMED_MEMBERS = (".tar", ".parquet")
Block = list[Sequence[Any]]


@dataclass(frozen=True)
class TextTable:
    """A table in a text file that is open.

    Attributes:
        names: Of its columns; of JSON, those of the first rows.
        column: That of the URIs.
        blocks: Gives the values of some columns, a block of rows at a time, each a sequence a column; None
            or an empty text where there is none.
        typed: Whether values have types of their own; else all are text.
    """

    names: list[str]
    column: str
    blocks: Callable[[Sequence[str]], Iterator[Block]]
    typed: bool


def open_csv(url: str, file: BinaryIO, choice: ColumnChoice, separator: str) -> TextTable:
    """Opens CSV, in UTF-8 or marked UTF-16.

    Args:
        url: Of the file, for messages.
        file: The file.
        choice: Chooses the column of URIs.
        separator: What most likely stands between cells; another one is taken where this gives no column of URIs.

    Returns:
        The table; a row that is not as the first, or a quote that does not end as it should, is an error on reading it.

    Raises:
        UserError: No column will do, or the file is no text.
    """
    lines = _lines(url, file, newline="")
    head: list[str] = []  # blank lines, which count for messages, and the names
    while not (head and head[-1].strip()) and (line := next(lines, None)) is not None:
        head.append(line)
    first = head[-1] if head else ""
    if not first.strip():
        raise UserError(f"{url}: is empty; a first line with the names of its columns is expected")
    for candidate in dict.fromkeys((separator, *_SEPARATORS)):
        names = _cells(first, candidate)
        if (column := choice.find(names)) is not None:
            choice.tell(url, [column], choice.candidates(names))
            break
    else:
        raise choice.none_found(url, _cells(first, separator))

    def blocks(columns: Sequence[str]) -> Iterator[Block]:
        places = [names.index(name) for name in columns]
        rows = _csv_rows(url, itertools.chain(head, lines), candidate)
        next(rows)
        while block := list(itertools.islice(rows, _BLOCK_ROWS)):
            cells = [*zip(*block, strict=True)]
            yield [cells[place] for place in places]

    return TextTable(names, column, blocks, typed=False)


def _cells(line: str, separator: str) -> list[str]:
    return [name.strip() for name in next(csv.reader([line], delimiter=separator), [])]


def _csv_rows(url: str, lines: Iterable[str], separator: str) -> Iterator[list[str]]:
    csv.field_size_limit(MOST_CHARACTERS)
    # Strict, so that a quote which is not closed where it should be is an error, not a cell that swallows rows.
    reader = csv.reader(lines, delimiter=separator, strict=True)
    width, start = None, 1
    try:
        for row in reader:
            if row:
                width = width or len(row)
                if len(row) != width:
                    raise UserError(
                        f"{url}, line {start}: has {len(row)} cells, and the first line has {width}; cells that hold "
                        f"{_SEPARATORS[separator]} or line breaks need quotes"
                    )
                yield row
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{url}, line {start}: in the row that begins here a quote is not closed where its cell ends ({error}); "
            "close it, and write quotes inside of quotes twice"
        ) from error


def open_json(url: str, file: BinaryIO, choice: ColumnChoice, *, lines: bool) -> TextTable:
    """Opens JSON: an object a line, or a list of objects, which may be the ``images`` of an object, as COCO has it.

    Args:
        url: Of the file, for messages.
        file: The file.
        choice: Chooses the column of URIs.
        lines: There is an object a line; else it is looked which of these it is.

    Returns:
        The table. A list of texts has them as column ``uri``.

    Raises:
        UserError: No column will do, or the file is no such JSON.
    """
    records = _json_lines(url, _lines(url, file)) if lines or _has_json_lines(file) else _json_list(url, file)
    first = list(itertools.islice(records, _BLOCK_RECORDS))
    if not first:
        raise UserError(f"{url}: holds no records; an object a line is expected, or a list of objects")
    names = list(dict.fromkeys(itertools.chain.from_iterable(first)))
    if (column := choice.find(names)) is None:
        raise choice.none_found(url, names)
    choice.tell(url, [column], choice.candidates(names))

    def blocks(columns: Sequence[str]) -> Iterator[Block]:
        block = first
        while block:
            yield [[record.get(name) for record in block] for name in columns]
            block = list(itertools.islice(records, _BLOCK_RECORDS))

    return TextTable(names, column, blocks, typed=True)


def _has_json_lines(file: BinaryIO) -> bool:
    first = file.readline(_FIRST_LINE)
    while first and not first.strip():
        first = file.readline(_FIRST_LINE)
    file.seek(0)
    try:
        value = json.loads(first)
    except ValueError:
        return False
    return isinstance(value, dict) and not isinstance(value.get("images"), list)


def _json_lines(url: str, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield _record(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{url}, line {number}: {error}; a JSON object a line is expected") from error


def _json_list(url: str, file: BinaryIO) -> Iterator[dict[str, Any]]:
    expected = "expected is a list of objects, an object with a list 'images', or an object a line"
    start = file.read(4)
    if start.startswith(tuple(_MARKS)):
        raise UserError(f"{url}: is JSON in UTF-16 or UTF-32; save it in UTF-8")
    file.seek(3 if start.startswith(b"\xef\xbb\xbf") else 0)
    within = file.tell()
    first = file.read(_FIRST_LINE).lstrip()[:1]
    file.seek(within)
    if first not in b"[{":
        raise UserError(f"{url}: is no JSON; {expected}")
    try:
        records = ijson.items(file, "item" if first == b"[" else "images.item", use_float=True)
        for number, value in enumerate(records):
            try:
                yield _record(value)
            except ValueError as error:
                raise UserError(f"{url}, record {number}: {error}; {expected}") from error
    except ijson.JSONError as error:
        raise UserError(f"{url}: is no JSON, or is cut short: {' '.join(str(error).split())}; {expected}") from error


def _record(value: object) -> dict[str, Any]:
    if isinstance(value, str):
        return {"uri": value}
    if not isinstance(value, dict):
        raise ValueError(f"is {json.dumps(value)[:40]}")
    return value


def open_text(url: str, file: BinaryIO) -> TextTable:
    """Opens text with a URI a line; of an image in a container, the container's URI, a tab, and its name there.

    Args:
        url: Of the file, for messages.
        file: The file.

    Returns:
        The table, of ``uri`` and ``member``.
    """
    lines = (line for line in _lines(url, file) if line.strip())

    def blocks(columns: Sequence[str]) -> Iterator[Block]:
        while block := list(itertools.islice(lines, _BLOCK_ROWS)):
            values = dict(zip(("uri", "member"), zip(*map(uri_and_member, block), strict=True), strict=True))
            yield [values[name] for name in columns]

    return TextTable(["uri", "member"], "uri", blocks, typed=False)


def uri_and_member(line: str) -> tuple[str, str | None]:
    """Gives what a line of a list of URIs names: an image, or a container and the image's name there."""
    container, _, member = line.rstrip("\n").partition("\t")
    if member and container.lower().endswith(NAMED_MEMBERS):
        return container, member
    return line.strip(), None


def _lines(url: str, file: BinaryIO, newline: str | None = None) -> Iterator[str]:
    start = file.read(4)
    file.seek(0)
    encoding = next((name for mark, name in _MARKS.items() if start.startswith(mark)), "utf-8-sig")
    text = io.TextIOWrapper(file, encoding=encoding, newline=newline)
    for number in itertools.count(1):
        try:
            line = text.readline(MOST_CHARACTERS)
        except UnicodeError as error:
            raise UserError(
                f"{url}, line {number} or soon after: is no text in {encoding.removesuffix('-sig').upper()}; save the "
                "table in UTF-8"
            ) from error
        if "\0" in line:
            raise UserError(
                f"{url}, line {number}: holds a NUL, so it is no text in UTF-8, but binary, or UTF-16 without its "
                "mark; save the table in UTF-8"
            )
        if len(line) == MOST_CHARACTERS:
            raise UserError(f"{url}, line {number}: has {MOST_CHARACTERS:,} characters or more, so this is no table")
        if not line:
            return
        yield line
