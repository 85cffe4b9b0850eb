"""A bare loop of decode + forward in one process a core: what the cores can do without Ray.

Bundle, precision and threads are those of ``grepr score``. The clock starts once every process has loaded the
model, and stops before they end.
"""

import multiprocessing as mp
import time
from collections.abc import Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch

from grepr_core.bundles.bundle import load_bundle
from grepr_core.scoring.scorer import Scorer


def bare_loop(photos: Sequence[Path], cores: int) -> float:
    """Gives the images a second of one process a core."""
    context = mp.get_context("spawn")
    together = context.Barrier(cores + 1, timeout=1800)  # rather than for ever, should a process die
    workers = [context.Process(target=_work, args=(photos[i::cores], together)) for i in range(cores)]
    for worker in workers:
        worker.start()
    together.wait()
    began = time.perf_counter()
    together.wait()
    speed = len(photos) / (time.perf_counter() - began)
    for worker in workers:
        worker.join()
    return speed


def _work(photos: Sequence[Path], together: Barrier) -> None:
    torch.set_num_threads(1)
    scorer = Scorer(load_bundle("grepr-lite"), zero_shot=False)
    together.wait()
    scorer.score(photo.read_bytes() for photo in photos)
    together.wait()
