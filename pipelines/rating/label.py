"""``grepr label``: choosing the photos whose ratings teach most, and a page in the browser to rate them on."""

import json
import logging
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grepr_core.bundles.bundle import load_bundle
from grepr_core.decoding.images import Limits
from grepr_core.errors import UserError, without_secrets
from grepr_core.storage import absolute, is_local
from grepr_core.web.access import ALLOW_LINK_LOCAL, for_reading
from pipelines.lake.image_reader import ImageReader
from pipelines.lake.sources import Entry
from pipelines.models.fit import FEWEST_RATINGS
from pipelines.models.rated_features import image_uri
from pipelines.options import LabelOptions
from pipelines.rating.choosing import choose_photos
from pipelines.rating.journal import Consistency, Photo, RatingJournal
from pipelines.rating.label_pool import find_pool
from pipelines.rating.page import listen, serve
from pipelines.running.settings import changes
from pipelines.telling.activity import activity, under_way
from pipelines.telling.words import counted

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelResult:
    """What rating came to.

    Attributes:
        table: Of the ratings.
        journal: Of all that was done.
        rated: Photos with a rating.
        photos: Photos to be rated.
        raters: How consistent each rater is.
        fit_command: What to go on with.
    """

    table: Path
    journal: Path
    rated: int
    photos: int
    raters: dict[str, Consistency]
    fit_command: str


def run(options: LabelOptions, *, announce: Callable[[str], None]) -> LabelResult:
    """Chooses photos, unless they are chosen already, and serves the page until it is finished or interrupted.

    Args:
        options: Of the command.
        announce: Is told where the page is.

    Returns:
        What the ratings came to.

    Raises:
        UserError: The output cannot be used or holds ratings of photos that were chosen otherwise, or there are no
            photos to choose from.
    """
    table = Path(absolute(options.output))
    if not is_local(options.output) or table.suffix != ".csv":
        raise UserError(f"--output {options.output}: name a .csv file on this machine")
    listen(options.host, options.port).close()  # what cannot be is told before photos are looked at
    table.parent.mkdir(parents=True, exist_ok=True)
    journal = RatingJournal(table)
    try:
        plan(journal, options)
        reader = _reader(options, journal.settings["images"])
        try:
            with under_way(lambda: ""):  # which waits for a person
                serve(journal, reader, limits=_limits(options), host=options.host, port=options.port, announce=announce)
        except KeyboardInterrupt:
            log.info("the page is closed; every rating is kept")
        return LabelResult(
            table,
            journal.path,
            journal.rated(),
            len(journal.photos),
            {name: journal.consistency(name) for name in journal.raters()},
            fit_command(journal, options),
        )
    finally:
        journal.close()


def plan(journal: RatingJournal, options: LabelOptions) -> None:
    """Chooses the photos that a journal lacks.

    Args:
        journal: Of the ratings; the photos are added to it.
        options: Of the command.

    Raises:
        UserError: Its photos were chosen otherwise.
    """
    settings: dict[str, Any] = {
        "source": absolute(options.source),
        "model": options.model,
        "pool": options.pool,
        "seed": options.seed,
    }
    if journal.photos and (changed := changes(journal.settings, settings)):
        raise UserError(
            f"{options.output}: its photos were chosen otherwise ({changed}); "
            "name another --output, or use the options it was made with"
        )
    # A small lake may have fewer photos than were asked for.
    if options.count <= journal.settings.get("count", 0):
        return
    missing = options.count - len(journal.photos)
    bundle = load_bundle(options.model)
    pool = find_pool(options, bundle)
    # A lake that grew gives another sample, in which they may no longer be.
    rated = [photo.entry for photo in journal.photos]
    with activity(f"choosing {missing} of {counted(len(pool.entries), 'photo')}", announced=False):
        reader = _reader(options, pool.source)
        chosen, left_out = choose_photos(
            pool, missing, bundle=bundle, rated=rated, reader=reader, limits=_limits(options)
        )
    if not chosen and not rated:
        raise UserError(f"{pool.source}: there is no photo to rate: {left_out} among {len(pool.entries)}")
    if len(chosen) < missing:
        log.warning("there is no more to rate than %s", counted(len(journal.photos) + len(chosen), "photo"))
    photos = [Photo(_name(pool.source, pool.entries[row]), pool.entries[row]) for row in chosen]
    journal.add_photos(
        {**settings, "count": options.count, "images": pool.source},
        photos,
        repeats=round(options.repeats * len(chosen)),
    )
    spread = "" if pool.quality is None else ", from the lowest scores to the highest"
    log.info("chose %d of %s to stand for the others%s", len(chosen), counted(len(pool.entries), "photo"), spread)
    if str(left_out):
        log.info("left out: %s", left_out)


def _name(source: str, entry: Entry) -> str:
    """Gives the name of an image in the table: its path below the source, or its URI where that does not lead back."""
    below = entry.uri.removeprefix(source.rstrip("/") + "/")
    return below if image_uri(source, below) == entry.uri else entry.uri


def _reader(options: LabelOptions, images: str) -> ImageReader:
    storage_options = for_reading(options.storage_options, images)
    return ImageReader(limits=_limits(options), timeout=options.timeout, storage_options=storage_options)


def _limits(options: LabelOptions) -> Limits:
    return Limits(max_bytes=options.max_image_bytes, max_pixels=options.max_image_pixels, min_side=options.min_side)


def fit_command(journal: RatingJournal, options: LabelOptions) -> str:
    """Gives the command that fits a model on the ratings."""
    words = ["grepr", "fit", options.output, "--images", journal.settings["images"]]
    if options.model != LabelOptions.model:
        words += ["--model", options.model]
    # Names alone: values may be secret, and what is printed ends in logs.
    if given := {name: "..." for name in options.storage_options if name != ALLOW_LINK_LOCAL}:
        words += ["--storage-options", json.dumps(given)]
    if options.allow_link_local:
        words.append("--allow-link-local")
    return shlex.join(map(without_secrets, [*words, "--output", "my-model"]))


def to_text(result: LabelResult) -> str:
    """Says what rating came to, and what to do next."""
    lines = [
        f"{result.rated} of {counted(result.photos, 'photo')} rated: {result.table}, journal {result.journal.name}"
    ]
    lines += [f"{name}: {consistency}" for name, consistency in result.raters.items()]
    if result.rated < result.photos:
        lines.append("the same command again goes on with the others")
    if result.rated >= FEWEST_RATINGS:
        lines.append(f"next: {result.fit_command}")
    else:
        lines.append(f"with {FEWEST_RATINGS} of them or more: {result.fit_command}")
    return "\n".join(lines)
