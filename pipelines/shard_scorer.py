"""The actor that scores shards: reads, decodes, runs the model and writes, all in one process."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
import ray
import torch

from grepr_core.bundle import load_bundle
from grepr_core.images import Failure, Limits, Status
from grepr_core.inference import Precision
from grepr_core.scorer import ImageScore, Scorer
from grepr_core.storage import Folder
from pipelines.crash_journal import CrashJournal, crash_journal
from pipelines.fetch import Fetcher
from pipelines.kept_rows import KeptRows
from pipelines.manifest import Manifest
from pipelines.old_scores import OldScores
from pipelines.score_table import (
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
from pipelines.watchdog import Watchdog, nothing

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
        timeout: Seconds that reading one image may take.
        hang_timeout: Seconds that decoding and scoring one image may take before the process is given up.
        storage_options: For fsspec, of the images.
        retry_failed: Whether finished shards are gone through again for failures that may have passed.
        since: Index of an earlier run's scores, which are taken over where the image has not changed; in Ray's object
            store, since every process needs it.
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
    timeout: float
    hang_timeout: float
    storage_options: Mapping[str, Any]
    retry_failed: bool
    since: "ray.ObjectRef[OldScores] | None"


class ShardScorer(ShardWorker):
    """Scores shards: while the model is busy with one, the images of the next are read and the last one is written."""

    at_once = 2

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
        )
        self._fetcher = Fetcher(limits=job.limits, timeout=job.timeout, storage_options=job.storage_options)
        self._watchdog = Watchdog(job.hang_timeout)
        self._model_turn = threading.Lock()
        self._since: OldScores | None = ray.get(job.since) if job.since is not None else None
        self._scores = job.output.child(SCORES_FOLDER)
        self._journals = job.output.child(JOURNAL_FOLDER)

    def process(self, shard: int) -> dict[str, Any]:
        """Scores a shard, writes its scores and returns its :class:`~pipelines.score_table.ShardSummary`."""
        finished = self._scores.exists(shard_name(shard))
        if finished and not self._job.retry_failed:
            # The process died after it wrote the file and before Ray knew.
            return asdict(read_summary(self._scores, shard))
        return asdict(self._score_shard(shard, finished))

    def _score_shard(self, shard: int, finished: bool) -> ShardSummary:
        images = self._job.manifest.read_shard(shard)
        if finished:
            kept = KeptRows.still_good(read_shard(self._scores, shard))
        elif self._since is not None:
            kept = self._since.unchanged(images)
        else:
            kept = KeptRows.none()
        wanted = images.take(kept.others(len(images)))
        with crash_journal(self._journals, shard) as journal:
            scores, seconds, began = self._score_images(wanted, journal)
        table = make_table(
            wanted,
            scores,
            model_id=self._scorer.bundle.model_id,
            feature_size=self._scorer.feature_size if self._job.features else None,
        )
        table = kept.joined_by(table)
        ended = time.time()
        summary = ShardSummary(len(table), count_statuses(table), seconds, began, ended, scored_here=len(wanted))
        write_shard(self._scores, shard, table, summary)
        return replace(summary, seconds={**seconds, "write": time.time() - ended})

    def _score_images(
        self, images: pa.Table, journal: CrashJournal
    ) -> tuple[list[ImageScore], dict[str, float], float]:
        sources = list(zip(images["uri"].to_pylist(), images["size"].to_pylist(), strict=True))
        # Reading begins here, and goes on while the model is busy with the shard before.
        contents = None if journal.suspicious else self._fetcher.read(sources)
        with self._model_turn:
            began = time.time()
            self._scorer.seconds.clear()
            scores = self._score_one_by_one(sources, journal) if contents is None else self._score_watched(contents)
            return scores, dict(self._scorer.seconds), began

    def _score_one_by_one(self, sources: list[tuple[str, int | None]], journal: CrashJournal) -> list[ImageScore]:
        scores: list[ImageScore] = []
        for row, source in enumerate(sources):
            if row in journal.convicted:
                scores.append(ImageScore.from_failure(self._sentence(journal.convicted[row])))
            else:
                journal.begin_image(row)
                scores += self._score_watched(self._fetcher.read([source]), partial(journal.convict_hung, row))
        return scores

    def _score_watched(
        self, contents: Iterable[bytes | Failure], before_exit: Callable[[], None] = nothing
    ) -> list[ImageScore]:
        try:
            return self._scorer.score(self._watched(contents, before_exit))
        finally:
            self._watchdog.disarm()

    def _watched(
        self, contents: Iterable[bytes | Failure], before_exit: Callable[[], None]
    ) -> Iterator[bytes | Failure]:
        """Arms the watchdog from the moment an image has been read until the next one is asked for."""
        for content in contents:
            self._watchdog.arm(before_exit)
            yield content
            self._watchdog.disarm()
        self._watchdog.arm(before_exit)  # of those that wait for others of their size

    def _sentence(self, status: Status) -> Failure:
        if status == Status.TIMEOUT:
            return Failure(status, f"decoding and scoring it took more than {self._job.hang_timeout:g} seconds")
        return Failure(status, "the process died twice while it scored this image")
