"""PNG: what Pillow is to see of a file, so that damage beside the picture costs nothing; transparent deep colours."""

import bisect
import io
import itertools
import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from grepr_core.decoding.depth import over_white, to_eight_bits
from grepr_core.decoding.later_image import LaterImage
from grepr_core.decoding.refusal import Refusal

SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Of the usual 8 kB each they fill the largest file that is read.
MAX_CHUNKS = 70_000
#: Pillow takes no longer ones.
MAX_PROFILE_BYTES = 2**20
#: Chunks that decide on pixels. Of an animation what remains is the picture for viewers that know of none.
_KEPT = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"iCCP", b"eXIf")
#: Where older versions of ImageMagick put EXIF.
_RAW_EXIF = b"Raw profile type exif\0"
_END = struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND"))


def open_png(encoded: bytes) -> Image.Image:
    """Reads the header of a PNG.

    Chunks that do not matter for pixels are passed over, and with them what may be wrong with them: text, times,
    resolutions, a missing end. So are profiles and transparency whose checksum is wrong.

    Args:
        encoded: Content of the file.

    Returns:
        The image, not yet decoded.

    Raises:
        Exception: Whatever Pillow raises on a damaged header.
    """
    pieces = [memoryview(SIGNATURE)]
    depth = colour_type = -1
    in_picture = False
    once: set[bytes] = set()
    for kind, start, end in _chunks(encoded):
        if end > len(encoded):
            # What there is of a last piece of the picture may be all that is missing, or not needed.
            if kind == b"IDAT":
                rest = memoryview(encoded)[start + 8 :]
                pieces += [memoryview(struct.pack(">I4s", len(rest), kind)), rest, memoryview(bytes(4))]
            break
        body = memoryview(encoded)[start + 8 : end - 4]
        if kind == b"IHDR" and len(body) >= 10:
            depth, colour_type = body[8], body[9]
        if kind in once or (kind == b"tRNS" and (in_picture or not _fits(body, colour_type))):
            continue
        if _is_needed(kind, body, encoded[end - 4 : end], colour_type):
            pieces.append(memoryview(encoded)[start:end])
            if kind[:1].islower():
                once.add(kind)
        in_picture |= kind == b"IDAT"
    pieces.append(memoryview(_END))
    has_transparency = b"tRNS" in once
    image = Image.open(io.BufferedReader(_Pieces(pieces)), formats=("PNG",))
    if has_transparency and colour_type == 0:
        # Pillow takes the value as it is stored, but widens pixels of 1, 2 and 4 bits to 8.
        widened = 255 // (2**depth - 1) if depth < 8 else 1
        mask = 0xFFFF if depth == 16 else 2**depth - 1
        if depth > 1:
            image.info["transparency"] = (image.info["transparency"] & mask) * widened
    if has_transparency and colour_type == 2 and depth == 16:
        # Pillow drops the lower bytes before it compares.
        info = {key: value for key, value in image.info.items() if key != "transparency"}
        return LaterImage("PNG", image.size, info, lambda: _deep_colours(b"".join(pieces)))
    return image


def _chunks(encoded: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Gives kind, start and end of the chunks up to IEND; the end of one that is cut lies beyond the file."""
    at = len(SIGNATURE)
    for _ in range(MAX_CHUNKS):
        if at + 8 > len(encoded):
            return
        length, kind = struct.unpack_from(">I4s", encoded, at)
        if kind == b"IEND":
            return
        yield kind, at, at + length + 12
        at += length + 12
    raise Refusal(f"damaged PNG file: more than {MAX_CHUNKS:,} chunks")


def _is_needed(kind: bytes, body: memoryview, checksum: bytes, colour_type: int) -> bool:
    if kind[:1].isupper():
        # A palette that is a mere suggestion may be damaged; unknown chunks that are critical, Apple's, say, may not.
        return kind != b"PLTE" or colour_type == 3 or _is_intact(kind, body, checksum)
    if kind in (b"tEXt", b"zTXt"):
        return body[: len(_RAW_EXIF)] == _RAW_EXIF and _is_intact(kind, body, checksum) and _inflates(kind, body)
    return kind in _KEPT and _is_intact(kind, body, checksum) and (kind != b"iCCP" or _inflates(kind, body))


def _fits(transparency: memoryview, colour_type: int) -> bool:
    """Tells whether a tRNS has the length that goes with the colours."""
    return len(transparency) == {0: 2, 2: 6}.get(colour_type, -1) or (colour_type == 3 and len(transparency) > 0)


def _is_intact(kind: bytes, body: memoryview, checksum: bytes) -> bool:
    return zlib.crc32(body, zlib.crc32(kind)).to_bytes(4, "big") == checksum


def _inflates(kind: bytes, body: memoryview) -> bool:
    """Tells whether what a chunk holds compressed behind a name is whole and no bomb."""
    if kind == b"tEXt":
        return True
    name, _, rest = bytes(body).partition(b"\0")
    if not name or rest[:1] != b"\0":
        return False
    inflate = zlib.decompressobj()
    try:
        inflate.decompress(rest[1:], MAX_PROFILE_BYTES)
    except zlib.error:
        return False
    return inflate.eof


def _deep_colours(encoded: bytes) -> Image.Image:
    """Decodes 16-bit RGB of which one colour is transparent."""
    import imagecodecs

    values = imagecodecs.png_decode(encoded)
    alpha = to_eight_bits(values[:, :, 3])
    return Image.fromarray(over_white(to_eight_bits(values[:, :, :3]), alpha, (255, 255, 255), associated=False))


class _Pieces(io.RawIOBase):
    """Pieces of bytes, read as one file without a copy."""

    def __init__(self, pieces: list[memoryview]) -> None:
        self._pieces = pieces
        self._ends = list(itertools.accumulate(map(len, pieces)))
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._ends[-1]}[whence])
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        index = bisect.bisect_right(self._ends, self._at)
        if index == len(self._pieces):
            return 0
        piece = self._pieces[index]
        offset = self._at - (self._ends[index] - len(piece))
        part = piece[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)
