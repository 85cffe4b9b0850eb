"""The actor that scores shards: reads, decodes, runs the model and writes, all in one process."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from grepr_core.bundle import load_bundle
from grepr_core.images import Failure, Limits, Status
from grepr_core.inference import Precision
from grepr_core.scorer import ImageScore, Scorer
from grepr_core.storage import Folder
from pipelines.crash_journal import CrashJournal, crash_journal
from pipelines.fetch import Fetcher
from pipelines.manifest import Manifest
from pipelines.score_table import (
    PASSING,
    SCORES_FOLDER,
    ShardSummary,
    count_statuses,
    make_table,
    read_shard,
    read_summary,
    write_shard,
)
from pipelines.shard_files import shard_name
from pipelines.shard_pool import ShardWorker

JOURNAL_FOLDER = "in-progress"


@dataclass(frozen=True)
class ScoringJob:
    """All that a process needs to score shards of a lake.

    Attributes:
        manifest: The lake.
        output: Folder of the run.
        model: Bundle, by name or URL.
        model_id: Its hash, as the driver found it.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``auto``, ``fp32`` or ``bf16``.
        threads: CPU threads of the process that compute.
        limits: Of the images.
        max_pixels: Scale larger images down to this; None takes what the bundle says.
        features: Whether features are written.
        zero_shot: Whether the low-level zero-shot score is given where the score does not depend on it.
        gpu_decode: Whether JPEGs are decoded on the GPU.
        timeout: Seconds that reading one image may take.
        storage_options: For fsspec, of the images.
        retry_failed: Whether finished shards are gone through again for failures that may have passed.
    """

    manifest: Manifest
    output: Folder
    model: str
    model_id: str
    device: str
    precision: Precision
    threads: int
    limits: Limits
    max_pixels: int | None
    features: bool
    zero_shot: bool
    gpu_decode: bool
    timeout: float
    storage_options: Mapping[str, Any]
    retry_failed: bool


class ShardScorer(ShardWorker):
    """Scores shards."""

    def __init__(self, job: ScoringJob) -> None:
        """Loads the model.

        Args:
            job: What to do.

        Raises:
            RuntimeError: This machine has another model of that name.
        """
        torch.set_num_threads(job.threads)
        self._job = job
        bundle = load_bundle(job.model)
        if bundle.model_id != job.model_id:
            raise RuntimeError(f"{job.model} is {bundle.model_id} here and {job.model_id} at the driver; update grepr")
        self._scorer = Scorer(
            bundle,
            device=job.device,
            precision=job.precision,
            limits=job.limits,
            max_pixels=job.max_pixels,
            decode_threads=job.threads,
            zero_shot=job.zero_shot,
            gpu_decode=job.gpu_decode,
        )
        self._fetcher = Fetcher(limits=job.limits, timeout=job.timeout, storage_options=job.storage_options)
        self._scores = job.output.child(SCORES_FOLDER)
        self._journals = job.output.child(JOURNAL_FOLDER)

    def process(self, shard: int) -> dict[str, Any]:
        """Scores a shard, writes its scores and returns its :class:`~pipelines.score_table.ShardSummary`."""
        return asdict(self._score_shard(shard))

    def _score_shard(self, shard: int) -> ShardSummary:
        finished = self._scores.exists(shard_name(shard))
        if finished and not self._job.retry_failed:
            # The process died after it wrote the file and before Ray knew.
            return read_summary(self._scores, shard)
        began = time.time()
        self._scorer.seconds.clear()
        images = self._job.manifest.read_shard(shard)
        before = read_shard(self._scores, shard) if finished else None
        rows = np.arange(len(images)) if before is None else _failed_rows(before)
        with crash_journal(self._journals, shard) as journal:
            scores = self._score_rows(images, rows, journal)
        table = make_table(
            images.take(rows),
            scores,
            model_id=self._scorer.bundle.model_id,
            feature_size=self._scorer.feature_size if self._job.features else None,
        )
        if before is not None:
            table = _replace_rows(before, rows, table)
        summary = ShardSummary(len(table), count_statuses(table), dict(self._scorer.seconds), began, time.time())
        write_shard(self._scores, shard, table, summary)
        return summary

    def _score_rows(self, images: pa.Table, rows: np.ndarray, journal: CrashJournal) -> list[ImageScore]:
        wanted = images.take(rows)
        sources = list(zip(wanted["uri"].to_pylist(), wanted["size"].to_pylist(), strict=True))
        if not journal.suspicious:
            return self._scorer.score(self._fetcher.read(sources))
        scores: list[ImageScore] = []
        for row, source in zip(rows.tolist(), sources, strict=True):
            if row in journal.crashed:
                reason = "the process died twice while it scored this image"
                scores.append(ImageScore.from_failure(Failure(Status.CRASHED, reason)))
            else:
                journal.begin_image(row)
                scores += self._scorer.score(self._fetcher.read([source]))
        return scores


def _failed_rows(table: pa.Table) -> np.ndarray:
    return np.flatnonzero([status in PASSING for status in table["status"].to_pylist()])


def _replace_rows(table: pa.Table, rows: np.ndarray, new: pa.Table) -> pa.Table:
    order = np.arange(len(table))
    order[rows] = len(table) + np.arange(len(rows))
    return pa.concat_tables([table, new]).take(order)
