"""The manifest: which images a lake holds, in shards; and the command that writes it.

A manifest is a folder with ``manifest.json``, written last, and Parquet files in which every row group is one shard. So
one shard is read with one request, and a program that plans work needs ``manifest.json`` alone, whose length grows
with the number of files, each of which holds up to 256,000 images.
"""

import bisect
import hashlib
import io
import itertools
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from grepr_core.errors import UserError
from grepr_core.storage import Folder, MissingDriver, absolute, from_record
from grepr_core.web.access import for_reading
from pipelines.lake.sources import Entry, Listing
from pipelines.options import ManifestOptions
from pipelines.stores.row_groups import fill_columns, read_file_metadata, read_row_group
from pipelines.telling.activity import activity
from pipelines.telling.words import counted

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
#: Where a command that lists a source itself leaves the manifest, below its output.
MANIFEST_FOLDER = "manifest"
SHARDS_PER_FILE = 256
DIGEST_BYTES = 16

SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("member", pa.string()),
        pa.field("path", pa.string()),
        pa.field("offset", pa.int64()),
        pa.field("size", pa.int64()),
        pa.field("etag", pa.string()),
        pa.field("shard", pa.int32(), nullable=False),
    ]
)
#: Of them, those that a source tells of an image.
ENTRY_COLUMNS = [field.name for field in fields(Entry)]


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One Parquet file of a manifest: ``shards`` row groups, of which the first is shard ``first_shard``."""

    name: str
    first_shard: int
    shards: int
    images: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """A complete manifest.

    Attributes:
        folder: Where it is.
        source: What was listed.
        images: Number of images.
        skipped: Number of files that were passed over, by their names or since they are none that can be read.
        files: Its Parquet files.
        names: Options that say which names were taken; None where that is not known.
        digest: Of its images, their ETags and their shards, in order: what else is done by shards is of this manifest
            alone.
    """

    folder: Folder
    source: str
    images: int
    skipped: int
    files: tuple[ManifestFile, ...]
    digest: str
    names: Mapping[str, Any] | None = field(default=None, compare=False)

    @property
    def shards(self) -> int:
        """Number of shards."""
        return sum(file.shards for file in self.files)

    def shard_sizes(self) -> list[int]:
        """Tells how many images each shard has, by one request a file."""
        metadata = [_metadata(self.folder, file.name) for file in self.files]
        return [m.row_group(group).num_rows for m in metadata for group in range(m.num_row_groups)]

    def read_shard(self, shard: int) -> pa.Table:
        """Reads one shard.

        Args:
            shard: Its number, from 0.

        Returns:
            Its images, with :data:`SCHEMA`; columns that an earlier version did not write are null.
        """
        file = self.files[bisect.bisect_right(self.files, shard, key=lambda f: f.first_shard) - 1]
        metadata = _metadata(self.folder, file.name)
        return fill_columns(read_row_group(self.folder, file.name, shard - file.first_shard, metadata), SCHEMA)


_metadata = lru_cache(maxsize=4)(read_file_metadata)


def image_id(uri: str, member: str | None = None) -> str:
    """Gives the identity of an image: the same URI and member have the same one in every manifest.

    Args:
        uri: Of the image, or of the container that holds it.
        member: Its name in the container.

    Returns:
        32 hexadecimal digits.
    """
    key = uri if member is None else f"{uri}\0{member}"
    return hashlib.blake2b(key.encode(), digest_size=16).hexdigest()


def shard_sizes(largest: int) -> Iterator[int]:
    """Gives the number of images in shard 0, 1, 2, ...

    Shards start small and double every 64 up to the largest. So a folder of some hundred photos still spreads evenly
    over many cores, and the last shard of a job is short beside the whole; and as the sizes do not depend on the number
    of images, writing can begin before listing ends.

    Args:
        largest: Size that shards grow to.

    Yields:
        The sizes, without end.
    """
    size = min(32, largest)
    while size < largest:
        yield from itertools.repeat(size, 64)
        size *= 2
    yield from itertools.repeat(largest)


def write_manifest(
    entries: Iterable[Entry],
    folder: Folder,
    *,
    source: str,
    largest_shard: int,
    names: Mapping[str, Any] | None = None,
) -> Manifest:
    """Writes a manifest, holding one shard's rows and one compressed file in memory at most.

    Args:
        entries: The images; a source's :class:`Listing`, or any other.
        folder: Where to.
        source: What is said of their origin.
        largest_shard: Images in a shard once there are many.
        names: Options that say which names were taken, as JSON's types.

    Returns:
        The manifest.

    Raises:
        UserError: There are no images.
    """
    rest, sizes = iter(entries), shard_sizes(largest_shard)
    # Cutting from one iterator by sizes of another: a shard is empty once the images have run out.
    shards = enumerate(iter(lambda: list(itertools.islice(rest, next(sizes))), []))
    files: list[ManifestFile] = []
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for first, shard in shards:
        buffer = io.BytesIO()
        images = count = 0
        with pq.ParquetWriter(buffer, SCHEMA, compression="zstd") as writer:
            for number, part in itertools.chain([(first, shard)], itertools.islice(shards, SHARDS_PER_FILE - 1)):
                table = _shard_table(part, number)
                writer.write_table(table, row_group_size=len(part))
                digest.update(_as_bytes([table["image_id"].to_pylist(), table["etag"].to_pylist()]))
                count, images = count + 1, images + len(part)
        name = f"part-{len(files):05d}.parquet"
        folder.write(name, buffer.getvalue())
        files.append(ManifestFile(name, first, count, images))
    skipped = entries.skipped if isinstance(entries, Listing) else 0
    if not files:
        hint = entries.hint if isinstance(entries, Listing) else ""
        raise UserError(f"{source}: no images found{hint}")
    images = sum(file.images for file in files)
    record = {
        "format_version": FORMAT_VERSION,
        "source": source,
        "images": images,
        "skipped": skipped,
        "names": names,
        "files": [asdict(file) for file in files],
        "digest": digest.hexdigest(),
    }
    folder.write_json(MANIFEST_FILE, record)
    return Manifest(folder, source, images, skipped, tuple(files), digest.hexdigest(), names)


def _as_bytes(value: object) -> bytes:
    return json.dumps(value).encode()


def _shard_table(entries: list[Entry], number: int) -> pa.Table:
    columns = {
        "image_id": [image_id(e.uri, e.member) for e in entries],
        "uri": [e.uri for e in entries],
        "member": [e.member for e in entries],
        "path": [e.path for e in entries],
        "offset": [e.offset for e in entries],
        "size": [e.size for e in entries],
        "etag": [e.etag for e in entries],
        "shard": [number] * len(entries),
    }
    return pa.Table.from_pydict(columns, schema=SCHEMA)


def find_manifest(url: str, storage_options: Mapping[str, Any] | None = None) -> Manifest | None:
    """Opens a manifest.

    Args:
        url: Its folder.
        storage_options: For fsspec.

    Returns:
        The manifest, or None where there is no complete one.

    Raises:
        UserError: It was written by a newer version.
    """
    folder = Folder(url, storage_options)
    if not folder.exists(MANIFEST_FILE):
        return None
    record = folder.read_json(MANIFEST_FILE)
    if not isinstance(record, dict) or "format_version" not in record:
        return None  # S3 Inventory has a file of that name too
    if record["format_version"] != FORMAT_VERSION:
        raise UserError(f"{url}: manifest format {record['format_version']} is unknown here; update grepr")
    files = tuple(from_record(ManifestFile, file) for file in record["files"])
    # An earlier version left none; this one tells at least manifests of other numbers of images or shards apart.
    digest = record.get("digest") or hashlib.blake2b(_as_bytes(record), digest_size=DIGEST_BYTES).hexdigest()
    known = record["source"], record["images"], record["skipped"]
    return Manifest(folder, *known, files, digest, record.get("names"))


def run(options: ManifestOptions) -> Manifest:
    """Lists the images of a source into a manifest.

    Args:
        options: Of the command.

    Returns:
        The manifest; the one that is there, if it is complete and of the same source.

    Raises:
        UserError: The source holds no image, or the output holds the manifest of another source.
    """
    manifest, listed = _find_or_list(options)
    if not listed:
        log.info("%s: complete already; name another folder to list %s anew", options.manifest, manifest.source)
    return manifest


def _find_or_list(options: ManifestOptions) -> tuple[Manifest, bool]:
    """Gives the manifest that is there, or lists the source; tells whether it did."""
    source = absolute(options.source)
    names: dict[str, Any] = {
        "all_files": options.all_files,
        "members": list(options.members),
        "column": options.column,
    }
    found = find_manifest(options.manifest, options.storage_options)
    if found is not None:
        if found.source != source:
            raise UserError(f"{options.manifest}: holds the manifest of {found.source}; name another folder")
        if found.names not in (None, names):
            raise UserError(
                f"{options.manifest}: holds the manifest of {source} by other --all-files, --members or --column; name "
                "another folder"
            )
        return found, False
    listing = Listing(source, **names, storage_options=for_reading(options.storage_options, source))
    folder = Folder(options.manifest, options.storage_options)
    with activity(f"listing {options.source}", lambda: f"{counted(listing.found, 'image')} found"):
        return write_manifest(listing, folder, source=source, largest_shard=options.shard_size, names=names), True


def given_manifest(source: str, storage_options: Mapping[str, Any]) -> Manifest | None:
    """Opens the manifest that a command's source is; None where it is anything else."""
    try:
        return find_manifest(source, storage_options)
    except MissingDriver:
        return None  # images can be listed and read without it


def find_or_make_manifest(
    source: str,
    output: Folder,
    *,
    all_files: bool,
    members: tuple[str, ...],
    shard_size: int,
    storage_options: Mapping[str, Any],
    column: str | None = None,
) -> Manifest:
    """Opens the manifest that a command's source is, or lists the source into one below the command's output.

    Args:
        source: A manifest, or anything that can be listed.
        output: Of the command.
        all_files: Takes every file of a folder for an image.
        members: Globs of the names that are taken.
        shard_size: Images in a shard, once there are many, where it is listed.
        storage_options: For fsspec.
        column: Of a table, the one that names or holds the images; None to tell it by its name.

    Returns:
        The manifest.

    Raises:
        UserError: The source holds no image, or the output holds the manifest of another source; or a manifest cannot
            be listed by other names any more.
    """
    if (given := given_manifest(source, storage_options)) is not None:
        if members and (given.names or {}).get("members") != list(members):
            raise UserError(f"{source}: is a manifest, listed without --members {' '.join(members)}; list it anew so")
        if column is not None and (given.names or {}).get("column") != column:
            raise UserError(f"{source}: is a manifest, listed without --column {column}; list it anew so")
        return given
    options = ManifestOptions(
        source=source,
        manifest=f"{output.url}/{MANIFEST_FOLDER}",
        all_files=all_files,
        column=column,
        members=members,
        shard_size=shard_size,
        storage_options=storage_options,
    )
    manifest, listed = _find_or_list(options)
    if listed:
        shards = counted(manifest.shards, "shard")
        log.info("%s: %s in %s", source, counted(manifest.images, "image"), shards)
    return manifest
