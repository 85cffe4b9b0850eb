"""Small pictures of the photographs that a report shows, as data URIs."""

import base64
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from grepr_core.decoding.images import Failure, Limits, Photo, decode
from grepr_core.decoding.resize import resize_with_pillow
from grepr_core.decoding.view import AtMost
from pipelines.lake.fetch import Fetcher
from pipelines.lake.image_reader import Fetched
from pipelines.lake.manifest import ENTRY_COLUMNS, Manifest
from pipelines.lake.sources import Entry
from pipelines.reporting.statistics import ShownPhoto

#: Photographs that a report shows at most.
MOST_THUMBNAILS = 60
#: Longest side, in pixels; shown at half of it on a sharp screen.
SIDE = 320
#: Encoded size at most; 60 of them as base64 stay below 2.5 MB.
MOST_BYTES = 30_000
QUALITIES = (70, 45, 20)
#: Seconds that reading one photograph may take.
TIMEOUT = 30.0
#: Photographs read while one is decoded.
READ_AHEAD = 16
#: Larger ones have no thumbnail: they would take gigabytes of memory.
LIMITS = Limits(max_bytes=64 * 2**20, max_pixels=100_000_000, min_side=1)


@dataclass(frozen=True)
class Thumbnail:
    """What is shown of a photograph.

    Attributes:
        data_uri: The picture; None where there is none.
        width: Of the picture, in pixels.
        height: Likewise.
        note: Why there is none, or that it is not what was scored.
    """

    data_uri: str | None = None
    width: int = 0
    height: int = 0
    note: str | None = None


def make_thumbnails(
    photos: Iterable[ShownPhoto], manifest: Manifest | None, storage_options: Mapping[str, Any]
) -> dict[str, Thumbnail]:
    """Reads photographs, many at a time, and makes small pictures of them.

    What cannot be read any more gets a note that says so; nothing is raised. Nothing but pixels is kept: no place, no
    camera.

    Args:
        photos: Which. Those beyond :data:`MOST_THUMBNAILS` get none.
        manifest: Of the run, which tells where in their archives images lie; None where it is gone.
        storage_options: For fsspec.

    Returns:
        By ``image_id``.
    """
    wanted = list({photo.image_id: photo for photo in photos}.values())[:MOST_THUMBNAILS]
    fetcher = Fetcher(limits=LIMITS, timeout=TIMEOUT, storage_options=storage_options, ahead=READ_AHEAD)
    fetched = fetcher.read([_entry(photo, manifest) for photo in wanted])
    return {photo.image_id: _thumbnail(found, photo.etag) for photo, found in zip(wanted, fetched, strict=True)}


def _entry(photo: ShownPhoto, manifest: Manifest | None) -> Entry:
    """Gives where a photograph is; of one in an archive only the manifest knows."""
    if photo.member is not None and manifest is not None and photo.shard < manifest.shards:
        shard = manifest.read_shard(photo.shard)
        if photo.image_id in (ids := shard["image_id"].to_pylist()):
            return Entry(**shard.select(ENTRY_COLUMNS).slice(ids.index(photo.image_id), 1).to_pylist()[0])
    return Entry(photo.uri, member=photo.member, etag=photo.etag)


def _thumbnail(fetched: Fetched, scored_etag: str | None) -> Thumbnail:
    image: Photo | Failure
    if isinstance(fetched.content, Failure):
        image = fetched.content
    else:  # at twice the size, so that the scaling below sees enough
        image = decode(fetched.content, limits=LIMITS, view=AtMost((2 * SIDE) ** 2), scale=resize_with_pillow)
    if isinstance(image, Failure):
        return Thumbnail(note=f"not shown: {image.error}")
    content, width, height = _encode(image)
    changed = None not in (fetched.etag, scored_etag) and fetched.etag != scored_etag
    data_uri = "data:image/webp;base64," + base64.b64encode(content).decode()
    return Thumbnail(data_uri, width, height, "changed since it was scored" if changed else None)


def _encode(photo: Photo) -> tuple[bytes, int, int]:
    picture = Image.fromarray(photo.rgb)
    side = SIDE
    while True:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        for quality in QUALITIES:
            buffer = io.BytesIO()
            picture.save(buffer, "WEBP", quality=quality, method=4)
            if buffer.tell() <= MOST_BYTES:
                return buffer.getvalue(), picture.width, picture.height
        side //= 2
