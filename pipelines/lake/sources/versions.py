"""What tells one version of a file from another: the same for listing and for reading, which are compared."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from obstore import ObjectMeta


def plain_etag(etag: str | None) -> str | None:
    """Gives a store's ETag without its quotes; None where there is none."""
    return (etag or "").strip('"') or None


def object_etag(found: "ObjectMeta") -> str:
    """Gives the ETag of an object, or time and size where its store has none."""
    return plain_etag(found["e_tag"]) or f"{found['last_modified'].timestamp():.0f}-{found['size']:x}"


def file_etag(status: os.stat_result) -> str:
    """Gives time and size of a local file."""
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"
