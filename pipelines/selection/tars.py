"""A selection as tar files for WebDataset: of each image its bytes as they are, and its scores as JSON."""

import contextlib
import io
import json
import tarfile
from collections.abc import Sequence
from typing import Any

from grepr_core.decoding.images import Failure
from pipelines.lake.fetch import Fetcher
from pipelines.lake.sources import Entry
from pipelines.selection.images import ImagesWriter, Outcome, has_changed, limits_of, suffix

TARS_FOLDER = "tars"


class TarWriter(ImagesWriter):
    """Writes a tar file a shard, ``000000.tar`` and so on, in which an image is ``IMAGE_ID.jpg`` and ``IMAGE_ID.json``.

    Ids are unique whatever the images are called, and of hexadecimal digits; so no name in an archive leads anywhere,
    or holds a dot that WebDataset would end the key at. The same shard gives the same bytes.
    """

    def write(self, shard: int, rows: Sequence[dict[str, Any]], entries: Sequence[Entry], outcome: Outcome) -> None:
        """Writes a tar file; none where no image can be read."""
        fetcher = Fetcher(limits=limits_of(entries), timeout=self.job.timeout, storage_options=self.job.storage_options)
        with contextlib.ExitStack() as stack:
            archive: tarfile.TarFile | None = None
            for row, entry, (content, etag) in zip(rows, entries, fetcher.read(entries), strict=True):
                if isinstance(content, Failure):
                    outcome.failed(row, content)
                    continue
                if archive is None:
                    file = stack.enter_context(self.job.output.child(TARS_FOLDER).create(f"{shard:06d}.tar"))
                    archive = stack.enter_context(tarfile.open(fileobj=file, mode="w"))
                changed = has_changed(entry, etag)
                key = row["image_id"]
                _add(archive, key + suffix(entry.member or entry.uri, content), content)
                known = {**row, "changed_since_scored": True} if changed else row
                _add(archive, f"{key}.json", json.dumps(known, ensure_ascii=False).encode())
                outcome.written(len(content), changed=changed)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
