"""Peak memory and time of decoding photographs of 0.1 to 100 megapixels, each in a process of its own.

Memory is what the process's peak grows by beyond its libraries, the encoded file included. Images over the limit on
pixels are refused by their header.

Example: python benchmarks/memory.py --megapixels 1,12,100
"""

import argparse
import io
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import skimage.data
from PIL import Image

from grepr_core.decoding.images import Photo, decode
from grepr_core.decoding.view import AtMost

FORMATS = {
    "JPEG": {"quality": 90},
    "JPEG, progressive": {"quality": 90, "progressive": True},
    "PNG": {"compress_level": 1},
    "WEBP": {"quality": 90, "method": 0},
    "TIFF": {},
}
#: Megapixels; the first partition of a WebP, of 512 kB, cannot describe more blocks than that.
LARGEST_WEBP = 50


def make(path: Path, name: str, megapixels: float) -> None:
    side = round((megapixels * 1e6) ** 0.5)
    photo = Image.fromarray(skimage.data.astronaut())
    photo.resize((side, side), Image.Resampling.BICUBIC).save(path, kind_of(name), **FORMATS[name])


def kind_of(name: str) -> str:
    return name.partition(",")[0]


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def decode_here(path: str, pixels: int | None) -> None:
    """Decodes a small photograph, so that all libraries are loaded, and then the one in question; prints MB and ms."""
    small = io.BytesIO()
    kind = Path(path).suffix[1:].upper()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(small, kind)
    decode(small.getvalue(), view=AtMost(32 * 32))
    before, began = peak_megabytes(), time.perf_counter()
    photo = decode(Path(path).read_bytes(), view=AtMost(pixels))
    assert isinstance(photo, Photo), photo
    print(f"{peak_megabytes() - before:.0f} {1000 * (time.perf_counter() - began):.0f}")


def elsewhere(*arguments: object) -> str:
    """Runs this script again, and gives what it prints.

    Photographs are made elsewhere too: a process inherits the peak of the one that starts it.
    """
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", default="0.1,1,12,48,100", help="with commas between")
    parser.add_argument("--max-pixels", type=int)
    parser.add_argument("--make", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--decode", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        path, name, megapixels = options.make
        make(Path(path), name, float(megapixels))
        return
    if options.decode:
        decode_here(options.decode, options.max_pixels)
        return
    pixels = options.max_pixels or 512 * 512
    print(f"| format | megapixels | whole: MB | ms | scaled to {pixels:,} pixels: MB | ms |\n|---|---|---|---|---|---|")
    with TemporaryDirectory() as folder:
        for name in FORMATS:
            for megapixels in map(float, options.megapixels.split(",")):
                if name == "WEBP" and megapixels > LARGEST_WEBP:
                    continue
                path = Path(folder, f"photo.{kind_of(name).lower()}")
                elsewhere("--make", path, name, megapixels)
                whole = elsewhere("--decode", path).split()
                scaled = elsewhere("--decode", path, "--max-pixels", pixels).split()
                print(f"| {name} | {megapixels:g} | {' | '.join(whole)} | {' | '.join(scaled)} |", flush=True)


if __name__ == "__main__":
    main()
