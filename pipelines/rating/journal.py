"""The journal of ratings, one JSON object a line, and the table of ratings that is made from it.

The first line says which photos are to be rated. Every further one is a rating, a skipped photo, an undo, or more
photos. A line is on the disk before the person who rated sees the next photo, and nothing is ever changed: what counts
is found by reading all lines in order.
"""

import csv
import fcntl
import io
import json
import math
import os
import statistics
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from grepr_core.errors import UserError
from grepr_core.storage import Folder, from_record
from pipelines.lake.sources import Entry
from pipelines.models.rated_features import PLACE_COLUMNS

FORMAT_VERSION = 1
SCALE = range(1, 6)


@dataclass(frozen=True)
class Photo:
    """A photo to be rated.

    Attributes:
        image: Its name in the table of ratings: a path below the folder of all photos, or its URI.
        entry: Where it is.
    """

    image: str
    entry: Entry


@dataclass(frozen=True)
class Slot:
    """A place in the sequence that every rater goes through.

    Attributes:
        photo: Which photo is shown there.
        repeat: Whether it is shown for the second time, to see whether it gets the same rating.
    """

    photo: int
    repeat: bool = False


@dataclass(frozen=True)
class Consistency:
    """How well a rater agrees with himself or herself.

    Attributes:
        photos: Photos rated twice.
        same: How many of them got the same rating again.
        noise: Standard deviation of a single rating: the root of half the mean squared difference.
    """

    photos: int
    same: int
    noise: float

    def __str__(self) -> str:
        """Says it in a sentence."""
        if not self.photos:
            return "no photo was rated twice"
        varies = f"; a rating varies by about {self.noise:.2f}" if self.noise else ""
        return f"{self.same} of {self.photos} photos shown twice got the same rating again{varies}"


@dataclass
class _Rater:
    """What one rater has decided: by slot, in the order of time, a rating, or None where the photo was skipped."""

    decided: dict[int, int | None] = field(default_factory=dict)


class RatingJournal:
    """Ratings of photos by one or more people; safe to use from many threads.

    Attributes:
        settings: How the photos were chosen, as the first line has it.
        photos: Those to be rated.
        slots: The sequence in which they are shown.
    """

    def __init__(self, table: Path) -> None:
        """Opens the journal of a table of ratings, and keeps other processes from it.

        Args:
            table: The CSV file; the journal lies beside it and ends in ``.events.jsonl`` in place of ``.csv``.

        Raises:
            UserError: Another process has it open, it is damaged, or the table is there without a journal.
        """
        self._table = table
        self.path = journal_path(table)
        self.settings: dict[str, Any] = {}
        self.photos: list[Photo] = []
        self.slots: list[Slot] = []
        self._raters: dict[str, _Rater] = {}
        self._lock = threading.Lock()
        self._table_is_behind = False
        if table.exists() and not self.path.exists():
            raise UserError(f"{table}: exists, but no journal {self.path.name} beside it; name another --output")
        try:
            # Without a buffer: what a full disk did not take must not be written later, beside what is tried again.
            self._file: IO[bytes] = self.path.open("a+b", buffering=0)
        except OSError as error:
            raise UserError(f"{self.path}: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise UserError(f"{self.path}: another 'grepr label' is at work on it; use its page, or end it") from error
        try:
            self._replay()
        except UserError:
            self._file.close()
            raise

    def close(self) -> None:
        """Lets other processes have the journal."""
        self._file.close()

    def add_photos(self, settings: dict[str, Any], photos: Sequence[Photo], repeats: int) -> None:
        """Adds photos to be rated, after those that are there.

        Args:
            settings: How they were chosen.
            photos: In the order in which they are to be shown, those that teach most first.
            repeats: How many of them are shown twice.
        """
        with self._lock:
            self._append(
                {
                    "type": "photos",
                    "format_version": FORMAT_VERSION,
                    "settings": settings,
                    "repeats": repeats,
                    "photos": [asdict(photo) for photo in photos],
                }
            )

    def rate(self, rater: str, slot: int, rating: int | None) -> bool:
        """Keeps a rating.

        Args:
            rater: Name of the rater.
            slot: Which slot.
            rating: 1 to 5, or None to skip the photo.

        Returns:
            Whether it was kept; not where this rater has decided on the slot before.

        Raises:
            OSError: The disk does not take it. It can be tried again: what was kept is kept once.
        """
        with self._lock:
            new = slot not in self._rater(rater).decided
            if new:
                self._append(self._event("skip" if rating is None else "rating", rater, slot, rating))
            self._write_table()
            return new

    def undo(self, rater: str, slot: int) -> bool:
        """Takes back a rating or skip, if it is the rater's last.

        Args:
            rater: Name of the rater.
            slot: Which slot.

        Returns:
            Whether it was taken back.

        Raises:
            OSError: The disk does not take it.
        """
        with self._lock:
            last = slot == next(reversed(self._rater(rater).decided), None)
            if last:
                self._append(self._event("undo", rater, slot, None))
            self._write_table()
            return last

    def upcoming(self, rater: str) -> list[int]:
        """Lists the slots that a rater has not decided on, in order."""
        with self._lock:
            decided = self._rater(rater).decided
            return [slot for slot in range(len(self.slots)) if slot not in decided]

    def last(self, rater: str) -> tuple[int, int | None] | None:
        """Gives the slot that :meth:`undo` would take back, and its rating, None where it was skipped."""
        with self._lock:
            return next(reversed(self._rater(rater).decided.items()), None)

    def raters(self) -> list[str]:
        """Lists who has rated."""
        with self._lock:
            return [name for name, rater in self._raters.items() if rater.decided]

    def rated(self) -> int:
        """Counts the photos with a rating."""
        with self._lock:
            return len(self._ratings())

    def consistency(self, rater: str) -> Consistency:
        """Compares a rater's ratings of the photos shown twice."""
        with self._lock:
            decided = self._rater(rater).decided
        by_photo: dict[int, list[int]] = {}
        for slot, rating in sorted(decided.items()):
            if rating is not None:
                by_photo.setdefault(self.slots[slot].photo, []).append(rating)
        pairs = [ratings for ratings in by_photo.values() if len(ratings) == 2]
        noise = math.sqrt(sum((a - b) ** 2 for a, b in pairs) / len(pairs) / 2) if pairs else 0.0
        return Consistency(len(pairs), sum(a == b for a, b in pairs), noise)

    def _rater(self, name: str) -> _Rater:
        return self._raters.setdefault(name, _Rater())

    def _event(self, kind: str, rater: str, slot: int, rating: int | None) -> dict[str, Any]:
        photo = self.photos[self.slots[slot].photo]
        event = {"type": kind, "rater": rater, "slot": slot, "image": photo.image}
        return {
            **event,
            **({} if photo.entry.member is None else {"member": photo.entry.member}),
            **({} if rating is None else {"rating": rating}),
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }

    def _append(self, event: dict[str, Any]) -> None:
        line = json.dumps(event, ensure_ascii=False).encode() + b"\n"
        end = os.fstat(self._file.fileno()).st_size
        try:
            while line:
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(end)  # a part of a line would spoil the next one
            raise
        self._apply(event)
        self._table_is_behind = True

    def _apply(self, event: dict[str, Any]) -> None:
        match event["type"]:
            case "photos":
                self.settings = event["settings"]
                first = len(self.photos)
                self.photos += [Photo(photo["image"], from_record(Entry, photo["entry"])) for photo in event["photos"]]
                self.slots += sequence(range(first, len(self.photos)), event["repeats"])
            case "rating" | "skip":
                self._rater(event["rater"]).decided[range(len(self.slots))[event["slot"]]] = event.get("rating")
            case "undo":
                self._rater(event["rater"]).decided.pop(event["slot"])
            case kind:
                raise ValueError(f"unknown kind of event {kind!r}")

    def _replay(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        # A line without an end is of a process that died while it wrote it; nobody was told that it is there.
        whole = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:whole].splitlines(), 1):
            try:
                event = json.loads(line)
                if event.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
                    raise UserError(f"{self.path}: format {event['format_version']} is unknown here; update grepr")
                self._apply(event)
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise UserError(
                    f"{self.path}, line {number}: damaged; restore the file or name another --output"
                ) from error
        self._file.truncate(whole)
        self._table_is_behind = bool(self.photos)
        self._write_table()

    def _ratings(self) -> dict[int, list[int]]:
        """Ratings of every rated photo, those of all raters and the repeated ones alike."""
        found: dict[int, list[int]] = {}
        for rater in self._raters.values():
            for slot, rating in rater.decided.items():
                if rating is not None:
                    found.setdefault(self.slots[slot].photo, []).append(rating)
        return dict(sorted(found.items()))

    def _write_table(self) -> None:
        if self._table_is_behind:
            Folder(str(self._table.parent)).write(self._table.name, self._to_csv().encode())
            self._table_is_behind = False

    def _to_csv(self) -> str:
        """Mean, standard deviation and number of the ratings of each photo, as ``grepr fit`` reads them."""
        ratings = self._ratings()
        in_containers = any(photo.entry.member is not None for photo in self.photos)
        several = any(len(values) > 1 for values in ratings.values())
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            ["image", "mos", *(["std", "count"] if several else []), *(PLACE_COLUMNS if in_containers else [])]
        )
        for number, values in ratings.items():
            photo = self.photos[number]
            row: list[Any] = [photo.image, f"{statistics.fmean(values):.6g}"]
            if several:
                row += [f"{statistics.stdev(values):.6g}" if len(values) > 1 else "", len(values)]
            if in_containers:
                row += [getattr(photo.entry, name) for name in PLACE_COLUMNS]
            writer.writerow(row)
        return text.getvalue()


def journal_path(table: Path) -> Path:
    """Gives the place of a table's journal."""
    return table.with_name(table.name.removesuffix(".csv") + ".events.jsonl")


def sequence(photos: range, repeats: int) -> Iterator[Slot]:
    """Puts photos in the order in which they are shown.

    The photos to be shown again are taken from the first half, evenly, and come again in the same order, evenly spread
    over the second half. So half of the photos lie between, enough to forget a rating.

    Args:
        photos: Their numbers.
        repeats: How many are shown again.

    Yields:
        All photos in order, and those shown again among them.
    """
    half, rest = len(photos) // 2, len(photos) - len(photos) // 2
    repeats = min(repeats, half)
    yield from map(Slot, photos[:half] if repeats else photos)
    for i in range(repeats):
        yield from map(Slot, photos[half + i * rest // repeats : half + (i + 1) * rest // repeats])
        yield Slot(photos[i * half // repeats], repeat=True)
