"""The boxes that AVIF, HEIC, JPEG 2000 and JPEG XL files are made of (ISO base media file format)."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

#: More in a row than any program writes.
MAX_BOXES = 10_000


class Box(NamedTuple):
    """A box of a file.

    Attributes:
        kind: Four letters.
        start: Where the box begins.
        body: Where its content begins.
        end: Where it ends; beyond the file where the file has been cut.
    """

    kind: bytes
    start: int
    body: int
    end: int


def boxes(content: bytes, start: int = 0, end: int | None = None) -> Iterator[Box]:
    """Gives the boxes one after the other, the last perhaps cut; ends at what is no box.

    Args:
        content: A file.
        start: Where the first box begins.
        end: Where their parent ends; None for that of the file.
    """
    last = len(content) if end is None else min(end, len(content))
    for _ in range(MAX_BOXES):
        if start + 8 > last:
            return
        size, kind = struct.unpack_from(">I4s", content, start)
        body = start + 8
        if size == 1 and start + 16 <= last:
            (size,) = struct.unpack_from(">Q", content, body)
            body += 8
        if size == 0:
            size = last - start
        if size < body - start:
            return
        yield Box(kind, start, body, start + size)
        start += size


def find(content: bytes, *path: bytes) -> Box | None:
    """Gives the first box of each kind within the first of the kind before it."""
    found, start, end = None, 0, None
    for kind in path:
        found = next((box for box in boxes(content, start, end) if box.kind == kind), None)
        if found is None:
            return None
        # "meta" has a version and flags before its first box.
        start, end = found.body + (4 if kind == b"meta" else 0), found.end
    return found


def are_cut(content: bytes) -> bool:
    """Tells whether the last box claims more than there is."""
    return any(box.end > len(content) for box in boxes(content))
