"""Scores made up for tests, written as a run of ``grepr score`` leaves them."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from grepr_core.bundles.bundle import load_bundle
from grepr_core.storage import Folder
from pipelines.lake.manifest import image_id
from pipelines.scoring.run_record import RunRecord
from pipelines.scoring.score_table import ShardSummary, count_statuses, schema, write_shard

Place = TypeVar("Place", str, Path)
LITE = load_bundle("grepr-lite").model_id


def score_row(uri: str, score: float | None, **columns: Any) -> dict[str, Any]:
    """One row of the scores: of a photograph of 640 x 480 with an interval of +-0.1, or of a missing one."""
    member = columns.get("member")
    row: dict[str, Any] = dict.fromkeys(schema().names)
    row |= {"image_id": image_id(uri, member), "uri": uri, "model_id": LITE, "status": "scored"}
    if score is None:
        row |= {"status": "missing", "error": "no such file"}
    else:
        row |= {"score": score, "score_lower": score - 0.1, "score_upper": score + 0.1, "etag": "1", "bytes": 5000}
        row |= {"width": 640, "height": 480, "scored_pixels": 512 * 384}
    return row | columns


def random_rows(count: int, seed: int = 0, root: str = "s3://lake/photos") -> list[dict[str, Any]]:
    """Rows in three folders, a tenth of them failed."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        uri = f"{root}/{'abc'[i % 3]}/{i:05d}.jpg"
        if rng.random() < 0.1:
            rows.append(score_row(uri, None, status="unreadable", error=f"ends after {rng.integers(10**6)} bytes"))
        else:
            width = int(rng.choice([400, 1600, 4000]))
            size = {"width": width, "height": width // 2, "scored_pixels": min(width * width // 2, 262144)}
            rows.append(score_row(uri, float(np.float32(rng.beta(5, 3))), **size))
    return rows


def write_run(
    output: Place, rows: Sequence[dict[str, Any]], *, shard: int = 64, finished: bool = True, **settings: Any
) -> Place:
    """Writes the rows with settings, and with the record of a finished run; gives back where."""
    folder = Folder(str(output))
    counts: dict[str, int] = {}
    for number, start in enumerate(range(0, len(rows), shard)):
        table = pa.Table.from_pylist(list(rows[start : start + shard]), schema=schema())
        write_shard(folder.child("scores"), number, table, ShardSummary(len(table), count_statuses(table)))
        for status, images in count_statuses(table).items():
            counts[status] = counts.get(status, 0) + images
    settings = {"source": "s3://lake/photos", "images": len(rows), "model": "grepr-lite", "model_id": LITE} | settings
    folder.write_json("settings.json", settings)
    if finished:
        record = RunRecord(
            format_version=1,
            settings=settings,
            options={"source": settings["source"], "model": settings["model"]},
            versions={"grepr": "0.1.0"},
            images=len(rows),
            counts=counts,
            seconds={"read": 1.0, "decode": 2.0, "model": 36.5, "write": 0.5},
            images_here=len(rows),
            wall_seconds=50.0,
            images_per_second=12.5,
            workers={"count": 2, "cpus": 1, "gpus": 0},
            finished="2026-01-02T03:04:05+00:00",
        )
        folder.write_json("run.json", asdict(record))
    return output
