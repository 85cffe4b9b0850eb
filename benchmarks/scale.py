"""Cost of all but the work itself: manifests of 10 thousand to a million images, scored by a scorer that does nothing.

Every step runs in a process of its own, whose time and peak memory are printed: writing the manifest, a whole run,
going on with a run of which the last shards are missing (listing, reading the summaries of what is done, finishing),
and a night on which nothing has changed (``--since``). Ray's start is part of the last three, and the row of 10
thousand images is nearly that alone.

Example: python -m benchmarks.scale --images 10000 100000 1000000
"""

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from grepr_core.decoding.images import Status
from grepr_core.scoring.image_score import ImageScore
from grepr_core.storage import Folder
from pipelines.lake.manifest import find_manifest, write_manifest
from pipelines.lake.sources import Entry
from pipelines.options import LARGEST_SHARD, ScoreOptions
from pipelines.running.run_files import RUN_FILE
from pipelines.scoring import score
from pipelines.scoring.shard_scorer import ShardScorer

MISSING_SHARDS = 8


class IdleScorer(ShardScorer):
    """Gives every image a score without reading it: numbers that do not compress, as real ones do not."""

    def _score_images(self, images, rows, journal):
        etags, sizes = images["etag"].to_pylist(), images["size"].to_pylist()
        scores = [self._made_up(int(etag[:8], 16) / 2**32, size) for etag, size in zip(etags, sizes, strict=True)]
        return scores, etags, {"model": 0.0}, time.time()

    @staticmethod
    def _made_up(score: float, size: int) -> ImageScore:
        return ImageScore(
            Status.SCORED,
            score=score,
            score_lower=score - 0.15,
            score_upper=score + 0.15,
            width=4000,
            height=3000,
            scored_pixels=2**18,
            bytes=size,
        )


def entries(images: int) -> Iterator[Entry]:
    for i in range(images):
        etag = hashlib.blake2b(str(i).encode(), digest_size=16).hexdigest()
        yield Entry(f"s3://lake/photos/{i // 10_000:05d}/IMG_{i:09d}.jpg", 2**20 + int(etag[:5], 16), etag)


def manifest(folder: Path, images: int) -> None:
    write_manifest(entries(images), Folder(str(folder / "manifest")), source="s3://lake", largest_shard=LARGEST_SHARD)


def run(folder: Path, name: str, since: str | None = None) -> None:
    score.ShardScorer = IdleScorer
    source = find_manifest(str(folder / "manifest"))
    assert source is not None
    record = score.run(ScoreOptions(source=source.folder.url, output=str(folder / name), since=since))
    assert record.images == source.images


def resume(folder: Path) -> None:
    scores = sorted((folder / "scores/scores").iterdir())
    for path in scores[-MISSING_SHARDS:]:
        path.unlink()
    (folder / "scores" / RUN_FILE).unlink()
    run(folder, "scores")


def since(folder: Path) -> None:
    run(folder, "night", since=str(folder / "scores"))


def measure(step: str, folder: Path, images: int) -> tuple[float, float, float]:
    """Seconds, seconds of CPU and MB of a step, of the command's own process and not of Ray's."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.scale",
        "--step",
        step,
        "--folder",
        str(folder),
        "--images",
        str(images),
    ]
    began = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    used = json.loads(done.stdout.splitlines()[-1])
    return time.perf_counter() - began, used["cpu"], used["mb"]


def take_step(step: str, folder: Path, images: int) -> None:
    if step == "manifest":
        manifest(folder, images)
    elif step == "run":
        run(folder, "scores")
    elif step == "resume":
        resume(folder)
    elif step == "since":
        since(folder)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"cpu": usage.ru_utime + usage.ru_stime, "mb": usage.ru_maxrss / 1024}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--step", choices=["nothing", "manifest", "run", "resume", "since"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        take_step(options.step, options.folder, options.images[0])
        return
    print("| images | step | seconds | driver's CPU seconds | driver's peak MB |\n|---|---|---|---|---|")
    for images in options.images:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            for step in ("nothing", "manifest", "run", "resume", "since"):
                seconds, cpu, megabytes = measure(step, folder, images)
                print(f"| {images:,} | {step} | {seconds:.1f} | {cpu:.1f} | {megabytes:.0f} |", flush=True)
            for name in ("manifest", "scores"):
                size = sum(path.stat().st_size for path in (folder / name).rglob("*") if path.is_file())
                print(f"| {images:,} | bytes an image of {name}/ | {size / images:.1f} | | |", flush=True)


if __name__ == "__main__":
    main()
