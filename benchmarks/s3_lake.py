"""The same photos in an S3 store on this machine, served by moto in a process of its own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import s3fs

from tests.s3_server import s3_server

BUCKET = "lake"


@contextmanager
def s3_lake(photos: Sequence[Path], folder: Path) -> Iterator[str]:
    """Starts the server and uploads photos.

    Args:
        photos: Local files.
        folder: For the server's log.

    Yields:
        URL of the photos; the environment tells every client where the server is.
    """
    with s3_server(folder):
        fs = s3fs.S3FileSystem()
        fs.mkdir(BUCKET)
        for photo in photos:
            fs.put_file(str(photo), f"{BUCKET}/{photo.name}")
        yield f"s3://{BUCKET}"
