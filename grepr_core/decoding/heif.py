"""AVIF and HEIC: which of the two a file is, and what the libraries leave out of what its container says."""

import io
import math
import struct
from fractions import Fraction
from typing import NamedTuple

from PIL import Image

from grepr_core.decoding.boxes import Box, boxes, find
from grepr_core.decoding.later_image import LaterImage
from grepr_core.decoding.refusal import Refusal

_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis"})
_HEVC_SEQUENCES = frozenset({b"hevc", b"hevx", b"hevm", b"hevs"})
#: Any codec; libraries look no further than the first brand.
_ANY_CODEC = frozenset({b"mif1", b"mif2", b"msf1", b"miaf", b"1pic"})
_CODECS = {b"vvc1": "VVC", b"avc1": "AVC", b"jpeg": "JPEG", b"j2k1": "JPEG 2000", b"unci": "no compression"}


def brand(encoded: bytes) -> str:
    """Tells AVIF from HEIC.

    Returns:
        ``AVIF``, ``HEIF`` as Pillow names HEIC, or nothing where the file is neither.
    """
    major, compatible = _brands(encoded)
    if major in _AVIF_BRANDS:
        return "AVIF"
    if major in _HEIC_BRANDS | _HEVC_SEQUENCES:
        return "HEIF"
    if major not in _ANY_CODEC:
        return ""
    if compatible & _AVIF_BRANDS and not compatible & (_HEIC_BRANDS | _HEVC_SEQUENCES):
        return "AVIF"
    return "AVIF" if _codec(encoded) == b"av01" else "HEIF"


def open_avif(encoded: bytes) -> Image.Image:
    """Reads the header of an AVIF, of which libavif leaves out the crop, and refuses associations in two boxes."""
    encoded = _with_one_association_box(encoded)
    image = Image.open(io.BytesIO(encoded), formats=("AVIF",))
    crop = _crop(encoded, *image.size)
    if crop is None:
        return image
    left, top, right, bottom = crop
    return LaterImage("AVIF", (right - left, bottom - top), image.info, lambda: image.crop(crop))


def open_heic(encoded: bytes) -> Image.Image:
    """Reads the header of a HEIC.

    Raises:
        Refusal: It holds a sequence and no still image, or is of another codec.
    """
    if find(encoded, b"meta") is None and find(encoded, b"moov") is not None:
        raise Refusal("not supported: a HEIC image sequence (HEVC) without a still image")
    codec = _codec(encoded)
    if codec in _CODECS:
        raise Refusal(f"not supported: a HEIF file whose image is coded by other means than HEVC ({_CODECS[codec]})")
    if encoded[8:12] not in _HEIC_BRANDS:
        # libheif knows what to do with every brand, the module around it not.
        encoded = encoded[:8] + b"mif1" + encoded[12:]
    return Image.open(io.BytesIO(encoded), formats=("HEIF",))


def _brands(encoded: bytes) -> tuple[bytes, frozenset[bytes]]:
    first = next(boxes(encoded), None)
    if first is None or first.kind != b"ftyp":
        return b"", frozenset()
    body = encoded[first.body : first.end]
    return body[:4], frozenset(body[at : at + 4] for at in range(8, min(len(body), 1024) - 3, 4))


class _Item(NamedTuple):
    number: int
    kind: bytes


def _primary(encoded: bytes) -> _Item | None:
    """Gives the item that is the picture."""
    pitm, iinf = find(encoded, b"meta", b"pitm"), find(encoded, b"meta", b"iinf")
    if pitm is None or iinf is None:
        return None
    number = _number(encoded, pitm.body + 4, 2 if encoded[pitm.body] == 0 else 4)
    for box in boxes(encoded, iinf.body + (6 if encoded[iinf.body] == 0 else 8), iinf.end):
        version = encoded[box.body]
        if box.kind == b"infe" and version in (2, 3):
            width = 2 if version == 2 else 4
            if _number(encoded, box.body + 4, width) == number:
                return _Item(number, encoded[box.body + 6 + width : box.body + 10 + width])
    return None


def _codec(encoded: bytes) -> bytes:
    """Gives the codec of the picture, or of the first picture of which it is composed."""
    try:
        primary = _primary(encoded)
        if primary is not None and primary.kind not in (b"grid", b"iovl", b"iden"):
            return primary.kind
        iinf = find(encoded, b"meta", b"iinf")
        if iinf is not None:
            for kind in (b"av01", b"hvc1", *_CODECS):
                if kind in encoded[iinf.body : iinf.end]:
                    return kind
    except (IndexError, struct.error):  # Damaged, which the library will say.
        pass
    return b""


def _number(content: bytes, at: int, width: int) -> int:
    return int.from_bytes(content[at : at + width], "big")


def _association_boxes(encoded: bytes) -> list[Box]:
    found = find(encoded, b"meta", b"iprp")
    return [] if found is None else [box for box in boxes(encoded, found.body, found.end) if box.kind == b"ipma"]


def _properties(encoded: bytes) -> list[Box]:
    """Gives the properties of the picture, in their order."""
    container, primary = find(encoded, b"meta", b"iprp", b"ipco"), _primary(encoded)
    if container is None or primary is None:
        return []
    known = list(boxes(encoded, container.body, container.end))
    for box in _association_boxes(encoded):
        number_width = 2 if encoded[box.body] == 0 else 4
        width = 2 if encoded[box.body + 3] & 1 else 1
        at = box.body + 8
        for _ in range(_number(encoded, box.body + 4, 4)):
            if at >= min(box.end, len(encoded)):
                break
            number, count = _number(encoded, at, number_width), encoded[at + number_width]
            at += number_width + 1
            if number == primary.number:
                mask = (1 << (8 * width - 1)) - 1
                indices = [_number(encoded, at + i * width, width) & mask for i in range(count)]
                return [known[index - 1] for index in indices if 0 < index <= len(known)]
            at += count * width
    return []


def _crop(encoded: bytes, width: int, height: int) -> tuple[int, int, int, int] | None:
    """Gives the box that the picture is cropped to ("clean aperture") before it is turned; None for the whole."""
    try:
        clap = next((box for box in _properties(encoded) if box.kind == b"clap"), None)
        if clap is None:
            return None
        values = struct.unpack_from(">IIIIiIiI", encoded, clap.body)
        wide, high, across, down = (Fraction(*values[at : at + 2]) for at in range(0, 8, 2))
        left = Fraction(width - 1, 2) + across - (wide - 1) / 2
        top = Fraction(height - 1, 2) + down - (high - 1) / 2
    except (IndexError, struct.error, ZeroDivisionError):  # No such aperture is of use to anyone.
        return None
    # Of half pixels libheif takes the next whole ones to the left and above.
    x, y = math.floor(left), math.floor(top)
    box = (x, y, x + round(wide), y + round(high))
    fits = 0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height
    return box if fits and box != (0, 0, width, height) else None


def _with_one_association_box(encoded: bytes) -> bytes:
    """Merges boxes that associate properties with items; there should be one for each version and flags."""
    found = _association_boxes(encoded)
    container = find(encoded, b"meta", b"iprp")
    if len(found) < 2 or container is None or container.end > len(encoded):
        return encoded
    if len({encoded[box.body : box.body + 4] for box in found}) > 1 or container.body - container.start != 8:
        return encoded
    count = sum(_number(encoded, box.body + 4, 4) for box in found)
    entries = b"".join(encoded[box.body + 8 : box.end] for box in found)
    head = encoded[found[0].body : found[0].body + 4]
    merged = struct.pack(">I4s", 16 + len(entries), b"ipma") + head + struct.pack(">I", count) + entries
    kept = b"".join(
        encoded[box.start : box.end] for box in boxes(encoded, container.body, container.end) if box not in found
    )
    properties = struct.pack(">I4s", 8 + len(kept) + len(merged), b"iprp") + kept + merged
    # What has become free is marked as such, so that all else stays where it is.
    free = container.end - container.start - len(properties)
    filler = struct.pack(">I4s", free, b"free") + bytes(free - 8)
    return encoded[: container.start] + properties + filler + encoded[container.end :]
