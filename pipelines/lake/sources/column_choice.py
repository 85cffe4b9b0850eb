"""Which column of a table names its images."""

import logging
from collections.abc import Sequence

from grepr_core.errors import UserError

log = logging.getLogger(__name__)

#: Columns that may hold the URI, the preferred ones first. Letter case, blanks, ``_`` and ``-`` do not count, nor does
#: an s at the end.
URI_NAMES = (
    *("uri", "url", "path", "image", "file_name", "file_path", "image_url", "image_path", "image_uri", "image_file"),
    *("image_name", "image_file_name", "img_url", "img_path", "img_name", "img", "file", "file_url", "file_uri"),
    *("photo_image_url", "photo_url", "photo_path", "photo", "picture_url", "picture", "s3_uri", "s3_path", "s3_url"),
    *("gcs_uri", "gcs_path", "coco_url", "flickr_url", "download_url", "original_url", "src"),
)
#: Columns named in a message.
_SHOWN = 20


def plain_name(name: str) -> str:
    """Gives what counts of a column's name."""
    return "".join(character for character in name.lower() if character.isalnum())


_RANKS = {plain_name(name): rank for rank, name in reversed([*enumerate(URI_NAMES)])}


def _rank(name: str) -> int | None:
    plain = plain_name(name)
    return _RANKS.get(plain, _RANKS.get(plain.removesuffix("s")))


def named_column(names: Sequence[str], named: str) -> str | None:
    """Gives the column that ``--column`` names: in the same letters, or else in others if only one is."""
    if named in names:
        return named
    alike = [name for name in names if name.lower() == named.lower()]
    return alike[0] if len(alike) == 1 else None


class ColumnChoice:
    """How a source's columns are chosen, and what was said of that."""

    def __init__(self, named: str | None = None) -> None:
        """Prepares.

        Args:
            named: The column that the person names; None to go by names.
        """
        self.named = named
        self._told: set[str] = set()

    def find(self, names: Sequence[str]) -> str | None:
        """Gives the column of URIs.

        Args:
            names: Of the columns that may be.

        Returns:
            The one that the person named, or else the first of :data:`URI_NAMES` that is there; None where none is.
        """
        if self.named is not None:
            return named_column(names, self.named)
        return next(iter(self.candidates(names)), None)

    def candidates(self, names: Sequence[str]) -> list[str]:
        """Gives the columns that are named like URIs, the preferred one first."""
        ranked = [(rank, place, name) for place, name in enumerate(names) if (rank := _rank(name)) is not None]
        return [name for _, _, name in sorted(ranked)]

    def tell(self, table: str, chosen: Sequence[str], others: Sequence[str]) -> None:
        """Says once of all tables alike which columns were taken where others might have been."""
        others = [name for name in others if name not in chosen]
        message = f"column {' and '.join(chosen)} is taken, and not {', '.join(others)}; --column names another"
        if self.named is None and others and message not in self._told:
            self._told.add(message)
            log.info("%s: %s", table, message)

    def none_found(
        self, table: str, names: Sequence[str], *, wanted: str = "no column of URIs or of images"
    ) -> UserError:
        """Gives the error that no column will do, in which ``wanted`` says what there is not."""
        shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        there = f"it has {shown}" if names else "it has no columns"
        if self.named is not None:
            return UserError(f"{table}: no column {self.named}, which --column names; {there}")
        expected = ", ".join(URI_NAMES[:8])
        return UserError(
            f"{table}: {wanted}; {there}; expected is one of {expected} or the like, or name it by --column"
        )
