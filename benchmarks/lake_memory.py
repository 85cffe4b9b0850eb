"""Peak memory of a whole run over photographs of 0.1 to 100 megapixels in four formats, by process.

Memory is the proportional set size, sampled several times a second: what processes share is counted once. A file that
claims 500 megapixels lies among the photographs and is refused by its header.

Example: python -m benchmarks.lake_memory --copies 4
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import psutil

from benchmarks.memory import FORMATS, LARGEST_WEBP
from grepr_core.storage import Folder
from pipelines.scoring.score_table import read_scores
from tests.lake import grepr
from tests.odd_files import png_of

MEGAPIXELS = (0.1, 1.0, 12.0, 24.0, 48.0, 100.0)
BOMB = "bomb.png"


def make_lake(folder: Path, copies: int) -> None:
    for kind in FORMATS:
        for megapixels in MEGAPIXELS:
            if kind == "WEBP" and megapixels > LARGEST_WEBP:
                continue
            first = folder / f"{kind.lower()}-{megapixels:g}-0.{kind.lower()}"
            command = [sys.executable, "-m", "benchmarks.memory", "--make", str(first), kind, str(megapixels)]
            subprocess.run(command, check=True)
            for copy in range(1, copies):
                (folder / first.name.replace("-0.", f"-{copy}.")).hardlink_to(first)
    (folder / BOMB).write_bytes(png_of(25_000, 20_000, 8, 2, bytes(1000)))


def name_of(process: psutil.Process) -> str:
    line = " ".join(process.cmdline())
    if "ShardScorer" in line:
        return "a scoring process"
    return "the command" if "-m grepr" in line else "Ray's processes"


def peaks(command: "subprocess.Popen[str]") -> dict[str, float]:
    """Peak megabytes: of the largest scoring process, the command, all of Ray's processes, and all together."""
    found: dict[str, float] = defaultdict(float)
    root = psutil.Process(command.pid)
    while command.poll() is None:
        sizes: dict[str, list[float]] = defaultdict(list)
        for process in [root, *root.children(recursive=True)]:
            try:
                sizes[name_of(process)].append(process.memory_full_info().pss / 2**20)
            except psutil.Error:
                continue
        for name, several in sizes.items():
            found[name] = max(found[name], sum(several) if name == "Ray's processes" else max(several))
        found["all together"] = max(found["all together"], sum(map(sum, sizes.values())))
        time.sleep(0.1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=4, help="of every photograph")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--max-pixels", type=int, nargs="*", default=[512 * 512, 4_000_000])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        lake = Path(temporary, "photos")
        lake.mkdir()
        make_lake(lake, options.copies)
        sizes = [path.stat().st_size for path in lake.iterdir()]
        print(f"{len(sizes)} files, {sum(sizes) / 2**30:.1f} GB, the largest {max(sizes) / 2**20:.0f} MB\n")
        print("| scored pixels at most | process | peak MB |\n|---|---|---|")
        for pixels in options.max_pixels:
            output = Path(temporary, str(pixels))
            limits = ["--max-pixels", str(pixels), "--max-image-pixels", "120000000", "--max-image-bytes", str(2**30)]
            command = grepr("score", lake, output, *limits, "--workers", str(options.workers), "--shard-size", "8")
            found = peaks(command)
            _, err = command.communicate()
            if command.returncode != 0:
                sys.exit(err)
            for name, megabytes in sorted(found.items()):
                print(f"| {pixels:,} | {name} | {megabytes:,.0f} |", flush=True)
            rows = read_scores(Folder(str(output))).select(["uri", "status"]).to_pylist()
            refused = {Path(row["uri"]).name: row["status"] for row in rows if row["status"] != "scored"}
            assert refused == {BOMB: "too_large"}, refused


if __name__ == "__main__":
    main()
