"""A selection as copies of its images, at their paths below the folder that the images of the lake share."""

import errno
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from grepr_core.decoding.images import Failure, Status
from grepr_core.errors import UserError
from grepr_core.storage import Folder, is_local
from pipelines.lake.image_reader import ImageReader
from pipelines.lake.sources import Entry
from pipelines.lake.sources.duplicates import Seen
from pipelines.selection.images import ImagesWriter, Outcome, SelectedImage, has_changed, limits_of, suffix
from pipelines.selection.names import relative_name

IMAGES_FOLDER = "images"
#: Images copied at a time by a process, each of them whole in memory.
THREADS = 8
#: What object stores take for a key.
MOST_KEY_BYTES = 1024
_NO_PLACE = {
    errno.ENAMETOOLONG: "its name is too long for the file system",
    errno.ENOTDIR: "a folder of its path is another image",
    errno.EEXIST: "a folder of its path is another image",
    errno.EISDIR: "a folder has its name",
}


class NameCheck:
    """Makes sure that no two images of a selection are copied to one place."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._seen = Seen()

    def __call__(self, rows: pa.Table) -> None:
        """Adds images.

        Raises:
            UserError: One would be copied to where another is.
        """
        pairs = zip(rows["uri"].to_pylist(), rows["member"].to_pylist(), strict=True)
        names = [relative_name(uri, member, self._root) for uri, member in pairs]
        for name, new in zip(names, self._seen.first_time(names).tolist(), strict=True):
            if not new:
                raise UserError(
                    f"--format copy: two images would be copied to {IMAGES_FOLDER}/{name}; use --format webdataset, "
                    "which tells them apart by their ids"
                )


class Copier(ImagesWriter):
    """Copies images; each appears under its name when it is complete."""

    def write(self, shard: int, images: Sequence[SelectedImage], outcome: Outcome) -> None:
        """Copies the images of a shard."""
        entries = [image.entry for image in images]
        reader = ImageReader(
            limits=limits_of(entries), timeout=self.job.timeout, storage_options=self.job.storage_options
        )
        folder = self.job.output.child(IMAGES_FOLDER)

        def copy(entry: Entry) -> tuple[int, bool] | Failure:
            content, etag = reader.read(entry)
            if isinstance(content, Failure):
                return content
            name = relative_name(entry.uri, entry.member, self.job.root)
            if entry.member is not None and entry.offset is None:
                # Of a row of a table, whose name is a column and a number.
                name += suffix(name, content)
            if (failure := _write(folder, name, content)) is not None:
                return failure
            return len(content), has_changed(entry, etag)

        with ThreadPoolExecutor(THREADS) as pool:
            for image, copied in zip(images, pool.map(copy, entries), strict=True):
                if isinstance(copied, Failure):
                    outcome.failed(image.row, copied)
                else:
                    size, changed = copied
                    outcome.written(size, changed=changed)


def _write(folder: Folder, name: str, content: bytes) -> Failure | None:
    """Writes a copy; what hinders this one alone is a failure of the image, anything else ends the command."""
    if not is_local(folder.url) and len(folder.path(name).encode()) > MOST_KEY_BYTES:
        return Failure(Status.UNREADABLE, "its name is too long for an object store")
    try:
        folder.write(name, content)
    except OSError as error:
        if error.errno not in _NO_PLACE:
            raise
        return Failure(Status.UNREADABLE, _NO_PLACE[error.errno])
    return None
