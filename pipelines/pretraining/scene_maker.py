"""Making scenes for pretraining: a Ray Data pipeline from photographs to versions and FSIMc matrices.

FSIMc takes longer than a step of training, and its result never changes; so it is computed once. A shard is finished
when its file is there: resuming costs one listing, and one small request a finished shard.
"""

import logging
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from grepr_core.decoding.images import Failure, Limits, decode
from grepr_core.decoding.view import AtMost
from grepr_core.errors import UserError
from grepr_core.pretraining.scenes import Scene, SceneRecipe, make_scene
from grepr_core.storage import Folder
from grepr_core.web.access import for_reading
from grepr_core.zero_shot.patches import PATCH
from pipelines.lake.fetch import Fetcher
from pipelines.lake.manifest import ENTRY_COLUMNS, Manifest, find_or_make_manifest
from pipelines.lake.sources import Entry
from pipelines.options import PhotosOptions
from pipelines.pretraining.scene_store import (
    INDEX_FILE,
    ScenesSummary,
    SceneStore,
    read_summary,
    write_index,
    write_scenes,
)
from pipelines.running.session import ray_session
from pipelines.running.shard_files import finished_shards
from pipelines.running.shard_pool import ShardRun
from pipelines.running.shard_worker import ShardWorker
from pipelines.running.workers import Node, cluster_nodes, cluster_workers, cores_beside_a_gpu, plan_workers
from pipelines.telling.progress import Progress
from pipelines.telling.words import counted

log = logging.getLogger(__name__)

SCENES_FOLDER = "scenes"
#: Scenes in a file; nine versions of 384 x 384 pixels are 4 MB.
SHARD_SIZE = 32
#: Three fifths of the work can be done by a GPU, so that a process with one does that of 2.5 without.
GPU_GAIN = 2.5
#: Processes that share a GPU at most: each takes half a gigabyte of it before it has compared anything.
MOST_A_GPU = 32
#: Reasons shown of images that cannot be used.
SHOWN = 5


@dataclass(frozen=True)
class SceneJob:
    """All that a process needs to make the scenes of shards.

    Attributes:
        manifest: The photographs.
        output: Folder of the scenes.
        recipe: How scenes are made.
        options: Of the command.
        device: Where versions are compared, ``cpu`` or ``cuda``.
    """

    manifest: Manifest
    output: Folder
    recipe: SceneRecipe
    options: PhotosOptions
    device: str = "cpu"


class SceneMaker(ShardWorker):
    """Reads, decodes, distorts and compares the photographs of a shard."""

    #: Photographs with a shorter side are left out.
    least_side = PATCH

    def __init__(self, job: SceneJob) -> None:
        """Prepares reading.

        Args:
            job: What to do.
        """
        torch.set_num_threads(1)
        # For the whole process: convolutions would round to 10 bits.
        torch.backends.cudnn.allow_tf32 = False
        self._job = job
        self._limits = Limits(min_side=self.least_side)
        storage_options = for_reading(job.options.storage_options, job.manifest.source)
        self._fetcher = Fetcher(limits=self._limits, timeout=job.options.timeout, storage_options=storage_options)

    def process(self, shard: int, *, last_try: bool = False) -> dict[str, object]:
        """Writes the scenes of a shard; returns its :class:`~pipelines.pretraining.scene_store.ScenesSummary`."""
        failures: dict[str, str] = {}
        return asdict(write_scenes(self._job.output, shard, self._scenes(shard, failures), failures))

    def _scenes(self, shard: int, failures: dict[str, str]) -> Iterator[tuple[str, Scene]]:
        images = self._job.manifest.read_shard(shard)
        entries = [Entry(**row) for row in images.select(ENTRY_COLUMNS).to_pylist()]
        names = images["image_id"].to_pylist()
        for name, image, (content, _) in zip(names, entries, self._fetcher.read(entries), strict=True):
            made = content if isinstance(content, Failure) else self._made(content, zlib.crc32(name.encode()))
            if isinstance(made, Failure):
                failures[image.uri] = f"{made.status}: {made.error}"
            else:
                yield image.uri, made

    def _made(self, content: bytes, key: int) -> Scene | Failure:
        photo = decode(content, limits=self._limits, view=AtMost(self._job.options.max_pixels))
        if isinstance(photo, Failure):
            return photo
        label = self.pseudo_label(content)
        return (
            label
            if isinstance(label, Failure)
            else replace(self.make(photo.rgb, self._job.recipe, key), pseudo_label=label)
        )

    def make(self, photo: NDArray[np.uint8], recipe: SceneRecipe, key: int) -> Scene:
        """Makes the scene of a photograph; see :func:`~grepr_core.pretraining.scenes.make_scene`."""
        return make_scene(photo, recipe, key=key, device=self._job.device)

    def pseudo_label(self, content: bytes) -> float | Failure | None:
        """Gives the pseudo-label of a photograph, or why there is none; None where none is wanted."""
        return None

    @classmethod
    def per_gpu(cls, nodes: Sequence[Node], device: str, requested: int | None) -> int:
        """Says how many of these processes share a GPU; see :func:`processes_per_gpu`."""
        return processes_per_gpu(nodes, device, requested)


def make_scenes(
    options: PhotosOptions,
    recipe: SceneRecipe,
    maker: type[SceneMaker] = SceneMaker,
    *,
    name: str = SCENES_FOLDER,
    device: str = "cpu",
) -> SceneStore:
    """Makes the scenes of a source, or goes on where an earlier run of the same command ended.

    Args:
        options: Of the command.
        recipe: How scenes are made.
        maker: What makes them.
        name: Of the folder.
        device: ``auto`` and ``cuda`` have GPUs compare versions where that pays, ``cpu`` has not.

    Returns:
        The scenes, in the folder of that name below the output.

    Raises:
        UserError: The source holds no photograph that can be used, or the output holds scenes made otherwise.
        ShardError: A shard could not be written, say.
    """
    output = Folder(options.output, options.storage_options)
    scenes = output.child(name)
    manifest = find_or_make_manifest(
        options.source,
        output,
        all_files=options.all_files,
        column=options.column,
        members=options.members,
        shard_size=SHARD_SIZE,
        storage_options=options.storage_options,
    )
    if not scenes.exists(INDEX_FILE):
        done = [read_summary(scenes, shard) for shard in finished_shards(scenes)]
        todo = sorted(set(range(manifest.shards)) - {summary.shard for summary in done})
        done += _work_through(maker, SceneJob(manifest, scenes, recipe, options, device), todo, done)
        _report(done)
        write_index(scenes, recipe, manifest.source, done)
    store = SceneStore(scenes)
    if store.recipe != recipe:
        raise UserError(f"{scenes.url}: holds scenes made otherwise, {store.recipe}; name another --output")
    if len(store) == 0:
        raise UserError(f"{options.source}: no photograph could be used")
    return store


def _work_through(
    maker: type[SceneMaker], job: SceneJob, todo: list[int], done: list[ScenesSummary]
) -> list[ScenesSummary]:
    summaries: list[ScenesSummary] = []
    if not todo:
        return summaries
    before = sum(summary.scenes + len(summary.failures) for summary in done)
    with ray_session(job.options.address):
        options = job.options
        # A cluster that adds nodes adds those with CPUs for this.
        per_gpu = 0 if options.autoscaling else maker.per_gpu(cluster_nodes(), job.device, options.workers)
        workers = cluster_workers(
            "cuda" if per_gpu else "cpu", options.workers, per_gpu=per_gpu or 1, autoscaling=options.autoscaling
        )
        job = replace(job, device="cuda" if workers.gpus else "cpu")
        log.info("preparing %s with %s", counted(job.manifest.images - before, "photograph"), workers)
        with closing(Progress(job.manifest.images, before, what="preparing")) as shown:
            for row in ShardRun(maker, job, np.array(todo), workers):
                summaries.append(ScenesSummary(**row))
                failed = len(summaries[-1].failures)
                shown.update(summaries[-1].scenes + failed, failed)
    return summaries


def processes_per_gpu(nodes: Sequence[Node], device: str, requested: int | None) -> int:
    """Says how many processes share a GPU: as many as there are cores beside it, for making versions is work for CPUs.

    Args:
        nodes: Of the cluster.
        device: See :func:`make_scenes`.
        requested: Number of processes asked for.

    Returns:
        The number; 0 where it is faster to take the cores of all nodes and no GPU.
    """
    beside = cores_beside_a_gpu(node for node in nodes if node.cpus)
    if device == "cpu" or not 0 < beside <= MOST_A_GPU:
        return 0
    with_gpus = plan_workers(nodes=nodes, device="cuda", per_gpu=beside).count
    without = plan_workers(nodes=nodes, device="cpu").count
    return beside if GPU_GAIN * with_gpus >= min(without, requested or without) else 0


def _report(summaries: list[ScenesSummary]) -> None:
    failures = {uri: reason for summary in summaries for uri, reason in summary.failures.items()}
    if failures:
        shown = "; ".join(f"{uri}: {reason}" for uri, reason in list(failures.items())[:SHOWN])
        unusable = counted(len(failures), "photograph")
        log.warning("%s left out, as not to be used: %s", unusable, shown)
