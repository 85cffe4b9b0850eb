"""JPEG: the header by a walk along the file's segments, the pixels by libjpeg-turbo, at a reduced scale where asked.

Pillow decodes by the same library, to the same bits, but hides what that complains about, so that a torn picture looks
whole; refuses pictures for segments beside them; and reduces by powers of two alone. Here the library gets a copy of
the file's tables, frame and scans with nothing else, so that all it still complains about is damage of the picture.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray

#: Segments and scans of a file: of 64 kB each, they fill more than the largest file that is read.
MAX_SEGMENTS = 20_000
#: Larger profiles are ignored; those of printing presses stay below.
MAX_PROFILE_BYTES = 4 * 2**20
#: So many zeros in a row are no part of a picture, where the codes of zeros mean fine detail in every block.
ZEROS = 64
#: Scales that the decoder is fast at, in eighths: those of 5 to 7 eighths take longer than the whole.
SCALES = (1, 2, 3, 4, 8)

#: All markers but those that lie within scans: stuffed zeros, padding, restarts.
_MARKER = re.compile(rb"\xff([\x02-\xcf\xd8-\xfe])")
_SOI, _EOI, _SOS, _DHT, _APP0, _APP1, _APP2, _APP14 = 0xD8, 0xD9, 0xDA, 0xC4, 0xE0, 0xE1, 0xE2, 0xEE
#: Tables, restart interval, number of lines.
_TABLES = frozenset({_DHT, 0xCC, 0xDB, 0xDC, 0xDD})
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = frozenset({0xC0, 0xC1, 0xC9})
_PROGRESSIVE = frozenset({0xC2, 0xCA})
_ARITHMETIC = frozenset({0xC9, 0xCA})
#: Both say how colours are stored; the rest of their content is left out.
_JFIF = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
_ADOBE = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0"

_ALL_COEFFICIENTS = frozenset(range(64))
_COLOURS = {1: "GRAY", 3: "RGB", 4: "CMYK"}
_HEADER = "it begins like JPEG, but its header is damaged, cut short or of an unsupported variant"
_CUT_SHORT = "cut short: the JPEG file ends before its picture does"
_ZEROS = "damaged JPEG file: zeros in place of a part of its data"
_TORN = "damaged JPEG file: from some place on, its data make no picture"


class JpegError(Exception):
    """Why a JPEG cannot be decoded, in words."""


@dataclass(frozen=True, slots=True)
class Jpeg:
    """A JPEG whose header has been read.

    Attributes:
        width: In pixels, as stored.
        height: Likewise.
        components: 1 is grey, 3 are colours, 4 are inks.
        scans: How often its data go over the picture: once, or 10 times where it is progressive.
        exif: EXIF, from its byte order on; None where there is none.
        profile: ICC profile; None where there is none that is whole.
        has_end: Whether its picture ends in the marker that it should end in.
        is_cut: Whether scans are missing.
        flat_is_zeros: Whether a flat area may be stored as zeros.
        pieces: What of the file makes the picture, a JPEG file without anything else once it is joined.
    """

    width: int
    height: int
    components: int
    scans: int
    exif: bytes | None
    profile: bytes | None
    has_end: bool
    is_cut: bool
    flat_is_zeros: bool
    pieces: tuple[bytes | memoryview, ...]


def read_jpeg(encoded: bytes) -> Jpeg:
    """Reads the header of a JPEG's first picture, and finds its data.

    Segments beside the picture do no harm, whatever they hold. It takes a millisecond a megabyte.

    Args:
        encoded: Content of the file.

    Returns:
        The header; its pieces refer to ``encoded``.

    Raises:
        JpegError: There is no header of a kind that can be decoded.
    """
    segments = list(_segments(encoded))
    frames = [segment for segment in segments if segment.marker in _FRAMES]
    scans = [segment for segment in segments if segment.marker == _SOS]
    if not frames or not scans or len(frame := bytes(frames[0].content)) < 6:
        raise JpegError(_HEADER)
    height, width, components = int.from_bytes(frame[1:3]), int.from_bytes(frame[3:5]), frame[5]
    if frame[0] in range(9, 17):
        raise JpegError(f"it begins like JPEG, but of {frame[0]} bits a value, of which only 8 are read")
    if frame[0] != 8 or components not in _COLOURS or min(width, height) == 0:
        raise JpegError(_HEADER)
    kind = frames[0].marker
    has_end = segments[-1].marker == _EOI
    lacks_scans = kind in _SEQUENTIAL | _PROGRESSIVE and not set(frame[6::3]) <= _finished(scans, kind)
    exif = _contents(segments, _APP1, b"Exif\0\0")
    return Jpeg(
        width=width,
        height=height,
        components=components,
        scans=len(scans),
        exif=bytes(exif[0]) if exif else None,
        profile=_joined(_contents(segments, _APP2, b"ICC_PROFILE\0")),
        has_end=has_end,
        # Of arithmetic coding the decoder takes for zeros what is missing, as it should, and does not complain.
        is_cut=lacks_scans or (kind in _ARITHMETIC and not has_end),
        # Codes that are zeros throughout are the shortest; a scan of several components needs them all.
        flat_is_zeros=len(scans) > 1 or kind not in _SEQUENTIAL or not any(_shortest_codes(segments)),
        pieces=(b"\xff\xd8", _colour_segments(segments, components), *_picture(segments, kind), b"\xff\xd9"),
    )


def scale_for(jpeg: Jpeg, at_least: tuple[int, int]) -> int:
    """Chooses the scale to decode at.

    Args:
        jpeg: The header.
        at_least: Width and height, as stored, in pixels.

    Returns:
        The smallest of :data:`SCALES`, in eighths, at which the picture is at least so wide and high; else 8.
    """
    width, height = at_least
    return next((s for s in SCALES if jpeg.width * s >= 8 * width and jpeg.height * s >= 8 * height), 8)


def decode_jpeg(jpeg: Jpeg, *, eighths: int = 8) -> NDArray[np.uint8]:
    """Decodes a picture, without the interpreter's lock.

    Takes memory for the result and the encoded picture, and of more than one scan 2 bytes a stored sample: 3 to 6
    bytes a pixel of the whole picture, whatever the scale.

    Args:
        jpeg: What :func:`read_jpeg` gave.
        eighths: Scale, one of :data:`SCALES`.

    Returns:
        (H, W, C) uint8: grey, RGB, or inks, of which 255 is the most. Sides are rounded; of odd sizes it is a part of
        a larger array.

    Raises:
        JpegError: The picture is not whole: its data end too early, or make no picture from some place on.
        MemoryError: There is too little memory.
    """
    if jpeg.is_cut:
        raise JpegError(_CUT_SHORT)
    height, width = (-(-side * eighths // 8) for side in (jpeg.height, jpeg.width))
    pixels = np.empty((height, width, jpeg.components), np.uint8)
    encoded = b"".join(jpeg.pieces)
    complaint = ""
    try:
        simplejpeg.decode_jpeg(encoded, _COLOURS[jpeg.components], min_height=height, min_width=width, buffer=pixels)
    except ValueError as error:
        complaint = str(error)  # It has decoded to the end nevertheless, and gives the first of its complaints.
    padding = re.search(r"(\d+) extraneous bytes before marker 0xd9", complaint)
    end = len(encoded) - 2 - (int(padding[1]) if padding else 0)
    if not jpeg.flat_is_zeros and encoded.find(bytes(ZEROS), 0, end) >= 0:
        raise JpegError(_ZEROS)
    if complaint and not padding:
        raise _meaning_of(complaint)
    # Some encoders pad before the end marker. Where that is missing, anything may follow.
    if jpeg.has_end and len(encoded) - 4 > end and len(set(encoded[end:-2])) > 1:
        raise JpegError(_TORN)
    if jpeg.components == 4:  # As Adobe's programs write it, which all others took over.
        np.invert(pixels, out=pixels)
    # Whole blocks are decoded, of which the last ones may reach beyond the picture.
    return pixels[: max(1, round(jpeg.height * eighths / 8)), : max(1, round(jpeg.width * eighths / 8))]


class _Segment(NamedTuple):
    marker: int
    #: From the marker on.
    whole: memoryview
    #: Up to the next one: of a scan its pixels, of others nothing that is of use.
    data: memoryview

    @property
    def content(self) -> memoryview:
        """What is behind marker and length."""
        return self.whole[4:]


def _segments(encoded: bytes) -> Iterator[_Segment]:
    """Gives the segments of the first picture, to its end marker or the start of another picture."""
    view = memoryview(encoded)
    found = _MARKER.search(encoded, 2)
    for _ in range(MAX_SEGMENTS):
        if found is None or found[1][0] == _SOI:
            return
        marker, start = found[1][0], found.start()
        end = start + 2 + max(2, int.from_bytes(encoded[start + 2 : start + 4]))
        found = None if marker == _EOI else _MARKER.search(encoded, end)
        yield _Segment(marker, view[start:end], view[end : found.start() if found else len(encoded)])
    raise JpegError(f"damaged JPEG file: more than {MAX_SEGMENTS:,} segments")


def _contents(segments: Sequence[_Segment], marker: int, name: bytes) -> list[memoryview]:
    """Gives what is behind the name in segments of that name."""
    start = len(name)
    return [s.content[start:] for s in segments if s.marker == marker and bytes(s.content[:start]) == name]


def _picture(segments: Sequence[_Segment], kind: int) -> Iterator[bytes | memoryview]:
    """Gives the pieces of tables, frame and scans."""
    for segment in segments:
        if segment.marker in _TABLES | _FRAMES:
            yield segment.whole
        elif segment.marker == _SOS:
            if kind in _SEQUENTIAL:  # Some encoders leave other values here, which mean nothing, but are complained of.
                yield from (segment.whole[:-3], b"\0\x3f\0")
            else:
                yield segment.whole
            yield segment.data


def _colour_segments(segments: Sequence[_Segment], components: int) -> bytes:
    """Gives segments that tell the same of how colours are stored, and nothing else."""
    # One that is too short is damaged, and says nothing.
    jfif = any(len(content) >= 9 for content in _contents(segments, _APP0, b"JFIF\0"))
    adobe = [content[6] for content in _contents(segments, _APP14, b"Adobe") if len(content) >= 7]
    # Codes other than 0, for colours or inks as they are, all count as the usual one.
    return _JFIF * jfif + (_ADOBE + bytes([components // 2 if adobe[-1] else 0]) if adobe else b"")


def _shortest_codes(segments: Sequence[_Segment]) -> list[int]:
    """Gives what the shortest code of each Huffman table for detail means, of which 0 is the end of a block."""
    meanings = []
    for tables in (bytes(segment.content) for segment in segments if segment.marker == _DHT):
        at = 0
        while at + 17 < len(tables):
            if tables[at] >> 4:
                meanings.append(tables[at + 17])
            at += 17 + sum(tables[at + 1 : at + 17])
    return meanings


def _finished(scans: Sequence[_Segment], kind: int) -> set[int]:
    """Gives the components of which every coefficient is there to its last bit."""
    seen: dict[int, set[int]] = {}
    for scan in (bytes(segment.content) for segment in scans if len(segment.content) >= 6):
        first, last, bits = scan[-3:] if kind in _PROGRESSIVE else (0, 63, 0)
        for component in scan[1:-3:2]:
            seen.setdefault(component, set()).update(range(first, last + 1) if bits & 15 == 0 else ())
    return {component for component, coefficients in seen.items() if coefficients >= _ALL_COEFFICIENTS}


def _joined(parts: Sequence[memoryview]) -> bytes | None:
    """Joins the parts of a profile, of which each begins with its number and how many there are."""
    if not 0 < len(parts) < 256 or sum(map(len, parts)) > MAX_PROFILE_BYTES:
        return None
    by_number = {bytes(part[:2]): part[2:] for part in parts}
    numbers = [bytes((number + 1, len(parts))) for number in range(len(parts))]
    if by_number.keys() != set(numbers):
        return None
    return b"".join(by_number[number] for number in numbers)


def _meaning_of(complaint: str) -> Exception:
    """Gives the exception that a complaint of the decoder stands for."""
    if "remature end" in complaint:
        return JpegError(_CUT_SHORT)
    if "nsufficient memory" in complaint:
        return MemoryError()
    if re.search("nsupported|not supported|not implemented|not compiled", complaint):
        return JpegError(_HEADER)
    return JpegError(_TORN)
