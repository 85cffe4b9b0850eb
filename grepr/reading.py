"""Files of any place to their bytes, by what the commands read with; a module of its own, since that takes its time."""

from collections.abc import Iterator, Mapping
from typing import Any

from grepr_core.decoding.images import Limits
from pipelines.lake.fetch import Fetcher
from pipelines.lake.image_reader import Fetched
from pipelines.lake.sources import Entry, path_to_uri


class Reader:
    """Reads files, some ahead of whoever wants their content.

    Attributes:
        ahead: How many files are worth asking for ahead.
    """

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
        threads, self.ahead = (128, 512) if on_gpu else (32, 64)
        self._fetcher = Fetcher(limits=limits, timeout=timeout, storage_options=storage_options, threads=threads)

    def ask(self, place: str) -> tuple[str, Iterator[Fetched]]:
        """Begins to read a file.

        Args:
            place: Absolute path or URL.

        Returns:
            Its URI; and what waits for its content, or for why it could not be read.
        """
        uri = path_to_uri(place)
        return uri, self._fetcher.read([Entry(uri)])
