"""The actor that scores shards: reads, decodes, runs the model and writes, all in one process."""

import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
import ray

from grepr_core.decoding.images import Failure, Limits, Status
from grepr_core.encoders.precision import Precision
from grepr_core.errors import DeviceLostError
from grepr_core.scoring.image_score import ImageScore
from grepr_core.storage import Folder
from pipelines.lake.fetch import GPU_FETCH, Fetcher
from pipelines.lake.image_reader import Fetched
from pipelines.lake.manifest import ENTRY_COLUMNS, Manifest
from pipelines.lake.sources import Entry
from pipelines.options import FeaturesDtype
from pipelines.running.precision import check_precision
from pipelines.running.shard_files import shard_name
from pipelines.running.shard_worker import ShardWorker
from pipelines.scoring.crash_journal import CrashJournal, crash_journal
from pipelines.scoring.kept_rows import KeptRows
from pipelines.scoring.old_scores import OldScores
from pipelines.scoring.score_table import (
    SCORES_FOLDER,
    ShardSummary,
    count_changed,
    count_reasons,
    count_statuses,
    make_table,
    read_shard,
    read_summary,
    write_shard,
)
from pipelines.scoring.watchdog import EXIT_CODE, Watchdog

JOURNAL_FOLDER = "in-progress"


@dataclass(frozen=True)
class ScoringJob:
    """All that a process needs to score shards of a lake.

    Attributes:
        manifest: The lake.
        output: Folder of the run.
        model: Bundle, by name or URL.
        model_id: Its hash, as the driver found it.
        device: ``cpu`` or ``cuda``.
        precision: ``fp32`` or ``bf16``, the same in all processes.
        threads: CPU threads of the process that compute, or with a GPU decode.
        limits: Of the images.
        max_pixels: Area that images are seen at; None takes the bundle's.
        features: What features are written as; None where they are not.
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
    features: FeaturesDtype | None
    zero_shot: bool
    timeout: float
    hang_timeout: float
    storage_options: Mapping[str, Any]
    retry_failed: bool
    since: "ray.ObjectRef[OldScores] | None"


class ModelFailureError(Exception):
    """The model failed at every image of a shard, which speaks against this process rather than against them."""


class ShardScorer(ShardWorker):
    """Scores shards: while the model is busy with one, the images of the next are read and the last one is written."""

    at_once = 2

    def __init__(self, job: ScoringJob) -> None:
        """Loads the model.

        Args:
            job: What to do.

        Raises:
            RuntimeError: This machine has another model of that name.
            UserError: It has no such arithmetic.
        """
        # The driver needs this class too, but not the seconds that it takes to import PyTorch and the networks.
        import torch  # noqa: PLC0415

        from grepr_core.bundles.bundle import load_bundle  # noqa: PLC0415
        from grepr_core.scoring.scorer import Scorer  # noqa: PLC0415

        check_precision(job.precision, job.device)
        on_gpu = job.device == "cuda"
        # As many threads decode there, and each would have as many again at work.
        torch.set_num_threads(1 if on_gpu else job.threads)
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
            features=job.features is not None,
        )
        self._fetcher = Fetcher(
            limits=job.limits,
            timeout=job.timeout,
            storage_options=job.storage_options,
            **(GPU_FETCH if on_gpu else {}),
        )
        self._watchdog = Watchdog(job.hang_timeout)
        self._model_turn = threading.Lock()
        self._since: OldScores | None = ray.get(job.since) if job.since is not None else None
        self._scores = job.output.child(SCORES_FOLDER)
        self._journals = job.output.child(JOURNAL_FOLDER)

    def process(self, shard: int, *, last_try: bool = False) -> dict[str, Any]:
        """Scores a shard, writes its scores and returns its :class:`~pipelines.scoring.score_table.ShardSummary`.

        Args:
            shard: Its number.
            last_try: Whether images are believed to be at fault where the model fails at every one; before, it is the
                device of this process.

        Returns:
            The summary, in JSON's types.

        Raises:
            ModelFailureError: The model failed at every image.
        """
        finished = self._scores.exists(shard_name(shard))
        if finished and not self._job.retry_failed:
            # The process died after it wrote the file and before Ray knew.
            return asdict(read_summary(self._scores, shard))
        with crash_journal(self._journals, shard) as journal:
            return asdict(self._score_shard(shard, finished, journal, last_try))

    def _score_shard(self, shard: int, finished: bool, journal: CrashJournal, last_try: bool) -> ShardSummary:
        images = self._job.manifest.read_shard(shard)
        if finished:
            kept = KeptRows.still_good(read_shard(self._scores, shard))
        elif self._since is not None:
            kept = self._since.unchanged(images)
        else:
            kept = KeptRows.none()
        rows = kept.others(len(images))
        wanted = images.take(rows)
        scores, etags, seconds, began = self._score_images(wanted, rows.tolist(), journal, last_try)
        table = make_table(
            _with_etags(wanted, etags),
            scores,
            model_id=self._scorer.bundle.model_id,
            feature_size=self._scorer.feature_size if self._job.features else None,
            features_dtype=self._job.features or "float16",
        )
        table = kept.joined_by(table)
        ended = time.time()
        summary = ShardSummary(
            len(table),
            count_statuses(table),
            seconds,
            began,
            ended,
            scored_here=len(wanted),
            changed=count_changed(images, table),
            reasons=count_reasons(table),
        )
        write_shard(self._scores, shard, table, summary)
        return replace(summary, seconds={**seconds, "write": time.time() - ended})

    def _score_images(
        self, images: pa.Table, rows: list[int], journal: CrashJournal, last_try: bool
    ) -> tuple[list[ImageScore], list[str | None], dict[str, float], float]:
        """Scores images of a shard.

        Args:
            images: Which, as the manifest has them.
            rows: Their places in the shard.
            journal: Of the shard.
            last_try: See :meth:`process`.

        Returns:
            Their scores; the ETags they were read with; seconds by step; when the model began on them.
        """
        entries = [Entry(**row) for row in images.select(ENTRY_COLUMNS).to_pylist()]
        # Reading begins here, and goes on while the model is busy with the shard before.
        fetched = self._fetcher.read([] if journal.suspicious else entries)
        etags: list[str | None] = []
        with self._model_turn:
            if rows:  # all may be taken over
                journal.begin()
            began = time.time()
            self._scorer.seconds.clear()
            self._scorer.model_failures = 0
            if not journal.suspicious:
                scores = self._score_watched(fetched, rows, journal, etags)
            else:
                scores = self._score_in_groups(dict(zip(rows, entries, strict=True)), journal, etags)
            failed, scored = self._scorer.model_failures, any(score.status == Status.SCORED for score in scores)
            if failed and not scored and not last_try:
                error = next(score.error for score in scores if score.status == Status.CRASHED)
                raise ModelFailureError(f"at each of {failed} images: {error}")
            return scores, etags, dict(self._scorer.seconds), began

    def _score_in_groups(
        self, entries: dict[int, Entry], journal: CrashJournal, etags: list[str | None]
    ) -> list[ImageScore]:
        scores = {row: ImageScore.from_failure(self._sentence(status)) for row, status in journal.convicted.items()}
        read: dict[int, str | None] = dict.fromkeys(scores)
        for group in journal.groups([row for row in entries if row not in scores]):
            found: list[str | None] = []
            fetched = self._fetcher.read([entries[row] for row in group])
            scores |= zip(group, self._score_watched(fetched, group, journal, found), strict=True)
            read |= zip(group, found, strict=True)
        etags += [read[row] for row in entries]
        return [scores[row] for row in entries]

    def _score_watched(
        self, fetched: Iterable[Fetched], rows: Sequence[int], journal: CrashJournal, etags: list[str | None]
    ) -> list[ImageScore]:
        """Scores images under the eye of the watchdog, and adds the ETags they were read with."""

        def contents() -> Iterator[bytes | Failure]:
            row = rows[0]
            for row, (content, etag) in zip(rows, fetched, strict=True):
                etags.append(etag)
                # The clock stands still while the next image is waited for.
                self._watchdog.arm(partial(journal.hangs, row))
                yield content
                self._watchdog.disarm()
            self._watchdog.arm(partial(journal.hangs, row))  # for those that still wait for others of their size

        try:
            return self._scorer.score(contents()) if rows else []
        except DeviceLostError:
            # Nor can any other image be scored by this process. Another will take its place, and find its note.
            os._exit(EXIT_CODE)
        finally:
            self._watchdog.disarm()

    def _sentence(self, status: Status) -> Failure:
        if status == Status.TIMEOUT:
            return Failure(status, f"decoding and scoring it took more than {self._job.hang_timeout:g} seconds")
        return Failure(status, "processes died while they scored this image")


def _with_etags(images: pa.Table, etags: list[str | None]) -> pa.Table:
    return images.set_column(images.column_names.index("etag"), "etag", pa.array(etags, pa.string()))
