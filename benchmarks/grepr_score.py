"""``grepr score`` from its command line, as one of the ways that are compared."""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from grepr_core.storage import Folder
from pipelines.running.run_files import RUN_FILE
from pipelines.scoring.score_table import read_scores

#: Shards for each process. A lake has so many that the last one is short beside the whole; few photos must be cut small
#: for that, or the cores would wait for the last shard.
SHARDS_A_CORE = 8


@dataclass(frozen=True)
class Scored:
    """A finished run.

    Attributes:
        images_per_second: From the first shard's start to the last one's end.
        start_seconds: What the command took beyond that, mostly for starting Ray and its processes.
        scores: By the photo's name.
    """

    images_per_second: float
    start_seconds: float
    scores: dict[str, float]


def grepr_score(source: str, images: int, cores: int, *, model: str = "grepr-lite", precision: str = "auto") -> Scored:
    """Scores photos with one process a core.

    Args:
        source: Folder or URL of the photos.
        images: How many there are.
        cores: CPU cores.
        model: Bundle.
        precision: As ``--precision`` takes it.

    Returns:
        Speed and scores.

    Raises:
        RuntimeError: Not every photo was scored.
    """
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-m", "grepr", "score", source, output, "--model", model]
        command += ["--precision", precision, "--workers", str(cores)]
        command += ["--shard-size", str(max(1, images // (SHARDS_A_CORE * cores)))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"grepr score ended with {done.returncode}: {done.stderr[-2000:]}")
        record = json.loads((Path(output) / RUN_FILE).read_text())
        if record["counts"] != {"scored": images}:
            raise RuntimeError(f"{source}: {images} photos, of which grepr makes {record['counts']}")
        rows = read_scores(Folder(output), ["uri", "score"]).to_pylist()
    speed = record["images_per_second"]
    return Scored(
        images_per_second=speed,
        start_seconds=record["wall_seconds"] - images / speed,
        scores={Path(row["uri"]).name: row["score"] for row in rows},
    )
