"""Speed of ``grepr score`` beside a bare loop of decode + forward, one process a core, without Ray.

Both score the same photos with the same bundle, precision and threads. They take turns within one run, since machines
are noisy, and what is printed is the median ratio. Starting processes and loading the model is left out on both sides:
the bare loop starts its clock once every process is ready, and the pipeline counts from its first shard's start.

Example: python benchmarks/pipeline.py --photos ~/Pictures --rounds 5
"""

import argparse
import logging
import multiprocessing as mp
import statistics
import sys
import tempfile
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import skimage.data
import torch
from PIL import Image

from grepr_core.bundle import load_bundle
from grepr_core.scorer import Scorer
from pipelines.options import ScoreOptions
from pipelines.score import run
from pipelines.session import available_cores
from pipelines.sources import Listing


def make_photos(folder: Path, n: int) -> None:
    photo = Image.fromarray(skimage.data.astronaut())
    for i in range(n):
        photo.rotate(i, resample=Image.Resampling.BICUBIC).save(folder / f"{i:04d}.jpg", quality=90)


def bare_worker(paths: list[str], ready: Barrier) -> None:
    torch.set_num_threads(1)
    scorer = Scorer(load_bundle("grepr-lite"), zero_shot=False)
    scorer.score([Path(paths[0]).read_bytes()])
    ready.wait()
    scorer.score(Path(path).read_bytes() for path in paths)


def bare_loop(paths: list[str], cores: int) -> float:
    """Images a second of one process a core."""
    context = mp.get_context("spawn")
    ready = context.Barrier(cores + 1)
    workers = [context.Process(target=bare_worker, args=(paths[i::cores], ready)) for i in range(cores)]
    for worker in workers:
        worker.start()
    ready.wait()
    began = time.perf_counter()
    for worker in workers:
        worker.join()
    return len(paths) / (time.perf_counter() - began)


def pipeline(source: str, cores: int) -> tuple[float, float]:
    """Images a second of ``grepr score``: without and with the start of Ray and of its processes."""
    with tempfile.TemporaryDirectory() as output:
        record = run(ScoreOptions(source=source, output=output, workers=cores))
    assert record.images_per_second is not None
    return record.images_per_second, record.images / record.wall_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", help="folder of photos; by default 400 of 512 x 512 are made")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    cores = available_cores()
    with tempfile.TemporaryDirectory() as temporary:
        source = options.photos or temporary
        if not options.photos:
            make_photos(Path(temporary), 400)
        paths = [entry.uri for entry in Listing(source)]
        bare, piped, whole = [], [], []
        for _ in range(options.rounds):
            bare.append(bare_loop(paths, cores))
            speed, with_start = pipeline(source, cores)
            piped.append(speed)
            whole.append(with_start)
    ratios = [a / b for a, b in zip(piped, bare, strict=True)]
    print(f"{len(paths)} photos, {cores} cores, median of {options.rounds} rounds")
    print("| | images/s | ratio |\n|---|---|---|")
    print(f"| bare loop, one process a core | {statistics.median(bare):.1f} | 1 |")
    print(
        f"| grepr score | {statistics.median(piped):.1f} | {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f}-{max(ratios):.2f}) |"
    )
    print(f"| grepr score, start of Ray included | {statistics.median(whole):.1f} | |")


if __name__ == "__main__":
    main()
