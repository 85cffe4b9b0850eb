"""Pictures of the photographs that a report shows, as data URIs, and where a browser finds the originals."""

import base64
import io
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from grepr_core.decoding.images import Failure, Limits, Photo, decode
from grepr_core.decoding.kinds import signature
from grepr_core.decoding.resize import resize_with_pillow
from grepr_core.decoding.view import AtMost
from grepr_core.storage import absolute, is_local
from pipelines.lake.fetch import Fetcher
from pipelines.lake.image_reader import Fetched
from pipelines.lake.manifest import ENTRY_COLUMNS, Manifest
from pipelines.lake.sources import Entry
from pipelines.reporting.shown_photos import ShownPhoto
from pipelines.running.cores import available_cores

#: Photographs that a report shows at most.
MOST_THUMBNAILS = 240
#: Encoded size of all pictures at most, in bytes, each counted as often as the page holds it; as base64 they take a
#: third more. Where names and failures leave less of the page they get less, but not less than these for one.
ALL_BYTES, FEWEST_BYTES = 1_700_000, 1_500
#: What a page holds beside a picture for it, in bytes.
MARKUP = 300
#: Longest side, in pixels, of a picture beside which a browser can show the photograph itself.
SIDE = 320
#: Longest side of one that is also shown large, since there is nothing else; and encoded size of one at most.
LARGE_SIDE, MOST_BYTES = 1024, 120_000
#: The last of them for what does not get smaller otherwise, as noise.
QUALITIES = (72, 50, 20)
#: Formats, as Pillow names them, that every browser shows.
BROWSER_FORMATS = frozenset({"JPEG", "PNG", "GIF", "WEBP", "BMP"})
#: Seconds that reading one photograph may take.
TIMEOUT = 30.0
#: Photographs read while some are decoded, and decoded at a time.
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
        original: URL of the file where a browser on this machine can show it; None elsewhere.
        encoded: Size of the picture in bytes.
    """

    data_uri: str | None = None
    width: int = 0
    height: int = 0
    note: str | None = None
    original: str | None = None
    encoded: int = 0


def make_thumbnails(
    photos: Iterable[ShownPhoto], manifest: Manifest | None, storage_options: Mapping[str, Any], *, room: int
) -> dict[str, Thumbnail]:
    """Reads photographs, many at a time, and makes pictures of them.

    All together they take :data:`ALL_BYTES` at most: the more there are, the smaller each is. What cannot be read any
    more gets a note that says so; nothing is raised. Nothing but pixels is kept: no place, no camera.

    Args:
        photos: Which, each as often as it is shown. Those beyond :data:`MOST_THUMBNAILS` get none.
        manifest: Of the run, which tells where in their archives images lie; None where it is gone.
        storage_options: For fsspec.
        room: Bytes of a page that there are for them and for the URLs of the originals.

    Returns:
        By ``image_id``.
    """
    photos = list(photos)
    wanted = list({photo.image_id: photo for photo in photos}.values())[:MOST_THUMBNAILS]
    times = Counter(photo.image_id for photo in photos)
    fetcher = Fetcher(limits=LIMITS, timeout=TIMEOUT, storage_options=storage_options, ahead=READ_AHEAD)
    fetched = zip(wanted, fetcher.read(_entries(wanted, manifest)), strict=True)
    made: dict[str, Thumbnail] = {}
    places = sum(times[photo.image_id] for photo in wanted)
    room -= sum(times[photo.image_id] * (MARKUP + len(_link(photo) or "")) for photo in wanted)
    left = max(FEWEST_BYTES * places, min(ALL_BYTES, room * 3 // 4))
    with ThreadPoolExecutor(min(available_cores(), READ_AHEAD)) as pool:
        # A few at a time: an executor would read on, and what one picture leaves of its share goes to those after it.
        while some := list(itertools.islice(fetched, READ_AHEAD)):
            share = min(MOST_BYTES, left // places)
            found = list(pool.map(partial(_thumbnail, share=share), *zip(*some, strict=True)))
            for (photo, _), thumbnail in zip(some, found, strict=True):
                made[photo.image_id] = thumbnail
                left -= times[photo.image_id] * thumbnail.encoded
                places -= times[photo.image_id]
    return made


def _entries(photos: Sequence[ShownPhoto], manifest: Manifest | None) -> list[Entry]:
    """Gives where photographs are; of those in archives only the manifest knows, each shard of which is read once."""
    in_shards: dict[int, list[str]] = {}
    for photo in photos:
        if photo.member is not None and manifest is not None and photo.shard < manifest.shards:
            in_shards.setdefault(photo.shard, []).append(photo.image_id)

    def find(shard: int) -> dict[str, Entry]:
        assert manifest is not None
        table = manifest.read_shard(shard)
        found = table.filter(pc.is_in(table["image_id"], pa.array(in_shards[shard])))
        rows = found.select(ENTRY_COLUMNS).to_pylist()
        return {key: Entry(**row) for key, row in zip(found["image_id"].to_pylist(), rows, strict=True)}

    known: dict[str, Entry] = {}
    with ThreadPoolExecutor(READ_AHEAD) as pool:
        for found in pool.map(find, in_shards):
            known |= found
    return [known.get(photo.image_id) or Entry(photo.uri, member=photo.member, etag=photo.etag) for photo in photos]


def _thumbnail(shown: ShownPhoto, fetched: Fetched, share: int) -> Thumbnail:
    original = None if isinstance(fetched.content, Failure) else _original(shown, fetched.content)
    side = LARGE_SIDE if original is None else SIDE
    image: Photo | Failure
    if isinstance(fetched.content, Failure):
        image = fetched.content
    else:  # larger than the picture, so that the scaling below sees enough
        image = decode(fetched.content, limits=LIMITS, view=AtMost(max(side, 2 * SIDE) ** 2), scale=resize_with_pillow)
    if isinstance(image, Failure):
        return Thumbnail(note=f"not shown: {image.error}")
    content, width, height = _encode(image, side, share)
    changed = None not in (fetched.etag, shown.etag) and fetched.etag != shown.etag
    return Thumbnail(
        "data:image/webp;base64," + base64.b64encode(content).decode(),
        width,
        height,
        "changed since it was scored" if changed else None,
        original,
        len(content),
    )


def _original(shown: ShownPhoto, content: bytes) -> str | None:
    return _link(shown) if signature(content) in BROWSER_FORMATS else None


def _link(shown: ShownPhoto) -> str | None:
    """Gives the URL of a file of its own on this machine."""
    return Path(absolute(shown.uri)).as_uri() if shown.member is None and is_local(shown.uri) else None


def _encode(photo: Photo, side: int, share: int) -> tuple[bytes, int, int]:
    """Encodes a picture as large as its share of bytes allows."""
    picture = Image.fromarray(photo.rgb)
    while True:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        for quality in QUALITIES if side <= SIDE else QUALITIES[:1]:
            buffer = io.BytesIO()
            picture.save(buffer, "WEBP", quality=quality, method=4)
            if buffer.tell() <= share:
                return buffer.getvalue(), picture.width, picture.height
        # Bytes go with the area, about. Next comes a side that will do, but not one too small to be looked at.
        fitting = int(max(picture.size) * 0.9 * (share / buffer.tell()) ** 0.5)
        side = max(min(SIDE, side - 1), fitting) if side > SIDE else side // 2
