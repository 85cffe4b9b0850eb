"""Choosing the photos to rate: those that teach most, as far as a person can rate them.

A blank picture teaches nothing, and a near-copy of a photo that is rated already hardly anything: in 25 photos that
were chosen without this, two were a black picture and a white one.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from grepr_core.bundles.bundle import Bundle
from grepr_core.decoding.images import Failure, Limits, Photo, decode
from grepr_core.decoding.perceptual_hash import perceptual_hash
from grepr_core.decoding.view import AtMost
from grepr_core.errors import UserError
from grepr_core.regression.active_learning import choose
from pipelines.lake.image_reader import ImageReader
from pipelines.lake.sources import Entry
from pipelines.models.fit import FEWEST_RATINGS
from pipelines.options import NEAR_BITS
from pipelines.rating.label_pool import Pool
from pipelines.scoring.near_copies import PLAIN_BITS
from pipelines.telling.words import counted

log = logging.getLogger(__name__)

#: A picture is blank where, averaged to 64 x 64 pixels, no channel spreads over so many of its 256 levels. Of 5,924
#: photographs, among them pictures of night, fog and snow, one is, which is black to the eye, and the next darkest one
#: has 23; pictures of one colour with the noise of a sensor have up to 8, and a white wall that darkens by so much too.
BLANK_LEVELS = 16
_BLANK_SIDE = 64
#: A photo is looked at in so many pixels: enough for both.
_LOOK = AtMost(256 * 256)
#: So many photos that cannot be read, and none that can, are no accident.
_MOST_UNREADABLE = 5


@dataclass
class LeftOut:
    """What was not chosen though it would have taught most.

    Attributes:
        blank: Pictures in which there is nothing to see.
        copies: Rows of the pool that are near-copies of photos that are chosen.
        unreadable: Photos that were scored and can no longer be read.
    """

    blank: int = 0
    copies: list[int] = field(default_factory=list)
    unreadable: int = 0

    def __str__(self) -> str:
        """Says it in words; empty where there is nothing."""
        told = [
            (self.blank, "blank picture", None),
            (len(self.copies), "near-copy of others", "near-copies of others"),
            (self.unreadable, "that cannot be read", "that cannot be read"),
        ]
        return ", ".join(counted(count, one, many) for count, one, many in told if count)


def choose_photos(
    pool: Pool, count: int, *, bundle: Bundle, rated: Sequence[Entry], reader: ImageReader, limits: Limits
) -> tuple[list[int], LeftOut]:
    """Chooses the photos whose ratings teach most, of those that a person can rate.

    Args:
        pool: The photos.
        count: How many to choose.
        bundle: The model that their features are of.
        rated: The photos that are rated already, or will be, whether or not they are in the pool.
        reader: Reads photos. Each is looked at before it is chosen.
        limits: What not to decode.

    Returns:
        Rows of the pool, best first, and what was left out. There are fewer than ``count`` where no others are left;
        near-copies are among them where a fit would have too few ratings without.

    Raises:
        UserError: Photos cannot be read any more.
    """
    check = _Check(pool, reader, limits)
    places = {(entry.uri, entry.member): row for row, entry in enumerate(pool.entries)}
    rows_of_rated = [places.get((entry.uri, entry.member)) for entry in rated]
    check.know(zip(rated, rows_of_rated, strict=True))
    # What others teach is known of the pool alone.
    known = [row for row in rows_of_rated if row is not None]

    def best(missing: int, earlier: Sequence[int], accept: Callable[[int], bool]) -> list[int]:
        rows = choose(
            pool.features,
            missing,
            blocks=bundle.feature_blocks,
            variances=bundle.block_variances,
            quality=pool.quality,
            rated=earlier,
            accept=accept,
        )
        return [int(row) for row in rows]

    free = len(pool.entries) - len(set(known))
    chosen = best(min(count, free), known, check.is_distinct)
    needed = min(count, FEWEST_RATINGS - len(rated)) - len(chosen)
    if needed > 0 and check.left_out.copies:
        copies = set(check.left_out.copies)
        taken = best(min(needed, len(copies)), [*known, *chosen], lambda row: row in copies and check.is_seen(row))
        check.left_out.copies = [row for row in check.left_out.copies if row not in set(taken)]
        chosen += taken
    return chosen, check.left_out


class _Check:
    """Looks at photos, and knows the hashes of those that are chosen."""

    def __init__(self, pool: Pool, reader: ImageReader, limits: Limits) -> None:
        self.left_out = LeftOut()
        self._pool = pool
        self._reader = reader
        self._limits = limits
        self._hashes: list[int] = []
        self._seen = 0

    def know(self, photos: Iterable[tuple[Entry, int | None]]) -> None:
        """Takes photos for chosen, each with its row, None where it is not in the pool."""
        gone = 0
        for entry, row in photos:
            phash = None if row is None else self._pool.phashes[row]
            if phash is None:
                photo = self._decode(entry)
                if isinstance(photo, Failure):
                    gone += 1
                    continue
                phash = perceptual_hash(photo.rgb)
            self._hashes.append(int(phash, 16))
        if gone:
            photos_gone = counted(gone, "chosen photo")
            log.warning("%s can no longer be read; what is a near-copy of one may be chosen", photos_gone)

    def is_distinct(self, row: int) -> bool:
        """Tells whether a photo is worth being rated, and takes it for chosen if it is."""
        phash = self._pool.phashes[row]
        # What the scores tell needs no reading.
        if phash is not None and self._is_copy(phash):
            self.left_out.copies.append(row)
            return False
        pixels = self._look(self._pool.entries[row])
        if pixels is None:
            return False
        if is_blank(pixels):
            self.left_out.blank += 1
            return False
        if phash is None:
            phash = perceptual_hash(pixels)
            if self._is_copy(phash):
                self.left_out.copies.append(row)
                return False
        self._hashes.append(int(phash, 16))
        return True

    def is_seen(self, row: int) -> bool:
        """Tells whether there is something to see on a photo, of whatever there are copies."""
        pixels = self._look(self._pool.entries[row])
        return pixels is not None and not is_blank(pixels)

    def _is_copy(self, phash: str) -> bool:
        number = int(phash, 16)
        # The hash of a picture that is plain tells little of it.
        plain = number.bit_count() <= PLAIN_BITS
        return not plain and any((number ^ other).bit_count() <= NEAR_BITS for other in self._hashes)

    def _look(self, entry: Entry) -> NDArray[np.uint8] | None:
        photo = self._decode(entry)
        if isinstance(photo, Failure):
            self.left_out.unreadable += 1
            if self.left_out.unreadable >= _MOST_UNREADABLE and not self._seen:
                raise UserError(f"{entry.uri}: {photo.error}; photos that were scored can no longer be read")
            return None
        self._seen += 1
        return photo.rgb

    def _decode(self, entry: Entry) -> Photo | Failure:
        content = self._reader.read(entry).content
        return content if isinstance(content, Failure) else decode(content, limits=self._limits, view=_LOOK)


def is_blank(rgb: NDArray[np.uint8]) -> bool:
    """Tells whether there is nothing to see in a picture: it is black, white, of one colour, or nearly so.

    Args:
        rgb: (H, W, 3) uint8.

    Returns:
        Whether the means over its parts are all about the same.
    """
    small = np.asarray(Image.fromarray(rgb).resize((_BLANK_SIDE, _BLANK_SIDE), Image.Resampling.BOX))
    return bool(np.ptp(small.reshape(-1, 3), axis=0).max() < BLANK_LEVELS)
