"""Pixels as grepr decodes them beside two other decoders, ImageMagick and libvips, whichever is installed.

All give what an upright viewer shows: the first frame, turned as EXIF says, over white, in sRGB. Prints the files on
which a decoder differs from grepr by more than a tolerance on average, or which only one side opens. A difference that
has a reason is printed with it, and does not count; so the last line should say that nothing is unexplained.

Example: python -m benchmarks.decoders folder/ (apt-get install imagemagick libvips-tools)
"""

import argparse
import contextlib
import io
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageCms

from grepr_core.decoding.images import Failure, Limits, decode
from grepr_core.decoding.kinds import signature

LIMITS = Limits(min_side=1, max_pixels=100_000_000)
SECONDS = 60
Pixels = np.ndarray


@dataclass(frozen=True)
class Comparison:
    """A file and what became of it.

    Attributes:
        name: Name of the file.
        content: Its bytes.
        kind: Format by the content, as grepr names it; empty for what is none that it reads.
        other: Name of the decoder that grepr is compared to.
        ours: Pixels, or the reason why there are none.
        theirs: Likewise.
        difference: Mean difference in levels; None where not both opened it at one size.
    """

    name: str
    content: bytes
    kind: str
    other: str
    ours: Pixels | str
    theirs: Pixels | str
    difference: float | None

    @property
    def only_theirs(self) -> bool:
        return isinstance(self.ours, str) and not isinstance(self.theirs, str)

    @property
    def only_ours(self) -> bool:
        return isinstance(self.theirs, str) and not isinstance(self.ours, str)


def _bmp(comparison: Comparison) -> tuple[int, int, int]:
    """Gives the size of the header, the bits of a pixel and the compression of a BMP."""
    content = comparison.content
    if comparison.kind != "BMP" or len(content) < 54:
        return 0, 0, 0
    return content[14], int.from_bytes(content[28:30], "little"), int.from_bytes(content[30:34], "little")


def _tag(comparison: Comparison, tag: int) -> int:
    """Gives a number that a TIFF holds, else 0."""
    if comparison.kind != "TIFF":
        return 0
    with contextlib.suppress(Exception), tifffile.TiffFile(io.BytesIO(comparison.content)) as file:
        return int(np.ravel(file.pages[0].tags[tag].value)[0])
    return 0


def _says(pixels: Pixels | str, *words: str) -> bool:
    return isinstance(pixels, str) and any(word in pixels for word in words)


_UNABLE = (
    "no decode delegate",
    "not supported",
    "not a whole number of bytes",
    "not 1 bands",
    "unrecognized compression",
    "Can not read scanlines",
    "out of range",
    "Security limit",
)

#: Why grepr is right where it differs, by kind.
EXPLAINED: tuple[tuple[str, Callable[[Comparison], bool]], ...] = (
    ("the other says that it does not read this kind", lambda it: it.only_ours and _says(it.theirs, *_UNABLE)),
    ("a format that is not for photographs, or not supported, and named so", lambda it: it.only_theirs and not it.kind),
    ("not supported, and named so", lambda it: it.only_theirs and _says(it.ours, "not supported: ")),
    ("cut; the other fills in what is missing", lambda it: _says(it.ours, "cut short")),
    ("damaged, but not its pixels", lambda it: it.only_ours and it.kind in ("PNG", "BMP", "GIF", "JPEG")),
    ("beyond the limit on pixels", lambda it: _says(it.ours, "too_large")),
    (
        "gAMA is left to viewers, as by libvips: for photographs it says what sRGB does",
        lambda it: it.kind == "PNG" and it.other == "ImageMagick" and b"gAMA" in it.content[:4096],
    ),
    ("libvips 8.14 does not look for EXIF in PNGs", lambda it: it.other == "libvips" and b"eXIf" in it.content),
    (
        "16-bit PNG with transparency: libvips scales the colours to 8 bits and not the transparency",
        lambda it: it.kind == "PNG" and it.other == "libvips" and it.content[24] == 16,
    ),
    ("the fourth byte of a BMP without masks is unused", lambda it: _bmp(it)[1:] == (32, 0)),
    (
        "the largest value that a few bits hold is 255, not 240 of it",
        lambda it: _bmp(it)[2] in (3, 6) or (_bmp(it)[1] == 16),
    ),
    ("OS/2's second header has 64 bytes, with a colour map behind it", lambda it: _bmp(it)[0] == 64),
    ("runs that leave the picture, and what they leave out, are as each likes", lambda it: _bmp(it)[2] in (1, 2)),
    ("indices beyond the colour map are black", lambda it: _bmp(it)[1] in range(1, 9)),
    (
        "signed: the least value is black at every depth, as in ImageMagick for 16 bits",
        lambda it: _tag(it, 339) == 2,
    ),
    (
        "32 bits: the first of [0, 255] and [0, 65535] that holds all values, or [0, 1] of floating point, is white",
        lambda it: _tag(it, 258) >= 32,
    ),
    (
        "CMYK without a profile: libvips takes that of a press, grepr and ImageMagick none",
        lambda it: it.other == "libvips" and _tag(it, 262) == 5,
    ),
    ("JPEG in TIFF of the old kind: the other takes YCbCr for RGB", lambda it: _tag(it, 259) == 6),
    ("grey and alpha in planes: the other takes them for one after the other", lambda it: _tag(it, 284) == 2),
    ("the other's libheif decodes the wrong item of a HEIF of brand mif2", lambda it: it.content[8:12] == b"mif2"),
    (
        "ImageMagick 6 leaves what is transparent in AVIF and HEIC as it is",
        lambda it: it.kind in ("AVIF", "HEIF") and it.other == "ImageMagick",
    ),
    (
        "JPEG XL of floating point or of 9 to 15 bits: libvips does not scale it",
        lambda it: it.kind == "JXL" and it.other == "libvips",
    ),
    (
        "a header that is damaged or of no version of the format; the other goes by what is left",
        lambda it: it.only_theirs and (it.kind == "JPEG2000" or _bmp(it)[0] not in (0, 12, 40, 52, 56, 64, 108, 124)),
    ),
    ("the picture ends before the chunk that holds it; the other gives up", lambda it: it.content[37:41] == b"IDAT"),
    ("an old OpenJPEG reads this size wrongly", lambda it: it.kind == "JPEG2000" and it.difference is None),
)


def explanation(comparison: Comparison, agreeing: str, refusing: str) -> str:
    """Says why grepr is right: another decoder sees the same, or nothing either, or it is a kind that is known."""
    if agreeing:
        return f"{agreeing} agrees with grepr"
    if refusing and comparison.only_theirs:
        return f"{refusing} refuses it, too"
    return next((why for why, applies in EXPLAINED if applies(comparison)), "")


def by_grepr(content: bytes) -> Pixels | str:
    result = decode(content, limits=LIMITS)
    return f"{result.status}: {result.error}" if isinstance(result, Failure) else result.rgb


def by_imagemagick(program: str, path: Path, profile: Path, kind: str) -> Pixels | str:
    # A GIF's frame is put on its canvas; the offsets of a PNG, say, are not for viewers.
    canvas = ["-background", "white", "-flatten"] if kind == "GIF" else []
    alpha = ["-background", "white", "-alpha", "remove", "-alpha", "off"]
    options = [*canvas, "+repage", "-auto-orient", *alpha, "-profile", str(profile), "-colorspace", "sRGB"]
    return _run([program, f"{path}[0]", *options, "-depth", "8", "-strip", "ppm:-"])


def by_libvips(program: str, path: Path, folder: Path) -> Pixels | str:
    made = folder / "0.v"
    failed = _run([program, "autorot", f"{path}[fail-on=truncated]", str(made)], reads=False)
    if isinstance(failed, str):
        return failed
    # Without a profile the first of these does nothing but fail.
    for step, (operation, *options) in enumerate(
        (("icc_transform", "srgb", "--embedded"), ("colourspace", "srgb"), ("flatten", "--background", "255")), 1
    ):
        if operation == "flatten" and int.from_bytes(made.read_bytes()[12:16], "little") not in (2, 4):
            continue
        result = folder / f"{step}.v"
        if not isinstance(_run([program, operation, str(made), str(result), *options], reads=False), str):
            made = result
    picture = folder / "copy.ppm"
    failed = _run([program, "cast", str(made), str(picture), "uchar"], reads=False)
    return failed if isinstance(failed, str) else _pixels(picture.read_bytes())


def _run(command: list[str], *, reads: bool = True) -> Pixels | str:
    try:
        done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"took more than {SECONDS} s"
    if done.returncode or (reads and not done.stdout):
        return " ".join(done.stderr.decode(errors="replace").split())[:160] or f"ended with {done.returncode}"
    return _pixels(done.stdout) if reads else np.empty(0)


def _pixels(content: bytes) -> Pixels | str:
    try:
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    except Exception as error:
        return f"wrote what cannot be read: {error}"


def compare(name: str, content: bytes, other: str, ours: Pixels | str, theirs: Pixels | str) -> Comparison:
    difference = None
    if not isinstance(ours, str) and not isinstance(theirs, str) and ours.shape == theirs.shape:
        difference = float(np.abs(ours.astype(np.int16) - theirs).mean())
    return Comparison(name, content, signature(content), other, ours, theirs, difference)


def agrees(comparison: Comparison, tolerance: float) -> bool:
    """Tells whether both see the same, or nothing."""
    if comparison.difference is not None:
        return comparison.difference <= tolerance
    return isinstance(comparison.ours, str) and isinstance(comparison.theirs, str)


def told(comparison: Comparison) -> str:
    def side(pixels: Pixels | str) -> str:
        if isinstance(pixels, str):
            return pixels
        return f"{pixels.shape[1]} x {pixels.shape[0]}, mean {' '.join(f'{x:.1f}' for x in pixels.mean(axis=(0, 1)))}"

    level = "" if comparison.difference is None else f" differs by {comparison.difference:.1f}:"
    ours, theirs = side(comparison.ours), side(comparison.theirs)
    return f"{comparison.name} [{comparison.kind}]{level} grepr {ours} | {comparison.other} {theirs}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tolerance", type=float, default=6, help="levels of 255, on average over the pixels")
    arguments = parser.parse_args()
    magick = shutil.which("magick") or shutil.which("convert-im6.q16") or shutil.which("convert")
    vips = shutil.which("vips")
    if not magick and not vips:
        sys.exit("neither ImageMagick nor libvips is installed: apt-get install imagemagick libvips-tools")
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        profile = Path(scratch, "srgb.icc")
        profile.write_bytes(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
        for path in sorted(path for path in arguments.folder.rglob("*") if path.is_file()):
            content = path.read_bytes()
            ours = by_grepr(content)
            # Both would take parts of some names for options.
            plain = Path(scratch, "image" + path.suffix)
            plain.write_bytes(content)
            others = {}
            if magick:
                others["ImageMagick"] = by_imagemagick(magick, plain, profile, signature(content))
            if vips:
                others["libvips"] = by_libvips(vips, plain, Path(scratch))
            for file in Path(scratch).iterdir():
                if file != profile:
                    file.unlink()
            counts["files"] += 1
            counts["opened by grepr"] += not isinstance(ours, str)
            comparisons = [compare(path.name, content, other, ours, theirs) for other, theirs in others.items()]
            agreeing = [it.other for it in comparisons if agrees(it, arguments.tolerance)]
            refusing = next((it.other for it in comparisons if isinstance(it.theirs, str)), "")
            counts["agreed with all"] += len(agreeing) == len(comparisons)
            for comparison in comparisons:
                if comparison.other not in agreeing:
                    why = explanation(comparison, agreeing[0] if agreeing else "", refusing)
                    counts["explained" if why else "unexplained"] += 1
                    print(told(comparison) + (f" -- explained: {why}" if why else ""), flush=True)
    print(", ".join(f"{name} {count}" for name, count in counts.items()))


if __name__ == "__main__":
    main()
