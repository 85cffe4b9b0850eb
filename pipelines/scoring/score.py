"""``grepr score``: a Ray Data pipeline from a manifest to scores.

What crosses from one process to another are shard numbers and summaries of finished shards. Everything between the
bytes of an image and its row happens inside one process (:mod:`pipelines.scoring.shard_scorer`), which also writes the
shard's file; so no decoded image passes through Ray's object store, and nothing on the driver grows with the number of
images. A shard is finished when its file is there: resuming costs one listing, and one small request a finished shard,
for what its footer tells of it.
"""

import logging
import platform
import time
from contextlib import closing, nullcontext
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from grepr_core.bundles.bundle_files import BundleFiles, BundleHeader, bundle_address
from grepr_core.decoding.images import Limits, Status
from grepr_core.encoders.precision import Precision
from grepr_core.errors import UserError, without_secrets
from grepr_core.storage import Folder, absolute
from grepr_core.web.access import for_reading
from pipelines.lake.manifest import MANIFEST_FILE, MANIFEST_FOLDER, Manifest, find_or_make_manifest, given_manifest
from pipelines.options import FeaturesDtype, LakeOptions, ScoreOptions, ScoringOptions
from pipelines.running.precision import recorded_precision, settle_precision
from pipelines.running.run_files import RUN_FILE
from pipelines.running.run_lock import RunLock, run_lock
from pipelines.running.session import check_cluster, ray_session
from pipelines.running.settings import (
    SETTINGS_FILE,
    changes,
    check_settings,
    made_otherwise,
    other_source,
    source_settings,
)
from pipelines.running.shard_files import BrokenShard, finished_shards, read_ahead, shard_name
from pipelines.running.shard_pool import ShardRun
from pipelines.running.workers import Workers, cluster_workers
from pipelines.scoring.current import one_state, output_state, settle
from pipelines.scoring.old_scores import OldScores, check_old_settings
from pipelines.scoring.run_record import DEFAULTS, FORMAT_VERSION, RunRecord, read_record, write_record
from pipelines.scoring.score_table import (
    SCORES_FOLDER,
    TRANSIENT,
    ShardSummary,
    read_summary,
)
from pipelines.scoring.shard_scorer import JOURNAL_FOLDER, ScoringJob, ShardScorer
from pipelines.telling.activity import activity
from pipelines.telling.progress import Progress
from pipelines.telling.words import counted

log = logging.getLogger(__name__)


def run(options: ScoreOptions, *, newer: str | None = None) -> RunRecord:
    """Scores a source, or goes on where an earlier run of the same command ended.

    Args:
        options: Of the command.
        newer: What is said of images that are new since the output was finished, where ``--update`` is not for them.

    Returns:
        The record that ``run.json`` holds.

    Raises:
        UserError: The source holds no image, the model cannot be used or has no way to a score, the output holds
            scores made otherwise, or the cluster has not what was asked for.
        ShardError: A shard could not be written, say.
    """
    output = Folder(options.output, options.storage_options)
    model = scoring_model(options.model)
    record = read_record(output)
    if record is None or record.unsettled or options.retry_failed:
        with run_lock(output) as lock:
            settle(output, lock)
            record = None if options.retry_failed else read_record(output)
            if record is None:
                return score_listed(options, output, model, lock)
    manifest = check_finished(record, options, output, model)
    if newer is None and manifest is not None and (other := other_images(record.settings, manifest)):
        raise UserError(
            f"{output.url}: holds the scores of another manifest than {options.source} ({other}); --update takes over "
            "what has not changed and scores the others"
        )
    if newer is None:
        what = f"another manifest of {manifest.source}" if manifest is not None else "the same command"
        newer = f"{what} with --update takes in what is new or has changed"
    log.info("%s: finished already; %s", output.url, newer)
    return record


def score_listed(options: ScoreOptions, output: Folder, model: BundleHeader, lock: RunLock) -> RunRecord:
    """Scores a source into an output that is not finished; see :func:`run`."""
    return score_manifest(
        open_manifest(options, output),
        output,
        model,
        options,
        features=options.written_features,
        retry=options.retry_failed,
        since=Folder(options.since, options.storage_options) if options.since else None,
        lock=lock,
    )


def check_finished(record: RunRecord, options: LakeOptions, output: Folder, model: BundleHeader) -> Manifest | None:
    """Makes sure that a command would score as a finished run did, whatever images its source has by now.

    Args:
        record: Of the run.
        options: Of the command.
        output: Of the run.
        model: What ``options.model`` names.

    Returns:
        The manifest, where the command's source is one.

    Raises:
        UserError: It would not.
    """
    manifest = given_manifest(options.source, options.storage_options)
    source = manifest.source if manifest is not None else absolute(options.source)
    if changed := scored_otherwise(record.settings, source, options, model):
        error = made_otherwise(output, "scores", changed)
        if other_source(record.settings, source_settings(source)):
            error = UserError(
                f"{error}; --since {output.url} takes the rows of a lake that was moved over into another"
            )
        raise error
    return manifest


def scored_otherwise(before: dict[str, Any], source: str, options: LakeOptions, model: BundleHeader) -> str:
    """Says which settings of a run, whatever its images, differ from those that a command has."""
    images = before.get("images"), before.get("manifest")
    return changes(before, _settings(source, *images, model, options, options.written_features), DEFAULTS)


def other_images(before: dict[str, Any], manifest: Manifest) -> str:
    """Says how a manifest differs from that of a run with these settings; nothing where it is the same one."""
    if manifest.images != before.get("images"):
        return f"then {before.get('images')} images, now {manifest.images}"
    return "" if before.get("manifest") in (None, manifest.digest) else "another manifest of as many images"


def scoring_model(name_or_url: str) -> BundleHeader:
    """Checks a model as far as that can be done without loading it, which the scoring processes do.

    Args:
        name_or_url: Of its bundle.

    Returns:
        What there is to know of it.

    Raises:
        UserError: It is damaged, or has no way to a score.
    """
    files = BundleFiles.read(name_or_url)
    if not files.has_score:
        raise UserError(
            f"{name_or_url}: this model has features but no way from them to a score yet; fit one with "
            f"'grepr fit RATINGS.csv --images FOLDER --model {name_or_url} --output BUNDLE'"
        )
    return files.header


def open_manifest(options: ScoreOptions, output: Folder) -> Manifest:
    """Opens the manifest that a command's source is, or lists the source into one below the output."""
    check_cluster(options.address)  # a lake may take hours to be listed
    if output.exists(SETTINGS_FILE) and not output.exists(f"{MANIFEST_FOLDER}/{MANIFEST_FILE}"):
        _forget_manifest(output)
    return find_or_make_manifest(
        options.source,
        output,
        all_files=options.all_files,
        column=options.column,
        members=options.members,
        shard_size=options.shard_size,
        storage_options=options.storage_options,
    )


def _forget_manifest(output: Folder) -> None:
    """Lets an output whose manifest is gone begin with another one, where nothing was made of the first."""
    if not finished_shards(output.child(SCORES_FOLDER)):
        output.child(JOURNAL_FOLDER).remove()
        output.delete(SETTINGS_FILE)


def score_manifest(
    manifest: Manifest,
    output: Folder,
    model: BundleHeader,
    options: ScoringOptions,
    *,
    features: FeaturesDtype | None = None,
    retry: bool = False,
    since: Folder | None = None,
    lock: RunLock | None = None,
) -> RunRecord:
    """Scores the images of a manifest; see :func:`run`.

    Args:
        manifest: The images.
        output: Where to.
        model: What ``options.model`` names.
        options: How images are scored.
        features: What features are written as; None where they are not.
        retry: Whether failures that may have passed are tried again.
        since: Output of an earlier run, whose rows are taken over for images that have not changed.
        lock: On the output, where another command may come to it.

    Returns:
        The record that ``run.json`` holds.
    """
    check = _nothing if lock is None else lock.check
    if (precision := model.resolve_precision(options.precision)) != options.precision != "auto":
        log.warning("%s scores in %s always; --precision %s is ignored", model.name, precision, options.precision)
    precision = recorded_precision(precision, output, since)
    options_now = replace(options, precision=precision)
    settings = _settings(manifest.source, manifest.images, manifest.digest, model, options_now, features)
    if since is not None:
        check_old_settings(since, settings, DEFAULTS)
    # What an earlier version began, it began on this manifest for all that is known.
    check_settings(output, settings, defaults=DEFAULTS | {"manifest": manifest.digest}, holds="scores")
    earlier = output.read_json(RUN_FILE) if output.exists(RUN_FILE) else {}
    output.delete(RUN_FILE)
    with activity(f"looking for what {output.url} holds already", announced=False):
        before, todo = _unfinished(manifest, output.child(SCORES_FOLDER), retry)
    if before.images:
        log.info("%s: %d of %s done already", output.url, before.images, counted(manifest.images, "image"))
    here, processes, began = ShardSummary(), None, time.monotonic()
    if len(todo):
        with (
            ray_session(options.address),
            one_state(since, output_state(since)) if since is not None else nullcontext(),
        ):
            workers = workers_for(options)
            log.info("scoring %s with %s", counted(manifest.images - before.images, "image"), workers)
            precision = settle_precision(output, settings, workers)
            old = ray.put(_old_scores(since, settings)) if since is not None else None
            job = _job(manifest, output, model, options, precision, workers, features, retry, old)
            run = ShardRun(ShardScorer, job, todo, workers)
            with closing(Progress(manifest.images, before.images)) as shown:
                for row in run:
                    check()
                    summary = ShardSummary(**row)
                    here += summary
                    shown.update(summary.images, summary.images - summary.counts.get(Status.SCORED, 0))
            processes = {**asdict(workers), "gpus": workers.gpus, "ran": run.processes}
    record = _record(before + here, here, settings, options, processes, time.monotonic() - began)
    if record.images != manifest.images:
        raise RuntimeError(f"{record.images} rows for {manifest.images} images; this is a defect, please report it")
    if record.changed:
        changed = counted(record.changed, "object")
        log.warning("%s changed after being listed; the scores are of the new content", changed)
    check()  # what follows is for the only one
    notes = output.child(JOURNAL_FOLDER)
    for name in notes.names():  # of processes that died between writing a shard and removing its note
        notes.delete(name)
    write_record(output, record, earlier)
    return record


def _old_scores(since: Folder, settings: dict[str, Any]) -> OldScores:
    with activity(f"reading which images {since.url} has scores of"):
        return OldScores.read(since, settings)


def workers_for(options: ScoringOptions) -> Workers:
    """Plans the processes that score on the Ray cluster that is connected."""
    return cluster_workers(
        options.device, options.workers, per_gpu=options.processes_per_gpu, autoscaling=options.autoscaling
    )


def _nothing() -> None:
    """Has nothing to check."""


def _unfinished(manifest: Manifest, scores: Folder, retry: bool) -> tuple[ShardSummary, NDArray[np.int64]]:
    """Gives what is done, and the shards that are not, those with failures to be tried again among them."""
    done, total = np.zeros(manifest.shards, bool), ShardSummary()
    for shard, summary in read_ahead(lambda shard: (shard, _summary(scores, shard)), sorted(finished_shards(scores))):
        if summary is not None and not (retry and TRANSIENT & summary.counts.keys()):
            done[shard] = True
            total += summary
    return total, np.flatnonzero(~done)


def _summary(scores: Folder, shard: int) -> ShardSummary | None:
    try:
        return read_summary(scores, shard)
    except BrokenShard as error:
        log.warning("%s. It is scored again", error.reason)
        scores.delete(shard_name(shard))
        return None


def _record(
    total: ShardSummary,
    here: ShardSummary,
    settings: dict[str, Any],
    options: ScoringOptions,
    workers: dict[str, float | None] | None,
    wall_seconds: float,
) -> RunRecord:
    return RunRecord(
        format_version=FORMAT_VERSION,
        settings=settings,
        options={
            name: without_secrets(value) if isinstance(value, str) else value
            for name, value in asdict(options).items()
            if name != "storage_options"
        },
        versions={name: version(name) for name in ("grepr", "ray", "torch", "pillow", "pyarrow")}
        | {"python": platform.python_version()},
        images=total.images,
        counts=dict(total.counts),
        seconds=dict(total.seconds),
        images_here=here.scored_here,
        wall_seconds=round(wall_seconds, 3),
        images_per_second=round(here.scored_here / (here.ended - here.began), 2) if here.scored_here else None,
        workers=workers,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        changed=total.changed,
        reasons=dict(total.reasons),
    )


def _job(
    manifest: Manifest,
    output: Folder,
    model: BundleHeader,
    options: ScoringOptions,
    precision: Precision,
    workers: Workers,
    features: FeaturesDtype | None,
    retry: bool,
    since: "ray.ObjectRef[OldScores] | None",
) -> ScoringJob:
    return ScoringJob(
        manifest=manifest,
        output=output,
        model=bundle_address(options.model),
        model_id=model.model_id,
        device="cuda" if workers.gpus else "cpu",
        precision=precision,
        threads=workers.cpus,
        limits=_limits(options),
        max_pixels=options.max_pixels,
        features=features,
        timeout=options.timeout,
        hang_timeout=options.hang_timeout,
        zero_shot=options.zero_shot,
        storage_options=for_reading(options.storage_options, manifest.source),
        retry_failed=retry,
        since=since,
    )


def _limits(options: ScoringOptions) -> Limits:
    return Limits(max_bytes=options.max_image_bytes, max_pixels=options.max_image_pixels, min_side=options.min_side)


def _settings(
    source: str,
    images: int | None,
    manifest: str | None,
    model: BundleHeader,
    options: ScoringOptions,
    features: FeaturesDtype | None,
) -> dict[str, Any]:
    return {
        **source_settings(source),
        "images": images,
        "manifest": manifest,
        "model": model.name,
        "model_id": model.model_id,
        "precision": model.resolve_precision(options.precision),
        "max_pixels": options.max_pixels or model.view.pixels,
        "limits": asdict(_limits(options)),
        "features": features is not None,
        "features_dtype": features or "float16",
        "zero_shot": options.zero_shot,
        # An earlier version could decode on the GPU, which garbled photos now and then.
        "gpu_decode": False,
    }
