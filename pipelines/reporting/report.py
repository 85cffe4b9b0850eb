"""``grepr report``: one HTML file that shows what scores come to, and what changed since another night."""

import contextlib
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, Self

import duckdb

from grepr_core.bundles.bundle_files import BundleFiles
from grepr_core.errors import Unavailable, UserError, without_secrets
from grepr_core.storage import Folder, absolute
from grepr_core.web.access import for_reading
from pipelines.lake.manifest import MANIFEST_FOLDER, Manifest, find_manifest
from pipelines.options import SELECTED_BY, ReportOptions
from pipelines.reporting import charts
from pipelines.reporting.comparison import Comparison, compare
from pipelines.reporting.copies import Copies, find_copies
from pipelines.reporting.database import load_scores, open_database
from pipelines.reporting.failures import FailedImage, list_failures
from pipelines.reporting.page import Report, Selection, Step, format_percent, format_score, quote, render
from pipelines.reporting.statistics import Statistics, compute
from pipelines.reporting.threshold import Threshold, count_kept, nearest
from pipelines.reporting.thumbnails import make_thumbnails
from pipelines.running.run_files import CRITERIA_FILE, FILTER_FILE
from pipelines.running.settings import SETTINGS_FILE, changes
from pipelines.scoring.current import current_folder, one_state, output_state
from pipelines.scoring.old_scores import OF_THE_IMAGES
from pipelines.scoring.run_record import DEFAULTS, RunRecord, read_record
from pipelines.scoring.score_table import SCORES_FOLDER
from pipelines.stores.object_store import STORE_ERRORS
from pipelines.telling.activity import activity

#: Photographs shown: the worst, and the best; those on a page of them, which fills rows of 2, 3, 4, 6 and 12; some
#: between those; and of those that rose and fell most.
EXTREMES, PAGE, BETWEEN, MOVES = 48, 12, 48, 6
#: The largest groups of near-copies, and photographs shown of each.
GROUPS, OF_A_GROUP = 8, 5
STEPS = {
    "read": "Waiting for bytes",
    "decode": "Decoding",
    "model": "Model",
    "write": "Writing, while the model was busy",
}
#: Size of the page, in bytes, that the pictures are made to fit.
PAGE_BYTES = 2_950_000
#: The page's name, where only its folder is known.
REPORT_FILE = "report.html"
#: What every page begins with; a file that begins otherwise is not replaced by one.
_PAGE = b"<!doctype html>"
#: What may keep a model card from the page.
CARD_ERRORS: tuple[type[Exception], ...] = (UserError, *STORE_ERRORS)
#: A difference between two distributions that a person would call none.
SMALL_GAP = 0.02


@dataclass(frozen=True)
class ReportResult:
    """What was written.

    Attributes:
        output: Where.
        bytes: Size of the page.
        images: Number of photographs it is about.
        thumbnails: Number of photographs it shows.
    """

    output: str
    bytes: int
    images: int
    thumbnails: int


@dataclass(frozen=True)
class _Run:
    """A run of ``grepr score``, or a selection from one by ``grepr filter``.

    Attributes:
        output: Where.
        record: Of a finished run; None of others.
        settings: Of the run; of a selection those of the run that it is from, as far as that is there.
        selection: What a selection is of; None of a run.
        finished: When, in UTC; None where it is not.
        images: Rows that a finished one has.
        manifests: Where the manifest of what was selected may be.
    """

    output: Folder
    record: RunRecord | None
    settings: Mapping[str, Any]
    selection: Selection | None = None
    finished: str | None = None
    images: int | None = None
    manifests: tuple[str, ...] = ()

    @classmethod
    def read(cls, output: Folder) -> Self:
        record = read_record(output)
        if record is not None:
            return cls(output, record, record.settings, finished=record.finished, images=record.images)
        if output.exists(CRITERIA_FILE):
            return cls._read_selection(output)
        return cls(output, None, output.read_json(SETTINGS_FILE) if output.exists(SETTINGS_FILE) else {})

    @classmethod
    def _read_selection(cls, output: Folder) -> Self:
        criteria = output.read_json(CRITERIA_FILE)
        record = output.read_json(FILTER_FILE) if output.exists(FILTER_FILE) else {}
        scores: str = criteria["scores"]["url"]
        settings: Mapping[str, Any] = {}
        with contextlib.suppress(UserError, *STORE_ERRORS):  # the scores may be gone by now
            settings = cls.read(Folder(scores, output.storage_options)).settings
        options = [
            f"--{name.replace('_', '-')} {quote(str(value))}"
            for name, value in criteria.items()
            if name in SELECTED_BY and value is not None
        ]
        return cls(
            output,
            None,
            settings,
            Selection(without_secrets(scores), record.get("images"), " ".join(options)),
            record.get("finished"),
            record.get("selected"),
            tuple(record.get("manifests", ())),
        )

    @property
    def model(self) -> str | None:
        """The bundle as the command was given it; of an unfinished run its name is all there is."""
        return self.record.options["model"] if self.record else self.settings.get("model")

    def find_manifest(self) -> Manifest | None:
        """Opens the manifest; None where it is gone."""
        places = [current_folder(self.output, MANIFEST_FOLDER).url, *self.manifests]
        if self.record is not None and "source" in self.record.options:
            places.append(self.record.options["source"])
        for place in places:
            with contextlib.suppress(*STORE_ERRORS):
                if found := find_manifest(place, self.output.storage_options):
                    return found
        return None


def run(options: ReportOptions) -> ReportResult:
    """Makes the report of a run, which need not be finished.

    Args:
        options: Of the command.

    Returns:
        What was written.

    Raises:
        UserError: There are no scores, or none to compare with, or the output is a file of another kind.
    """
    folder, name = _place(options)
    with open_database() as connection:
        this = _load(connection, "now", options.scores, options.storage_options)
        old = _load(connection, "before", options.compare, options.storage_options) if options.compare else None
        with activity("counting", announced=False):
            statistics = compute(connection, "now", most=EXTREMES, between=BETWEEN)
            model, notes = _model(this, statistics)
            thresholds: list[Threshold] = []
            if statistics.histogram is not None:
                scale = model.header.scale if model else None
                thresholds = count_kept(connection, "now", statistics.histogram, scale)
            failures = list_failures(connection, "now")
            shown = [*statistics.worst, *statistics.best, *statistics.between]
            copies = find_copies(connection, "now", shown, groups=GROUPS, photos=OF_A_GROUP)
        comparison = None
        if old is not None:
            comparison = compare(connection, "now", "before", photos=MOVES)
    report = _report(options, this, statistics, thresholds, copies, failures, model, notes)
    if old is not None and comparison is not None:
        report = _with_comparison(report, this, old, comparison)
    page = render(report).encode()
    if options.thumbnails:
        moved = [move.photo for move in (*comparison.fallen, *comparison.risen)] if comparison else []
        copied = [photo for group in copies.largest for photo in group.photos] if copies else []
        storage_options = for_reading(options.storage_options, this.settings.get("source"))
        with activity("reading the photos that are shown"):
            made = make_thumbnails(
                [*shown, *copied, *moved], this.find_manifest(), storage_options, room=PAGE_BYTES - len(page)
            )
        report = replace(report, thumbnails=made)
        page = render(report).encode()
    try:
        folder.write(name, page)
    except OSError as error:
        raise Unavailable(f"{folder.url}/{name}: cannot be written to: {error.strerror or error}") from error
    pictures = sum(thumbnail.data_uri is not None for thumbnail in report.thumbnails.values())
    return ReportResult(f"{folder.url}/{name}", len(page), statistics.images, pictures)


def _place(options: ReportOptions) -> tuple[Folder, str]:
    """Gives the folder of the page, and its name there."""
    if options.output is None:
        return Folder(options.scores, options.storage_options), REPORT_FILE
    given = Folder(options.output, options.storage_options)
    if options.output.endswith("/") or given.fs.isdir(given.path("")):
        return given, REPORT_FILE
    parent, name = posixpath.split(given.url)
    folder = Folder(parent, options.storage_options)
    if folder.exists(name) and folder.fs.cat_file(folder.path(name), 0, len(_PAGE)).lower() != _PAGE:
        raise UserError(f"--output {options.output}: is there already, and no page; name another file")
    return folder, name


def _load(connection: duckdb.DuckDBPyConnection, table: str, url: str, storage_options: Mapping[str, Any]) -> _Run:
    """Reads the record of a run, and its scores into a table."""
    output = Folder(url, storage_options)
    with activity(f"reading the scores of {url}"), one_state(output, output_state(output)):
        run = _Run.read(output)
        load_scores(connection, table, output, hashes=table == "now")
    return run


def _report(
    options: ReportOptions,
    this: _Run,
    statistics: Statistics,
    thresholds: list[Threshold],
    copies: Copies | None,
    failures: list[FailedImage],
    model: BundleFiles | None,
    notes: list[str],
) -> Report:
    source = without_secrets(str(this.settings.get("source", this.output.url)))
    median = statistics.overall.median
    # Else the filter refuses it.
    whole = this.finished is not None and this.images == statistics.images
    interval = model.regressor.interval if model and model.regressor else None
    files = f"{current_folder(this.output, SCORES_FOLDER).url}/*.parquet".replace("'", "''")
    return Report(
        title=options.title or f"Photo quality of {posixpath.basename(source.rstrip('/')) or source}",
        source=source,
        version=version("grepr"),
        statistics=statistics,
        thumbnails={},
        with_thumbnails=options.thumbnails,
        run=this.record,
        selection=this.selection,
        finished=this.finished,
        expected=None if this.finished or this.selection else this.settings.get("images"),
        model_name=this.settings.get("model"),
        card=model.card() if model else None,
        scale=model.header.scale if model else None,
        intervals=f"meant to hold {100 * interval.level:.0f} % of ratings" if interval else None,
        notes=notes,
        distribution=charts.distribution(statistics.histogram) if statistics.histogram else None,
        thresholds=thresholds,
        chosen=0 if median is None else nearest(thresholds, median),
        filter=f"grepr filter {quote(without_secrets(absolute(options.scores)))}{'' if whole else ' --unfinished'}",
        copies=copies,
        failures=failures,
        failures_query=f"SELECT uri, member, status, error FROM '{without_secrets(files)}' WHERE status <> 'scored';",
        page=PAGE,
        steps=_steps(this.record),
    )


def _model(this: _Run, statistics: Statistics) -> tuple[BundleFiles | None, list[str]]:
    """Reads the model that scored, for its card; or says why it cannot be had."""
    if this.model is None:
        return None, []
    try:
        model = BundleFiles.read(this.model)
    except CARD_ERRORS as error:
        return None, [f"The model card is missing: {error}"]
    if [model.model_id] != statistics.model_ids:
        return None, [f"The model card is missing: {this.model} is another model by now ({model.model_id})."]
    return model, []


def _steps(record: RunRecord | None) -> list[Step]:
    if record is None or not sum(record.seconds.values()):
        return []
    total = sum(record.seconds.values())
    steps = [Step(STEPS.get(name, name), seconds, seconds / total) for name, seconds in record.seconds.items()]
    return sorted(steps, key=lambda step: -step.seconds)


def _with_comparison(report: Report, this: _Run, old: _Run, comparison: Comparison) -> Report:
    other_model = comparison.model_ids != report.statistics.model_ids
    chart = None
    if comparison.before is not None and comparison.now is not None:
        chart = charts.drift(comparison.before, comparison.now)
    return replace(
        report,
        comparison=comparison,
        compared_with=old.output.url,
        other_model=other_model,
        drift=[_about_models(this, old, other_model), *_about_scores(report.statistics, comparison, old)],
        drift_chart=chart,
    )


def _about_models(this: _Run, old: _Run, other_model: bool) -> str:
    if other_model:
        return (
            f"The two runs were scored by different models: {old.settings.get('model', 'one of unknown name')} then, "
            f"{this.settings.get('model', 'one of unknown name')} now. Differences between the scores may come from "
            "the models, and their scales may differ; photos and statuses can be compared all the same."
        )
    same = {key: value for key, value in this.settings.items() if key not in (*OF_THE_IMAGES, "model")}
    if changed := changes(old.settings, same, DEFAULTS):
        return f"Both runs were scored by the same model, but otherwise: {changed}."
    return "Both runs were scored by the same model in the same way."


def _about_scores(statistics: Statistics, comparison: Comparison, old: _Run) -> Iterator[str]:
    if old.selection is not None:
        yield "The other one is a selection; photos that are not in it count as new."
    elif old.finished is None:
        yield "The other run is not finished; photos that it has not gone through count as new."
    median = statistics.overall.median
    if comparison.largest_gap is None or comparison.median_before is None or median is None:
        return
    before, now = format_score(comparison.median_before), format_score(median)
    shift = f"the median went from {before} to {now}" if before != now else f"the median is {now} still"
    gap = format_percent(comparison.largest_gap)
    if comparison.largest_gap <= SMALL_GAP:
        same = "The scores are distributed as before: the share of photos below any one score changed by"
        yield f"{same} {gap} at most; {shift}."
    else:
        yield f"The scores have shifted: {shift}, and the share of photos below some score changed by up to {gap}."
