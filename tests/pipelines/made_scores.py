"""Scores made up for tests, and the photographs that they are of where any are needed."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from grepr_core.storage import Folder
from pipelines.lake.manifest import image_id
from pipelines.scoring.score_table import SCORES_FOLDER, ShardSummary, schema, write_shard

MODEL = "a" * 64


def frame(n: int, *, seed: int = 0, prefix: str = "/lake") -> pd.DataFrame:
    """Rows of which a tenth failed, with many equal scores."""
    rng = np.random.default_rng(seed)
    failed = rng.random(n) < 0.1
    score = (rng.integers(0, 20, n) / 20).astype(np.float32)
    uris = [f"{prefix}/{i % 7}/{i:05d}.jpg" for i in range(n)]
    rows = pd.DataFrame(
        {
            "image_id": [image_id(uri) for uri in uris],
            "uri": uris,
            "status": np.where(failed, "missing", "scored"),
            "error": np.where(failed, "no such file", None),
            "score": score,
            "score_lower": score - np.float32(0.1) * rng.integers(1, 4, n).astype(np.float32),
            "width": rng.integers(100, 2000, n),
            "height": rng.integers(100, 2000, n),
            "bytes": rng.integers(1000, 9000, n),
            "phash": [rng.bytes(8).hex() for _ in range(n)],
            "model_id": MODEL,
        }
    )
    rows.loc[failed, ["score", "score_lower", "width", "height", "bytes", "phash"]] = None
    return rows


def write_scores(
    output: Folder | Path, rows: pd.DataFrame | Sequence[dict[str, Any]], *, shard_size: int = 16, finished: bool = True
) -> Folder:
    """Writes rows as 'grepr score' leaves them; columns that they lack are null."""
    folder = output if isinstance(output, Folder) else Folder(str(output))
    records = (
        rows.astype(object).where(rows.notna(), None).to_dict("records") if isinstance(rows, pd.DataFrame) else rows
    )
    size = len(records[0]["features"]) if records and "features" in records[0] else None
    for shard, begin in enumerate(range(0, max(len(records), 1), shard_size)):
        part = [dict.fromkeys(schema(size).names) | row for row in records[begin : begin + shard_size]]
        for row in part:
            row.update({name: int(row[name]) for name in ("width", "height", "bytes") if row[name] is not None})
        table = pa.Table.from_pylist(part, schema=schema(size))
        write_shard(folder.child(SCORES_FOLDER), shard, table, ShardSummary(len(part)))
    if finished:
        record = {"images": len(records), "options": {}, "finished": "2026-01-01T00:00:00+00:00"}
        folder.write("run.json", json.dumps(record).encode())
    return folder
