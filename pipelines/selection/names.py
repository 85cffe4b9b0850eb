"""Names of copied images: paths below the folder that all of them share, safe to make folders of."""

import posixpath
import re
import urllib.parse
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc


def first_and_last(uris: pa.ChunkedArray | list[str]) -> list[str]:
    """Gives the paths that come first and last in lexicographic order; what they share at their beginning, all do."""
    if isinstance(uris, list):
        paths = uris
    else:
        if pc.any(pc.starts_with(uris, "file://")).as_py():
            uris = pc.replace_substring_regex(uris, "^file://", "")
        ends = pc.min_max(uris).as_py()
        paths = [ends["min"], ends["max"]] if ends["min"] is not None else []
    return [min(paths), max(paths)] if paths else []


def common_root(first: str, last: str) -> str:
    """Gives the folder that all paths are in.

    Args:
        first: Of the paths, in lexicographic order.
        last: Of them.

    Returns:
        With a slash at its end; empty where they share none.
    """
    shared = posixpath.commonprefix([first, last])
    return shared[: shared.rfind("/") + 1]


def relative_name(uri: str, member: str | None, root: str) -> str:
    """Gives the path of a copy below the folder of copies.

    Args:
        uri: Of the image, or of the container that holds it.
        member: Its name in the container, which becomes a folder.
        root: As :func:`common_root` gives it.

    Returns:
        A relative path of which no part leads elsewhere: those that are empty, ``.`` or ``..`` are percent-encoded.
        What a file system cannot hold was encoded in the URI already.
    """
    path = uri.removeprefix("file://").removeprefix(root)
    if not root:
        path = path.replace("://", "/", 1).removeprefix("/")
    return "/".join(_part(part) for part in _parts(path, member))


def sample_key(uri: str, member: str | None, root: str, *, in_tar: bool) -> str:
    """Gives what WebDataset is to call an image: its name up to the first dot of the last part.

    Args:
        uri: As for :func:`relative_name`.
        member: Likewise.
        root: Likewise.
        in_tar: Whether the container is an archive, of which the image keeps its key. Elsewhere dots say nothing, so
            that all of them but the one before the suffix become underscores.

    Returns:
        A relative path like that of a copy, without a suffix.
    """
    if in_tar and member is not None:
        folder, _, name = "/".join(map(_part, _member_parts(member))).rpartition("/")
        key = key_of(name) or name.replace(".", "_")
    else:
        folder, _, name = relative_name(uri, member, root).rpartition("/")
        key = (name if member is not None else posixpath.splitext(name)[0]).replace(".", "_")
    return f"{folder}/{key}" if folder else key


def key_of(name: str) -> str:
    """Gives the key that WebDataset tells of a member's name; empty where its last part begins with a dot."""
    folder, slash, last = name.rpartition("/")
    key = last.partition(".")[0]
    return folder + slash + key if key else ""


def _parts(path: str, member: str | None) -> Iterable[str]:
    yield from path.split("/")
    if member is not None:
        yield from _member_parts(member)


def _member_parts(member: str) -> list[str]:
    """Gives the parts of a member's name, without the ``./`` that ``tar -cf x.tar .`` writes before all of them."""
    return re.sub(r"^(\./+)+", "", member).split("/")


def _part(part: str) -> str:
    if part in ("", ".", ".."):
        return "%2F" if not part else part.replace(".", "%2E")
    return part.replace("\0", urllib.parse.quote("\0"))
