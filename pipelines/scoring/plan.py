"""``grepr score --plan``: what scoring a lake will take, from a sample scored by the very pipeline."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from grepr_core.storage import Folder
from pipelines.lake.manifest import MANIFEST_FOLDER, Manifest, write_manifest
from pipelines.lake.sources import Entry
from pipelines.options import ScoreOptions
from pipelines.running.precision import recorded_precision
from pipelines.running.run_lock import run_lock
from pipelines.running.session import ray_session
from pipelines.scoring.current import settle
from pipelines.scoring.score import open_manifest, score_manifest, scoring_model, workers_for
from pipelines.telling.words import counted

SAMPLE_FOLDER = "plan-sample"
#: Images that every process scores: some seconds of work.
IMAGES_A_CPU, IMAGES_A_GPU = 64, 2048
#: Several shards a process, so that none waits long for the last one.
SHARDS_A_WORKER = 4


@dataclass(frozen=True)
class Plan:
    """What scoring takes.

    Attributes:
        images: Of the whole manifest.
        sample: Images scored to find out.
        images_per_second: Of all processes here together, without their start.
        workers: Processes here.
        per_gpu: How many of them share a GPU; 0 where they take none.
        cpus: CPU cores of each.
        seconds: That all images take here.
        within: Seconds that they are to take.
        needed: Processes needed for that, if each is as fast as those here.
    """

    images: int
    sample: int
    images_per_second: float
    workers: int
    per_gpu: int
    cpus: int
    seconds: float
    within: float
    needed: int


def run(options: ScoreOptions) -> Plan:
    """Scores a sample into a folder of its own, which is deleted, and reckons.

    The manifest stays where ``grepr score`` will look for it.

    Args:
        options: Of the command.

    Returns:
        The plan.

    Raises:
        UserError: As :func:`pipelines.scoring.score.run` does.
    """
    output = Folder(options.output, options.storage_options)
    sample = output.child(SAMPLE_FOLDER)
    options = replace(options, precision=recorded_precision(options.precision, output))
    with run_lock(output) as lock, ray_session(options.address):
        settle(output, lock)
        manifest = open_manifest(options, output)
        workers = workers_for(options)
        each = IMAGES_A_GPU // workers.per_gpu if workers.per_gpu else IMAGES_A_CPU
        images = min(manifest.images, workers.count * each)
        sample.remove()
        try:
            chosen = write_manifest(
                _sample(manifest, images),
                sample.child(MANIFEST_FOLDER),
                source=manifest.source,
                largest_shard=max(1, images // (workers.count * SHARDS_A_WORKER)),
            )
            record = score_manifest(
                chosen, sample, scoring_model(options.model), options, features=options.written_features
            )
        finally:
            sample.remove()
    speed = record.images_per_second or math.nan
    seconds = manifest.images / speed
    return Plan(
        images=manifest.images,
        sample=chosen.images,
        images_per_second=speed,
        workers=workers.count,
        per_gpu=workers.per_gpu,
        cpus=workers.cpus,
        seconds=seconds,
        within=options.within,
        needed=math.ceil(workers.count * seconds / options.within),
    )


def _sample(manifest: Manifest, images: int) -> Iterator[Entry]:
    """Picks images evenly from all over the manifest, reading no more shards than images."""
    shards = np.unique(np.linspace(0, manifest.shards - 1, min(images, manifest.shards, 64)).astype(int))
    left = images
    for done, shard in enumerate(shards.tolist()):
        table = manifest.read_shard(shard)
        take = min(len(table), math.ceil(left / (len(shards) - done)))
        left -= take
        rows = np.unique(np.linspace(0, len(table) - 1, take).astype(int))
        for row in table.select(["uri", "size", "etag", "member", "offset"]).take(rows).to_pylist():
            yield Entry(**row)


def to_text(plan: Plan) -> str:
    """Says a plan in sentences."""
    if plan.per_gpu == 1:
        one, many = "GPU", "GPUs"
    else:
        size = f"1/{plan.per_gpu} GPU" if plan.per_gpu else f"{plan.cpus} CPU core{'s' if plan.cpus > 1 else ''}"
        one, many = f"process of {size}", f"processes of {size}"
    return (
        f"{plan.images_per_second:.1f} images/s here with {plan.workers} {one if plan.workers == 1 else many}, by a "
        f"sample of {plan.sample} of {counted(plan.images, 'image')}.\n"
        f"All of them take {_time(plan.seconds)} here. Within {_time(plan.within)}: {plan.needed} such "
        f"{one if plan.needed == 1 else many}."
    )


def _time(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return counted(round(seconds), "second")
