"""Scoring with everything but Ray and the model: what is listed, taken over, written and resumed is as ever."""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from grepr_core.decoding.images import Status
from grepr_core.scoring.image_score import ImageScore
from pipelines.running.precision import settle_precision
from pipelines.running.workers import Workers
from pipelines.scoring import score
from pipelines.scoring.kept_rows import KeptRows
from pipelines.scoring.score_table import ShardSummary, count_statuses, make_table, write_shard
from pipelines.scoring.shard_scorer import ScoringJob

#: More shards than there are.
ALL = 1000


def content_score(etag: str) -> float:
    """The score that an image of this version gets."""
    return int.from_bytes(etag.encode()) % 997 / 997


class Run:
    """Takes the place of :class:`~pipelines.running.shard_pool.ShardRun`."""

    processes = 1

    def __init__(self, kind: type, job: ScoringJob, shards: NDArray[np.int64], workers: Workers) -> None:
        self._job = job
        self._shards = shards

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Scores shards in this process, by the versions of their images."""
        job = self._job
        for shard in self._shards.tolist():
            images = job.manifest.read_shard(shard)
            kept = job.since.unchanged(images) if job.since is not None else KeptRows.none()  # type: ignore[attr-defined]
            wanted = images.take(kept.others(len(images)))
            scores = [ImageScore(Status.SCORED, score=content_score(etag)) for etag in wanted["etag"].to_pylist()]
            table = kept.joined_by(make_table(wanted, scores, model_id=job.model_id))
            summary = ShardSummary(len(table), count_statuses(table), began=1.0, ended=2.0, scored_here=len(wanted))
            write_shard(job.output.child("scores"), shard, table, summary)
            yield asdict(summary)


@contextlib.contextmanager
def without_ray() -> Iterator[None]:
    """Has commands score so."""
    with (
        mock.patch.object(score, "ray_session", return_value=contextlib.nullcontext()),
        mock.patch.object(score, "cluster_workers", return_value=Workers(1, 1, 0, 0)),
        mock.patch.object(
            score, "settle_precision", lambda output, settings, _: settle_precision(output, settings, "cpu")
        ),
        mock.patch.object(score.ray, "put", lambda value: value),
        mock.patch.object(score, "ShardRun", Run),
    ):
        yield


@contextlib.contextmanager
def interrupted_after(shards: int) -> Iterator[None]:
    """Ends a command so, as a cluster does whose time is up; to be used within :func:`without_ray`."""

    class Interrupted(Run):
        def __iter__(self) -> Iterator[dict[str, Any]]:
            for done, row in enumerate(super().__iter__()):
                yield row
                if done + 1 == shards:
                    raise KeyboardInterrupt

    with mock.patch.object(score, "ShardRun", Interrupted):
        yield
