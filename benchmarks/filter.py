"""Time and peak memory of ``grepr filter`` on made-up scores, each case in a process of its own.

Seconds are those of the whole selection, rows of the result written; the process's start is left out. Metadata has a
row an image and is joined by URI.

Example: python -m benchmarks.filter --images 10000000
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from grepr_core.storage import Folder
from pipelines.options import LARGEST_SHARD, NEAR_BITS, FilterOptions
from pipelines.running.run_files import RUN_FILE
from pipelines.scoring.score_table import SCORES_FOLDER, ShardSummary, schema, write_shard
from pipelines.selection.filter import run

MODEL = "0123456789abcdef" * 4
#: Fraction of the images that are near-copies, and of how many scenes, with up to eight bits of the hash changed.
COPIES, SCENES = 0.15, 500_000
FAILED = 0.02
METADATA = "metadata.parquet"
CASES = {
    "--min-score 0.9": {"min_score": 0.9},
    "--top-fraction 0.1": {"top_fraction": 0.1},
    "--top-fraction 0.1 --per (folder, 1,000 of them)": {"top_fraction": 0.1, "per": "split_part(uri, '/', 5)"},
    "--where width >= 2048 --top 1000": {"where": "width >= 2048", "top": 1000},
    "--distinct": {"distinct": NEAR_BITS},
    "--metadata --where (of its columns) --top-fraction 0.1": {
        "metadata": METADATA,
        "where": "camera IN ('A', 'B', 'C')",
        "top_fraction": 0.1,
    },
}


def uris(shard: int) -> list[str]:
    return [f"s3://lake/photos/{shard % 1000:03d}/IMG_{shard:06d}_{i:04d}.jpg" for i in range(LARGEST_SHARD)]


@cache
def scenes() -> np.ndarray:
    return np.random.default_rng(0).integers(2**63, 2**64, SCENES, np.uint64)


def hashes(shard: int) -> list[str]:
    rng = np.random.default_rng([shard, 1])
    numbers = rng.integers(2**63, 2**64, LARGEST_SHARD, np.uint64)
    copies = np.flatnonzero(rng.random(LARGEST_SHARD) < COPIES)
    numbers[copies] = rng.choice(scenes(), len(copies))
    changed = rng.choice([0, 0, 0, 1, 1, 2, 2, 3, 4, 6, 8], len(copies))
    for bit in range(8):
        rows = copies[changed > bit]
        numbers[rows] ^= np.uint64(1) << rng.integers(0, 63, len(rows), np.uint64)
    return [f"{number:016x}" for number in numbers]


def shard_table(shard: int) -> pa.Table:
    rng = np.random.default_rng(shard)
    n = LARGEST_SHARD
    failed = rng.random(n) < FAILED
    score = rng.beta(4, 4, n).astype(np.float32)
    digits = rng.bytes(16 * n).hex()
    ids = [digits[32 * i : 32 * i + 32] for i in range(n)]

    def unless_failed(values: np.ndarray) -> pa.Array:
        return pa.array(values, mask=failed)

    width, height = (rng.integers(256, 6000, n).astype(np.int32) for _ in range(2))
    columns = {
        "image_id": ids,
        "uri": uris(shard),
        "etag": ids,
        "status": np.where(failed, "missing", "scored"),
        "error": pa.array(np.where(failed, "no such file", None), pa.string()),
        "score": unless_failed(score),
        "score_lower": unless_failed(score - np.float32(0.1)),
        "score_upper": unless_failed(score + np.float32(0.1)),
        "width": unless_failed(width),
        "height": unless_failed(height),
        "scored_pixels": unless_failed(np.minimum(width.astype(np.int64) * height, 2**18)),
        "bytes": unless_failed(rng.integers(10_000, 8_000_000, n)),
        "phash": unless_failed(np.array(hashes(shard))),
        "model_id": [MODEL] * n,
    }
    return pa.table({name: columns.get(name, [None] * n) for name in schema().names}, schema=schema())


def write_one(output: Folder, shard: int) -> None:
    write_shard(output.child(SCORES_FOLDER), shard, shard_table(shard), ShardSummary(LARGEST_SHARD))


def make(folder: Path, shards: int) -> None:
    output = Folder(str(folder / "scores"))
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(write_one, output), range(shards), chunksize=16))
    record = {"images": shards * LARGEST_SHARD, "options": {}, "finished": "2026-01-01T00:00:00+00:00"}
    output.write_json(RUN_FILE, record)
    fields = pa.schema({"uri": pa.string(), "camera": pa.string(), "taken": pa.int64()})
    with pq.ParquetWriter(folder / METADATA, fields, compression="zstd") as writer:
        for begin in range(0, shards, 64):
            names = [uri for shard in range(begin, min(begin + 64, shards)) for uri in uris(shard)]
            cameras = np.array(list("ABCDEFGHIJ"))[np.arange(len(names)) * 7919 % 10]
            writer.write_table(pa.table([names, cameras, np.arange(len(names))], schema=fields))


def select(folder: Path, case: str) -> None:
    """Runs a case in this process, and prints seconds, MB and rows."""
    options = dict(CASES[case])
    if "metadata" in options:
        options["metadata"] = str(folder / METADATA)
    with tempfile.TemporaryDirectory(dir=folder) as output:
        began, cpu = time.monotonic(), time.process_time()
        record = run(FilterOptions(scores=str(folder / "scores"), output=f"{output}/out", **options))
        seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([seconds, cpu, peak, record.selected]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, help="for the scores, which are kept there; by default a temporary one")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        select(options.folder, options.case)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / METADATA).exists():
            make(folder, options.images // LARGEST_SHARD)
        print("| criteria | seconds | CPU seconds | peak MB | selected |\n|---|---|---|---|---|")
        for case in CASES:
            command = [sys.executable, "-m", "benchmarks.filter", "--folder", str(folder), "--case", case]
            answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            seconds, cpu, peak, selected = json.loads(answer)
            print(f"| {case} | {seconds:.1f} | {cpu:.1f} | {peak:.0f} | {selected:,} |", flush=True)


if __name__ == "__main__":
    main()
