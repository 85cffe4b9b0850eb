"""Finding the image that kills a process, so that it costs one row and not the job.

Ray restarts a process that died and hands it the same shard again, without end. So a process leaves a note before it
begins a shard. One that finds such a note goes through the shard image by image and notes each beforehand; the image
at which a process died twice is marked as crashed and left out from then on. Once would not be enough: a process may
also die because its machine is taken away. A process that ended itself because an image kept it busy for too long says
so in its note, and once is enough.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from grepr_core.decoding.images import Status
from grepr_core.storage import Folder

DEATHS_TO_CONVICT = 2


@dataclass
class _CrashNote:
    image: int | None = None
    deaths: dict[str, int] = field(default_factory=dict)
    hung: list[int] = field(default_factory=list)


class CrashJournal:
    """The note about one shard that is being scored.

    Attributes:
        suspicious: Whether a process died in this shard before; if so, each image is to be announced by
            :meth:`begin_image`.
        convicted: Rows of the images that have been found to kill the process, or to keep it busy without end.
    """

    def __init__(self, folder: Folder, shard: int) -> None:
        """Reads the note, and counts a death if there is one.

        Args:
            folder: Of the notes.
            shard: The shard that is about to be scored.
        """
        self._folder = folder
        self._name = f"shard={shard:06d}.json"
        self.suspicious = folder.exists(self._name)
        self._note = _CrashNote(**folder.read_json(self._name)) if self.suspicious else _CrashNote()
        if self._note.image is not None and self._note.image not in self._note.hung:
            key = str(self._note.image)
            self._note.deaths[key] = self._note.deaths.get(key, 0) + 1
        self.convicted = {
            int(row): Status.CRASHED for row, deaths in self._note.deaths.items() if deaths >= DEATHS_TO_CONVICT
        } | dict.fromkeys(self._note.hung, Status.TIMEOUT)
        self.begin_image(None)

    def begin_image(self, row: int | None) -> None:
        """Notes that a row of the shard is being worked on."""
        self._note.image = row
        self._save()

    def convict_hung(self, row: int) -> None:
        """Notes that a row of the shard keeps the process busy without end."""
        self._note.hung.append(row)
        self._save()

    def _save(self) -> None:
        self._folder.write(self._name, json.dumps(asdict(self._note)).encode())

    def close(self) -> None:
        """Removes the note: the shard is finished."""
        self._folder.delete(self._name)


@contextmanager
def crash_journal(folder: Folder, shard: int) -> Iterator[CrashJournal]:
    """Keeps a note while a shard is scored. An exception is no crash, so the note goes then, too."""
    journal = CrashJournal(folder, shard)
    try:
        yield journal
    finally:
        journal.close()
