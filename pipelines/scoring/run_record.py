"""The record of a finished run, ``run.json``. Reading it needs neither Ray nor PyTorch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from grepr_core.decoding.images import Limits, Status
from grepr_core.storage import Folder
from pipelines.options import LakeOptions
from pipelines.running.run_files import RUN_FILE
from pipelines.running.settings import option_defaults, with_unknown

FORMAT_VERSION = 1
#: What settings are that an earlier version did not know.
DEFAULTS = option_defaults(LakeOptions) | {"limits": asdict(Limits()), "gpu_decode": False}


@dataclass(frozen=True)
class RunRecord:
    """What ``run.json`` says of a finished run.

    Attributes:
        format_version: Of this record.
        settings: What the scores depend on: source, model, limits, precision.
        options: Of the command that finished the run, without the storage options, which may hold secrets.
        versions: Of grepr and what it computes with.
        images: Number of rows.
        counts: Number of rows by status.
        seconds: Time by step, summed over processes: ``read`` (the model waiting for bytes), ``decode``, ``model``;
            and ``write``, of the command that finished the run, while the model was busy with the next shard.
        images_here: Images that the command that finished the run scored itself; the others were there.
        wall_seconds: Its time for them, start of Ray and of the processes included.
        images_per_second: Its speed from the first shard's start to the last one's end.
        workers: Its processes as they were planned, and as ``ran`` how many worked.
        finished: When, in UTC.
        changed: Number of images that changed after they were listed, and have the score of their new content.
        reasons: Number of rows by what ails them most, where anything does.
        unsettled: Folders of the output that are below ``update`` still, in whose place they are being put.
    """

    format_version: int
    settings: dict[str, Any]
    options: dict[str, Any]
    versions: dict[str, str]
    images: int
    counts: dict[str, int]
    seconds: dict[str, float]
    images_here: int
    wall_seconds: float
    images_per_second: float | None
    workers: dict[str, float | None] | None
    finished: str
    changed: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    unsettled: list[str] = field(default_factory=list)

    @property
    def failed_fraction(self) -> float:
        """Fraction of the images without a score."""
        return (self.images - self.counts.get(Status.SCORED, 0)) / self.images


def read_record(output: Folder) -> RunRecord | None:
    """Reads the record of a finished run; None where there is none."""
    return output.read_record(RUN_FILE, RunRecord) if output.exists(RUN_FILE) else None


def write_record(output: Folder, record: RunRecord, before: Mapping[str, Any]) -> None:
    """Writes the record of a finished run.

    Args:
        output: Of the run.
        record: The record.
        before: What the record there said until now; of it is kept what only another version knows.
    """
    settings = with_unknown(before.get("settings", {}), record.settings)
    output.write_json(RUN_FILE, {**before, **asdict(record), "settings": settings})
