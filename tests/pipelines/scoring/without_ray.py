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
from pipelines.running.workers import Workers
from pipelines.scoring import score
from pipelines.scoring.kept_rows import KeptRows
from pipelines.scoring.score_table import ShardSummary, count_statuses, make_table, write_shard
from pipelines.scoring.shard_scorer import ScoringJob


def content_score(etag: str) -> float:
    """The score that an image of this version gets."""
    return int.from_bytes(etag.encode()) % 997 / 997


def map_shards(kind: type, job: ScoringJob, shards: NDArray[np.int64], workers: Workers) -> Iterator[dict[str, Any]]:
    """Scores shards in this process, by the versions of their images."""
    for shard in shards.tolist():
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
        mock.patch.object(score, "cluster_workers", return_value=Workers(1, 1, 0)),
        mock.patch.object(score.ray, "put", lambda value: value),
        mock.patch.object(score, "map_shards", map_shards),
    ):
        yield
