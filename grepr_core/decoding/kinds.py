"""What a file is, by its first bytes: a format that is decoded, or something else that gets its own name."""

import re
from typing import Literal

from grepr_core.decoding import heif, jpegxl
from grepr_core.decoding.boxes import are_cut

#: Names of formats, as Pillow names them, where people use others.
WORDS = {"HEIF": "HEIC", "JPEG2000": "JPEG 2000", "JXL": "JPEG XL", "WEBP": "WebP"}

_STARTS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    # Bytes in the wrong order, as some programs write.
    (b"MM*\0", "TIFF"),
    (b"II\0*", "TIFF"),
    (b"BM", "BMP"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (jpegxl.CONTAINER, "JXL"),
    (jpegxl.CODESTREAM, "JXL"),
)
_RAW = "not supported: a camera's raw file ({})"
_UNSUPPORTED = (
    (b"FUJIFILMCCD-RAW", _RAW.format("Fujifilm RAF")),
    (b"IIU\0", _RAW.format("Panasonic RW2")),
    (b"IIRO", _RAW.format("Olympus ORF")),
    (b"IIRS", _RAW.format("Olympus ORF")),
    (b"MMOR", _RAW.format("Olympus ORF")),
    (b"FOVb", _RAW.format("Sigma X3F")),
    (b"\0MRM", _RAW.format("Minolta MRW")),
    (b"v/1\x01", "not supported: OpenEXR"),
    (b"#?RADIANCE", "not supported: Radiance HDR"),
    (b"#?RGBE", "not supported: Radiance HDR"),
    (b"II\xbc", "not supported: JPEG XR"),
    (b"qoif", "not supported: QOI"),
    (b"DDS ", "not supported: a DirectDraw texture"),
)
_OTHER_KINDS = (
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML document"),
    (b"%pdf", "a PDF document"),
    (b"%!ps", "a PostScript document"),
    (b"pk\3\4", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"8bps", "a Photoshop document"),
    (b"\0\0\1\0", "a Windows icon"),
)
_VIDEOS = (b"isom", b"iso2", b"iso4", b"iso5", b"iso6", b"mp41", b"mp42", b"avc1", b"qt  ", b"M4V ", b"3gp4", b"3gp5")


def signature(encoded: bytes) -> str:
    """Names the format that the first bytes promise.

    Returns:
        As Pillow names it; nothing where it is none that is decoded.
    """
    if encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP":
        return "WEBP"
    if encoded[4:8] == b"ftyp":
        return heif.brand(encoded)
    if _unsupported(encoded):
        return ""
    return next((name for start, name in _STARTS if encoded.startswith(start)), "")


def what_else(encoded: bytes) -> str:
    """Says what a file is that is no image of a supported format."""
    if not encoded:
        return "the file is empty"
    if words := _unsupported(encoded):
        return words
    if name := signature(encoded):
        if is_cut(encoded, name):
            return cut_short(name)
        return (
            f"it begins like {WORDS.get(name, name)}, but its header is damaged, cut short or of an unsupported variant"
        )
    if encoded[4:12] in [b"ftyp" + brand for brand in _VIDEOS]:
        return "not an image: a video"
    start = encoded[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for prefix, kind in _OTHER_KINDS:
        if start.startswith(prefix):
            return f"not an image: {kind}"
    is_text = re.fullmatch(rb"[\t\n\f\r -~]+", start)
    return "not an image: text" if is_text else "not an image of a supported format"


def cut_short(name: str) -> str:
    """Says that a file of a format is not whole."""
    return f"cut short: the {WORDS.get(name, name)} file ends before its picture does"


def is_cut(encoded: bytes, name: str) -> bool:
    """Tells whether a file of a format ends before it says that it does."""
    if name == "WEBP":
        return int.from_bytes(encoded[4:8], "little") + 8 > len(encoded)
    if name in ("AVIF", "HEIF", "JPEG2000", "JXL") and encoded[:1] == b"\0":
        return are_cut(encoded)
    if name == "TIFF":  # Its directory often comes last.
        order: Literal["little", "big"] = "little" if encoded[:1] == b"I" else "big"
        offset = encoded[8:16] if b"+" in encoded[2:4] else encoded[4:8]
        return int.from_bytes(offset, order) >= len(encoded)
    return name == "JPEG2000" and not encoded.endswith(b"\xff\xd9")


def _unsupported(encoded: bytes) -> str:
    """Names what is an image, but not for us; nothing for all else."""
    if encoded[:4] in (b"II*\0", b"MM\0*"):
        if encoded[8:10] == b"CR":
            return _RAW.format("Canon CR2")
        return ""
    if encoded[4:12] == b"ftypcrx ":
        return _RAW.format("Canon CR3")
    if encoded[6:14] == b"HEAPCCDR":
        return _RAW.format("Canon CRW")
    return next((words for start, words in _UNSUPPORTED if encoded.startswith(start)), "")
