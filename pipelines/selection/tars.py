"""A selection as tar files for WebDataset: of each image its bytes as they are, its scores, and what belongs to it.

What belongs to an image of an archive, such as its caption, lies there between the images of other keys before and
behind it. So it is read with the image, by one request, and no archive is gone through.
"""

import contextlib
import io
import json
import posixpath
import re
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import IO, BinaryIO

import pyarrow as pa

from grepr_core.decoding.images import Failure
from grepr_core.decoding.read_errors import failure_from_exception
from grepr_core.errors import UserError
from pipelines.lake.fetch import Fetcher
from pipelines.lake.sources import Entry
from pipelines.lake.sources.duplicates import Seen
from pipelines.lake.sources.files import open_file
from pipelines.lake.sources.tar import files_between
from pipelines.selection.images import ImagesWriter, Outcome, SelectedImage, has_changed, limits_of, suffix
from pipelines.selection.names import key_of, sample_key
from pipelines.selection.rows import KEY
from pipelines.stores.object_store import STORE_ERRORS

TARS_FOLDER = "tars"
#: Of an image's scores, behind its key; a sample may have a .json of its own.
SCORES_SUFFIX = ".grepr.json"
#: Of an archive, how much around an image is read with it; where more is there, its headers are gone through instead.
MOST_AROUND = 4 * 2**20
_CHUNK_BYTES = 2**20
_READ_ERRORS: tuple[type[Exception], ...] = (UserError, *STORE_ERRORS)


class SampleKeys:
    """Names the images of a selection in tars, so that no two have the same key."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._seen = Seen()

    def __call__(self, rows: pa.Table) -> pa.Array:
        """Gives keys; an image whose own is that of one before it has its id behind it."""
        places = rows["offset"] if "offset" in rows.column_names else pa.nulls(len(rows))
        columns = (rows["uri"].to_pylist(), rows["member"].to_pylist(), places.to_pylist())
        keys = [
            sample_key(uri, member, self._root, in_tar=offset is not None)
            for uri, member, offset in zip(*columns, strict=True)
        ]
        new = self._seen.first_time(keys).tolist()
        ids = rows["image_id"].to_pylist()
        named = [key if first else f"{key}-{own}" for key, own, first in zip(keys, ids, new, strict=True)]
        return pa.array(named, pa.string())


class TarWriter(ImagesWriter):
    """Writes a tar file a shard, ``000000.tar`` and so on, in which the members of a sample follow each other.

    An image in a tar keeps its name there, and one of a file its path below the folder that all share. The same shard
    gives the same bytes.
    """

    def write(self, shard: int, images: Sequence[SelectedImage], outcome: Outcome) -> None:
        """Writes a tar file; none where no image can be read."""
        wanted = [_with_surroundings(image) for image in images]
        fetcher = Fetcher(limits=limits_of(wanted), timeout=self.job.timeout, storage_options=self.job.storage_options)
        with contextlib.ExitStack() as stack:
            archive: tarfile.TarFile | None = None
            for image, read, (content, etag) in zip(images, wanted, fetcher.read(wanted), strict=True):
                # All is read before any of it is written, and what is large not held in memory.
                with tempfile.SpooledTemporaryFile(MOST_AROUND) as spool:
                    sample = content if isinstance(content, Failure) else self._sample(image, read, content, spool)
                    if isinstance(sample, Failure):
                        outcome.failed(image.row, sample)
                        continue
                    if archive is None:
                        file = stack.enter_context(self.job.output.child(TARS_FOLDER).create(f"{shard:06d}.tar"))
                        archive = stack.enter_context(tarfile.open(fileobj=file, mode="w"))
                    changed = has_changed(image.entry, etag)
                    # Without a key where an earlier version has decided.
                    key = image.known.get(KEY) or image.row["image_id"]
                    _add(archive, key + sample.suffix, io.BytesIO(sample.content), len(sample.content))
                    spool.seek(0)
                    for name, size in sample.others.items():
                        _add(archive, key + name, spool, size)
                known = {**image.row, "changed_since_scored": True} if changed else image.row
                scores = json.dumps(known, ensure_ascii=False).encode()
                _add(archive, key + SCORES_SUFFIX, io.BytesIO(scores), len(scores))
                outcome.written(len(sample.content), changed=changed)

    def _sample(self, image: SelectedImage, read: Entry, content: bytes, spool: IO[bytes]) -> "_Sample | Failure":
        """Gives an image and what belongs to it, which goes to a file."""
        entry = image.entry
        if entry.offset is None:
            return _Sample(suffix(entry.member or entry.uri, content), content, {})
        assert entry.member is not None
        assert entry.size is not None
        try:
            if read is not entry:
                assert read.offset is not None
                name, others = _copy_others(image, io.BytesIO(content), spool, begin=read.offset)
                begin = entry.offset - read.offset
                content = content[begin : begin + entry.size]
            else:
                # Much lies around it, or it is the last of its archive.
                with open_file(entry.uri, self.job.storage_options) as file:
                    name, others = _copy_others(image, file, spool)
        except _READ_ERRORS as error:
            return failure_from_exception(error)
        key = key_of(name)
        own = name[len(key) :] if key else ""
        return _Sample(
            own or suffix(name, content), content, {other[len(key) :]: size for other, size in others.items()}
        )


@dataclass(frozen=True)
class _Sample:
    """An image of a tar.

    Attributes:
        suffix: What stands behind the key in its name.
        content: Its bytes.
        others: What belongs to it: what stands behind the key, and the size in bytes; in the order of the file.
    """

    suffix: str
    content: bytes
    others: Mapping[str, int]


def _copy_others(
    image: SelectedImage, file: BinaryIO, spool: IO[bytes], *, begin: int | None = None
) -> tuple[str, dict[str, int]]:
    """Copies what belongs to an image.

    Args:
        image: Which.
        file: Its archive, or the part around it.
        spool: Where to.
        begin: Where in the archive the part begins, in bytes; None where the file is all of it.

    Returns:
        What the image is called in its archive; and the names of what was copied, with their sizes, in that order.

    Raises:
        UserError: The archive ends before.
    """
    member, known = image.entry.member or "", image.known
    # A listing numbers a name that comes again.
    plain = re.sub(r"^\d+#", "", member)
    found: dict[str, dict[str, tuple[int, int]]] = {member: {}, plain: {}}
    listed = {*(known.get("together") or ())}
    called = member
    start, end = (_padded(known.get("begin") or 0), known.get("end")) if begin is None else (0, None)
    for name, place, size in files_between(file, start, end):
        offset = place + (begin or 0)
        if offset == image.entry.offset:
            called = plain if name == plain else member
        elif offset not in listed:
            for own, others in found.items():
                if _belongs(name, own):
                    others[name] = (place, size)
    for name, (place, size) in found[called].items():
        file.seek(place)
        left = size
        while left:
            chunk = file.read(min(left, _CHUNK_BYTES))
            if not chunk:
                raise UserError(f"{image.entry.uri}: breaks off in {name}, which belongs to {called}")
            spool.write(chunk)
            left -= len(chunk)
    return called, {name: size for name, (_, size) in found[called].items()}


def _with_surroundings(image: SelectedImage) -> Entry:
    """Gives the part of an archive that an image and what belongs to it are in; the image alone where that is large."""
    entry, end = image.entry, image.known.get("end")
    begin = _padded(image.known.get("begin") or 0)
    if entry.offset is None or entry.size is None or end is None or end - begin > entry.size + MOST_AROUND:
        return entry
    return replace(entry, offset=begin, size=end - begin)


def _padded(end: int) -> int:
    """Gives where the next header is behind a member that ends here."""
    return -(-end // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _belongs(name: str, image: str) -> bool:
    """Tells whether a member is of the sample of an image.

    It has its key. Where the image's name has further dots, so may those of other samples that WebDataset would take
    for the same one: then it has the name of the image up to its suffix, or the key and a suffix.
    """
    key = key_of(image)
    if not key or name == image or name == key + SCORES_SUFFIX:
        return False
    stem = posixpath.splitext(image)[0]
    return bool(re.fullmatch(rf"{re.escape(stem)}\.[^/]*|{re.escape(key)}\.[^./]*", name, re.DOTALL))


def _add(archive: tarfile.TarFile, name: str, file: IO[bytes], size: int) -> None:
    member = tarfile.TarInfo(name)
    member.size = size
    archive.addfile(member, file)
