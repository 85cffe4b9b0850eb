"""``grepr filter``: selects images by their scores, and writes them in the form that is wanted.

Two passes through the shards of scores: the first reads the columns that the criteria need and decides, the second
copies the rows that were chosen. Images are then written by shards of the selection, on Ray. What was decided is kept
until all is written, so that the same command goes on with the same selection after a crash.
"""

import logging
import platform
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow as pa

from grepr_core.decoding.images import Status
from grepr_core.errors import UserError
from grepr_core.storage import Folder, absolute, from_record
from grepr_core.web.access import for_reading
from pipelines.options import SELECTED_BY, FilterOptions
from pipelines.running.run_files import CRITERIA_FILE, FILTER_FILE, LOCK_FILE
from pipelines.running.run_lock import RunLock, run_lock
from pipelines.running.settings import changes, option_defaults
from pipelines.running.shard_files import finished_shards, read_footers
from pipelines.scoring.current import one_state
from pipelines.scoring.score_table import SCORES_FOLDER, read_shard, read_table
from pipelines.selection.copies import IMAGES_FOLDER, Copier, NameCheck
from pipelines.selection.criteria import Counts, Criteria
from pipelines.selection.distinct import DUPLICATES_FILE, write_duplicates
from pipelines.selection.images import WRITTEN_FOLDER, ImagesJob, WrittenShard
from pipelines.selection.metadata import read_metadata
from pipelines.selection.rows import FAILED_FILE, read_rows, write_failures, write_rows
from pipelines.selection.scores import ScoresFolder, archive_places, open_scores
from pipelines.selection.tars import TARS_FOLDER, SampleKeys, TarWriter
from pipelines.selection.uris import COLUMNS, URIS_FILE, write_uris
from pipelines.telling.activity import activity
from pipelines.telling.progress import Progress
from pipelines.telling.words import counted

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
#: Of a selection that is not finished; removed at its end.
WORK_FOLDER = "in-progress"
#: In it, what was decided.
DECISION_FILE = "selection.json"
UNWRITTEN_FILE = "unwritten.parquet"
WRITERS = {"webdataset": TarWriter, "copy": Copier}
#: What names the images that each writes, below the folder that they share.
NAMERS: dict[str, Callable[[str], Callable[[pa.Table], pa.Array | None]]] = {
    "webdataset": SampleKeys,
    "copy": NameCheck,
}


@dataclass(frozen=True)
class Decision:
    """What was selected.

    Attributes:
        counts: Rows of the scores by status.
        root: Folder that all URIs are below.
        chosen: What the criteria came to.
        shards: Shards of the selection.
        reasons: By what ails them most, of the images that are ``scored`` and of those ``selected``, how many.
    """

    counts: dict[str, int]
    root: str
    chosen: Counts
    shards: int
    reasons: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class FilterRecord:
    """What ``filter.json`` says of a finished selection.

    Attributes:
        format_version: Of this record.
        criteria: What it was made by: options, and which scores and metadata.
        versions: Of grepr and what it computes with.
        model_ids: Of the models that the scores are from; one, unless no image met the conditions.
        images: Number of rows in the scores.
        counts: Number of rows by status.
        failed: Number of images without a score, listed in ``failed.parquet``.
        without_metadata: Number of scored images that the metadata has no row of.
        met: Number of images that met all conditions, of which the top was taken.
        selected: Number of images selected.
        groups: Number of groups that they are in; null without ``--per``.
        lowest_score: Lowest score selected, the threshold that was reached; null where none is selected.
        highest_score: Highest score selected.
        written: Number of images written, of those that could not be (``unwritten.parquet``) and of those that are not
            what was scored any more, and bytes; null where only rows are written.
        manifests: Where the manifest of the images may be.
        seconds: That the command which finished the selection took.
        finished: When, in UTC.
        reasons: By what ails them most, of the images that are ``scored`` and of those ``selected``, how many.
        duplicates: Number of near-copies of the images selected, which were left out for them
            (``duplicates.parquet``); null without ``--distinct``.
    """

    format_version: int
    criteria: dict[str, Any]
    versions: dict[str, str]
    model_ids: list[str]
    images: int
    counts: dict[str, int]
    failed: int
    without_metadata: int
    met: int
    selected: int
    groups: int | None
    lowest_score: float | None
    highest_score: float | None
    written: dict[str, int] | None
    manifests: list[str]
    seconds: float
    finished: str
    reasons: dict[str, dict[str, int]] = field(default_factory=dict)
    duplicates: int | None = None

    @property
    def unwritten_fraction(self) -> float:
        """Fraction of the selected images that could not be written."""
        return self.written["failed"] / self.selected if self.written and self.selected else 0.0


def run(options: FilterOptions) -> FilterRecord:
    """Selects images, or goes on where an earlier run of the same command ended.

    Args:
        options: Of the command.

    Returns:
        The record that ``filter.json`` holds.

    Raises:
        UserError: The scores are not there or not finished, an expression or the metadata cannot be used, the scores
            are of several models, or the output holds something else.
        ShardError: Images could not be written, say because the disk is full.
    """
    began = time.monotonic()
    output = Folder(options.output, options.storage_options)
    if output.url == absolute(options.scores).rstrip("/"):
        raise UserError(f"--output {options.output}: is where the scores are; name another folder")
    source = open_scores(options.scores, options.storage_options, unfinished=options.unfinished)
    criteria = _criteria(options, source)
    _check_own(output)
    with run_lock(output) as lock:
        _begin(output, criteria, options)
        if output.exists(FILTER_FILE):
            log.info("%s: holds this selection already", output.url)
            return output.read_record(FILTER_FILE, FilterRecord)
        decision = _decide(options, source, output)
        written = _write(options, source, decision, output, lock)
        record = _record(criteria, source, decision, written, time.monotonic() - began)
        lock.check()
        output.write_json(FILTER_FILE, asdict(record))
        output.child(WORK_FOLDER).remove()
    return record


def _criteria(options: FilterOptions, source: ScoresFolder) -> dict[str, Any]:
    """Gives all that the selection depends on."""
    metadata = None
    if options.metadata is not None:
        where = absolute(options.metadata)
        folder, _, name = where.rpartition("/")
        held = Folder(folder, options.storage_options)
        if not held.exists(name):
            raise UserError(f"--metadata {options.metadata}: no such file")
        metadata = {"url": where, "version": held.fs.ukey(held.path(name))}
    return {
        **{name: getattr(options, name) for name in (*SELECTED_BY, "column")},
        "format": options.format,
        "shard_size": options.shard_size,
        "metadata": metadata,
        "scores": {"url": source.output.url, "finished": source.finished, "shards": len(source.shards)},
    }


def _check_own(output: Folder) -> None:
    """Makes sure that nothing of anyone else's is in the output, which may be cleared."""
    try:
        others = [name for name in output.names() if not name.startswith(".") and name != LOCK_FILE]
        own = not others or output.exists(CRITERIA_FILE)
    except OSError as error:
        raise UserError(f"{output.url}: {error.strerror or error}") from error
    if not own:
        raise UserError(f"{output.url}: is not empty, and holds no selection; name another --output")


def _begin(output: Folder, criteria: dict[str, Any], options: FilterOptions) -> None:
    """Makes sure that the output is of these criteria."""
    if output.exists(CRITERIA_FILE) and (
        changed := changes(output.read_json(CRITERIA_FILE), criteria, option_defaults(FilterOptions))
    ):
        # Where nothing was decided yet, nothing is lost.
        decided = output.exists(FILTER_FILE) or output.exists(f"{WORK_FOLDER}/{DECISION_FILE}")
        if decided and not options.overwrite:
            raise UserError(
                f"{output.url}: holds a selection made otherwise ({changed}); name another --output, or replace it "
                "with --overwrite"
            )
        # The record first and the criteria last, so that what is left after a crash is known for unfinished.
        output.delete(FILTER_FILE)
        for folder in (WORK_FOLDER, SCORES_FOLDER, TARS_FOLDER, IMAGES_FOLDER):
            output.child(folder).remove()
        for file in (FAILED_FILE, DUPLICATES_FILE, UNWRITTEN_FILE, URIS_FILE):
            output.delete(file)
    output.write_json(CRITERIA_FILE, criteria)


def _decide(options: FilterOptions, source: ScoresFolder, output: Folder) -> Decision:
    """Selects, and writes the rows that are selected; or gives what was decided before."""
    work = output.child(WORK_FOLDER)
    if work.exists(DECISION_FILE):
        found = work.read_json(DECISION_FILE)
        return from_record(Decision, {**found, "chosen": from_record(Counts, found["chosen"])})
    # Rows of a run that was killed before it was through with them.
    output.child(SCORES_FOLDER).remove()
    with (
        one_state(source.output, source.state),
        tempfile.TemporaryDirectory(prefix="grepr-") as temporary,
        closing(Criteria(options, temporary)) as criteria,
    ):
        if options.metadata is not None:
            with activity(f"reading {options.metadata}"):
                keys, rows = read_metadata(
                    options.metadata, options.storage_options, criteria.wants, column=options.column
                )
            criteria.add_metadata(keys, rows)
        contents = read_rows(source.folder, source.shards, criteria, output, total=source.images or 0)
        images = sum(contents.counts.values())
        if source.images not in (None, images) and not options.unfinished:
            raise UserError(
                f"{options.scores}: has {counted(images, 'row')} of {source.images}; some of its files are gone, so "
                "score anew, or take what there is with --unfinished"
            )
        with activity("choosing", announced=False):
            chosen = criteria.choose()
        if options.distinct is not None:
            write_duplicates(output, criteria.duplicates())
        members = options.wants_images and criteria.holds_members()
        if members:
            with activity("looking up places in archives", announced=False):
                criteria.add_places(archive_places(source.manifest()))
        shards, written = write_rows(
            source.folder,
            criteria.picked(),
            output,
            work,
            first=source.shards[0],
            total=chosen.selected,
            shard_size=options.shard_size,
            name=NAMERS[options.format](contents.root) if options.format in NAMERS else _unnamed,
        )
        reasons = {"scored": contents.reasons, "selected": dict(written.reasons)}
        decision = Decision(contents.counts, contents.root, chosen, shards, reasons)
    work.write_json(DECISION_FILE, asdict(decision))
    return decision


def _unnamed(rows: pa.Table) -> None:
    """Has no names for rows."""


def _write(
    options: FilterOptions, source: ScoresFolder, decision: Decision, output: Folder, lock: RunLock
) -> WrittenShard | None:
    """Makes what is wanted of the selected rows; tells how many images it holds, where that is not just the rows."""
    if options.format in WRITERS:
        return _write_images(options, source, decision, output, lock)
    if options.format == "txt":
        scores = output.child(SCORES_FOLDER)
        refused = write_uris(output, (read_shard(scores, shard, COLUMNS) for shard in range(decision.shards)))
        write_failures(output, UNWRITTEN_FILE, [refused])
        return WrittenShard(decision.chosen.selected - len(refused), len(refused))
    return None


def _write_images(
    options: FilterOptions, source: ScoresFolder, decision: Decision, output: Folder, lock: RunLock
) -> WrittenShard:
    """Writes the images of those shards that are not done."""
    # Most selections are rows alone, which need no Ray: a second and a half of imports.
    from pipelines.running.session import ray_session  # noqa: PLC0415
    from pipelines.running.shard_pool import ShardRun  # noqa: PLC0415
    from pipelines.running.workers import cluster_workers  # noqa: PLC0415

    work = output.child(WORK_FOLDER)
    lists = work.child(WRITTEN_FOLDER)
    done = finished_shards(lists)
    before = sum((from_record(WrittenShard, footer) for _, footer in read_footers(lists, done)), WrittenShard())
    todo = np.array([shard for shard in range(decision.shards) if shard not in done], np.int64)
    if len(todo) and decision.chosen.selected:
        storage_options = for_reading(options.storage_options, source.image_source())
        job = ImagesJob(output, work, decision.root, options.timeout, storage_options)
        done_before = before.images + before.failed
        with ray_session(options.address):
            workers = cluster_workers("cpu", options.workers)
            log.info("writing %s with %s", counted(decision.chosen.selected - done_before, "image"), workers)
            with closing(Progress(decision.chosen.selected, done_before, what="writing")) as progress:
                for row in ShardRun(WRITERS[options.format], job, todo, workers):  # type: ignore[type-abstract]
                    lock.check()
                    progress.update(row["images"] + row["failed"], row["failed"])
    footers = read_footers(lists, sorted(finished_shards(lists)))
    written = {shard: from_record(WrittenShard, footer) for shard, footer in footers}
    failed = [shard for shard, summary in written.items() if summary.failed]
    write_failures(output, UNWRITTEN_FILE, (read_table(lists, shard) for shard in failed))
    return sum(written.values(), WrittenShard())


def _record(
    criteria: dict[str, Any],
    source: ScoresFolder,
    decision: Decision,
    written: WrittenShard | None,
    seconds: float,
) -> FilterRecord:
    chosen = decision.chosen
    images = sum(decision.counts.values())
    return FilterRecord(
        format_version=FORMAT_VERSION,
        criteria=criteria,
        versions={name: version(name) for name in ("grepr", "duckdb", "ray", "pyarrow")}
        | {"python": platform.python_version()},
        model_ids=chosen.models,
        images=images,
        counts=decision.counts,
        failed=images - decision.counts.get(Status.SCORED, 0),
        without_metadata=chosen.without_metadata,
        met=chosen.met,
        selected=chosen.selected,
        groups=chosen.groups,
        lowest_score=chosen.lowest,
        highest_score=chosen.highest,
        written=asdict(written) if written else None,
        manifests=list(source.manifests),
        seconds=round(seconds, 3),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        reasons=decision.reasons,
        duplicates=chosen.duplicates,
    )
