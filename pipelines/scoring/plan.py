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
from pipelines.running.workers import cluster_workers
from pipelines.scoring.current import settle
from pipelines.scoring.score import open_manifest, score_manifest, scoring_model

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
        unit: What one of them is: ``GPU``, or ``process`` of some CPU cores.
        cpus: CPU cores of each.
        seconds: That all images take here.
        within: Seconds that they are to take.
        needed: Processes needed for that, if each is as fast as those here.
    """

    images: int
    sample: int
    images_per_second: float
    workers: int
    unit: str
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
        workers = cluster_workers(options.device, options.workers, autoscaling=options.autoscaling)
        images = min(manifest.images, workers.count * (IMAGES_A_GPU if workers.gpus else IMAGES_A_CPU))
        sample.remove()
        try:
            chosen = write_manifest(
                _sample(manifest, images),
                sample.child(MANIFEST_FOLDER),
                source=manifest.source,
                largest_shard=max(1, images // (workers.count * SHARDS_A_WORKER)),
            )
            record = score_manifest(chosen, sample, scoring_model(options.model), options, features=options.features)
        finally:
            sample.remove()
    speed = record.images_per_second or math.nan
    seconds = manifest.images / speed
    return Plan(
        images=manifest.images,
        sample=chosen.images,
        images_per_second=speed,
        workers=workers.count,
        unit="GPU" if workers.gpus else "process",
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
    one = "GPU" if plan.unit == "GPU" else f"process of {plan.cpus} CPU core{'s' if plan.cpus > 1 else ''}"
    many = "GPUs" if plan.unit == "GPU" else one.replace("process", "processes", 1)
    return (
        f"{plan.images_per_second:.1f} images/s here with {plan.workers} {one if plan.workers == 1 else many}, by a "
        f"sample of {plan.sample} of {plan.images} images.\n"
        f"All of them take {_time(plan.seconds)} here. Within {_time(plan.within)}: {plan.needed} such "
        f"{one if plan.needed == 1 else many}."
    )


def _time(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
