"""Files of any place to their bytes, by what the commands read with; a module of its own, since that takes its time."""

from collections import deque
from collections.abc import Mapping
from typing import Any

from grepr_core.decoding.images import Failure, Limits
from pipelines.lake.fetch import GPU_FETCH, Fetcher, Reading
from pipelines.lake.sources import Entry, path_to_uri


class Reader:
    """Reads files, some ahead of whoever wants their content."""

    def __init__(
        self, *, limits: Limits, timeout: float, storage_options: Mapping[str, Any] | None, on_gpu: bool
    ) -> None:
        """Starts its threads.

        Args:
            limits: Larger files are refused.
            timeout: Seconds that one file may take.
            storage_options: As fsspec takes them.
            on_gpu: Whether a GPU waits for the files, for which more are read at a time.
        """
        self._fetcher = Fetcher(
            limits=limits, timeout=timeout, storage_options=storage_options, **(GPU_FETCH if on_gpu else {})
        )

    def files(self) -> "Files":
        """Begins a row of files, that are read one after the other."""
        return Files(self._fetcher.read())


class Files:
    """Files that are read in the order in which they are asked for."""

    def __init__(self, reading: Reading) -> None:
        """Has none yet."""
        self._reading = reading
        self._uris: deque[str] = deque()

    def __len__(self) -> int:
        """How many have been asked for and not been taken."""
        return len(self._uris)

    @property
    def are_enough(self) -> bool:
        """Whether one is to be taken before the next is asked for: no more are read ahead, by number or size."""
        return self._reading.is_behind

    def ask(self, place: str) -> None:
        """Begins to read a file, or will once there is room for it.

        Args:
            place: Absolute path or URL.
        """
        uri = path_to_uri(place)
        self._uris.append(uri)
        self._reading.add(Entry(uri))

    def take(self) -> tuple[str, bytes | Failure]:
        """Waits for the first file, and gives its URI and its content, or why it could not be read."""
        return self._uris.popleft(), next(self._reading).content
