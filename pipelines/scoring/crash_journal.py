"""Finding the image that kills a process, so that it costs one row and not the job.

A shard whose process died is handed out again. So a process leaves a note before the model begins on a shard, not yet
when its images are only read ahead. After one death the shard is tried as it is: a machine may have been taken away.
From the second on the images are noted in small groups before they are worked on, and those of a group in which a
process died one by one; what is noted alone when a process dies once more is marked as crashed and left out from then
on. A process that ended itself because an image kept it busy for too long says so in its note, and is believed.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from grepr_core.decoding.images import Status
from grepr_core.errors import UserError
from grepr_core.storage import Folder

#: From so many deaths on, the culprit is searched for.
DEATHS_TO_SEARCH = 2
#: Deaths at which an image was under suspicion, in a group or alone; at the last of them alone.
DEATHS_TO_CONVICT = 2
#: Images that are noted together while nothing is known of them.
GROUP = 16
#: A shard may cost so many deaths, and so many for each image that was found, before it is given up.
MOST_DEATHS, DEATHS_AN_IMAGE = 8, 4


class ShardDeadlyError(Exception):
    """Processes die in a shard, whatever images are left out."""


@dataclass
class _CrashNote:
    deaths: int = 0
    images: list[int] = field(default_factory=list)
    suspects: dict[str, int] = field(default_factory=dict)
    crashed: list[int] = field(default_factory=list)
    hung: list[int] = field(default_factory=list)
    ended: bool = False


class CrashJournal:
    """The note about one shard that is being scored."""

    def __init__(self, folder: Folder, shard: int) -> None:
        """Reads the note; where there is one, a process died in this shard, unless it says that it did not.

        Args:
            folder: Of the notes.
            shard: The shard that is about to be scored.
        """
        self._folder = folder
        self._name = f"shard={shard:06d}.json"
        self._noted = folder.exists(self._name)
        self._note = _read(folder, self._name) if self._noted else _CrashNote()
        if self._noted and not self._note.ended:
            self._count_death()
        self._note.ended = False

    def _count_death(self) -> None:
        note = self._note
        note.deaths += 1
        for row in set(note.images) - set(note.hung):
            deaths = note.suspects.get(str(row), 0) + 1
            note.suspects[str(row)] = deaths
            if len(note.images) == 1 and deaths >= DEATHS_TO_CONVICT:
                note.crashed.append(row)
        note.images = []

    @property
    def suspicious(self) -> bool:
        """Whether processes died in this shard so often that images are to be noted before they are worked on."""
        return self._note.deaths >= DEATHS_TO_SEARCH

    @property
    def convicted(self) -> dict[int, Status]:
        """Rows of the images that have been found to kill the process, or to keep it busy without end."""
        return dict.fromkeys(self._note.crashed, Status.CRASHED) | dict.fromkeys(self._note.hung, Status.TIMEOUT)

    def begin(self) -> None:
        """Notes that the model begins on the shard.

        Raises:
            ShardDeadlyError: Too many processes have died in it.
        """
        if self._note.deaths > MOST_DEATHS + DEATHS_AN_IMAGE * len(self.convicted):
            raise ShardDeadlyError(f"{self._note.deaths} processes died while they scored this shard")
        self._save()

    def groups(self, rows: Sequence[int]) -> Iterator[list[int]]:
        """Divides images of the shard into groups, and notes each when it is asked for.

        Args:
            rows: Their places in the shard, without those convicted.

        Yields:
            Them all in order: those under suspicion alone, others together.
        """
        group: list[int] = []
        for row in rows:
            if str(row) in self._note.suspects:
                if group:
                    yield self._begin_group(group)
                group = []
                yield self._begin_group([row])
                del self._note.suspects[str(row)]  # it has done no harm
            else:
                group.append(row)
                if len(group) == GROUP:
                    yield self._begin_group(group)
                    group = []
        if group:
            yield self._begin_group(group)

    def _begin_group(self, rows: list[int]) -> list[int]:
        self._note.images = rows
        self._save()
        return rows

    def hangs(self, row: int) -> None:
        """Notes, before the process ends itself, that a row of the shard keeps it busy without end.

        Args:
            row: The image that was handed to the model last. Noted alone, it is the culprit. In a group, any may be;
                else this one is suspected first, and the others are noted from now on.
        """
        if self._note.images == [row]:
            self._note.hung.append(row)
        elif not self._note.images:
            self._note.deaths = max(self._note.deaths, DEATHS_TO_SEARCH - 1)
            self._note.suspects[str(row)] = 1
        self._save()

    def _save(self) -> None:
        self._noted = True
        self._folder.write(self._name, json.dumps(asdict(self._note)).encode())

    def close(self) -> None:
        """Removes the note: the shard is finished."""
        if self._noted:
            self._folder.delete(self._name)

    def give_back(self) -> None:
        """Keeps of the note what was found, for the next attempt at the shard: this one ends without it."""
        self._note.images = []
        self._note.ended = True
        if self.convicted:
            self._save()
        else:
            self.close()


def _read(folder: Folder, name: str) -> _CrashNote:
    try:
        note = folder.read_record(name, _CrashNote)
    except UserError:  # cut short: what it says is lost, not that there was one
        return _CrashNote()
    return note if isinstance(note.deaths, int) else _CrashNote()  # of an earlier version


@contextmanager
def crash_journal(folder: Folder, shard: int) -> Iterator[CrashJournal]:
    """Keeps a note while a shard is scored and written. An exception is no crash, so the note tells of none then."""
    journal = CrashJournal(folder, shard)
    try:
        yield journal
    except BaseException:
        journal.give_back()
        raise
    journal.close()
