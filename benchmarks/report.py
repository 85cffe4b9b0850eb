"""Time, size and peak memory of reports of made-up scores, each in a process of its own; with another run to compare.

No photograph is read: the scores name none that is there, as if the lake were gone, so each gets a placeholder. Writing
the scores is not counted.

Example: python -m benchmarks.report --rows 1_000_000
"""

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa

from grepr_core.storage import Folder
from pipelines.options import ReportOptions
from pipelines.reporting.report import run
from pipelines.scoring.score_table import ShardSummary, count_statuses, schema, write_shard

SHARD = 1000


def write_scores(output: Path, rows: int, shift: float) -> None:
    """Writes a run of which a fiftieth failed, in 204 folders, with names of 45 letters; a tenth are near-copies."""
    rng = np.random.default_rng(0)
    folder = Folder(str(output))
    for shard, start in enumerate(range(0, rows, SHARD)):
        numbers = range(start, min(start + SHARD, rows))
        uris = [f"/lake/photos/{2010 + n % 17}/{n % 12:02d}/IMG_{n:012d}_edited.jpg" for n in numbers]
        failed = rng.random(len(uris)) < 0.02
        score = (rng.beta(5, 3, len(uris)) + shift).astype(np.float32)
        width = rng.choice([640, 1024, 4000, 6000], len(uris)).astype(np.int32)
        hashes = rng.integers(0, 2**64, len(uris), np.uint64)
        copies = len(uris) // 10
        hashes[:copies] = hashes[-copies:] ^ np.uint64(1) << rng.integers(0, 64, copies, np.uint64)
        pixels = width.astype(np.int64) * (width * 3 // 4)
        values = {
            "image_id": [hashlib.blake2b(uri.encode(), digest_size=16).hexdigest() for uri in uris],
            "uri": uris,
            "etag": [f"{n:x}" for n in numbers],
            "status": np.where(failed, "unreadable", "scored").tolist(),
            "error": [f"cut short after {n} bytes" if bad else None for n, bad in zip(numbers, failed, strict=True)],
            "score": pa.array(score, mask=failed),
            "score_lower": pa.array(score - 0.1, mask=failed),
            "score_upper": pa.array(score + 0.1, mask=failed),
            "phash": pa.array([f"{value:016x}" for value in hashes.tolist()], mask=failed),
            "width": width,
            "height": width * 3 // 4,
            "scored_pixels": np.minimum(pixels, 512 * 512),
            "bytes": pixels // 4,
            "model_id": ["0123456789abcdef"] * len(uris),
        }
        columns = [pa.array(values.get(f.name, [None] * len(uris)), f.type) for f in schema()]
        table = pa.Table.from_arrays(columns, schema=schema())
        write_shard(folder.child("scores"), shard, table, ShardSummary(len(uris), count_statuses(table)))
    folder.write_json("settings.json", {"source": "/lake/photos", "images": rows, "model": "grepr-lite"})


def report_here(folder: str, compare: bool) -> None:
    options = ReportOptions(
        scores=f"{folder}/now", output=f"{folder}/report.html", compare=f"{folder}/before" if compare else None
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, cpu_began = time.perf_counter(), time.process_time()
    result = run(options)
    seconds = time.perf_counter() - began
    cpu = time.process_time() - cpu_began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        json.dumps(
            {"seconds": seconds, "CPU": cpu, "MB": result.bytes / 1e6, "peak": peak / 1024, "libraries": before / 1024}
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 1_000_000])
    parser.add_argument("--here", help=argparse.SUPPRESS)
    parser.add_argument("--compare", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        report_here(options.here, options.compare)
        return
    print("| rows | | seconds | of CPU | MB of HTML | peak MB of memory | of which libraries |")
    print("|---" * 7 + "|")
    for rows in options.rows:
        with TemporaryDirectory() as folder:
            for name, shift in (("now", 0.0), ("before", 0.05)):
                write_scores(Path(folder, name), rows, shift)
            for more in ([], ["--compare"]):
                command = [sys.executable, "-m", "benchmarks.report", "--here", folder, *more]
                found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                speed = f"{found['seconds']:.1f} | {found['CPU']:.1f}"
                size = f"{found['MB']:.2f} | {found['peak']:.0f} | {found['libraries']:.0f}"
                print(f"| {rows:,} | {'compared' if more else ''} | {speed} | {size} |", flush=True)


if __name__ == "__main__":
    main()
