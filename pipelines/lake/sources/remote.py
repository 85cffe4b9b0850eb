"""Listing object stores, web servers and whatever else fsspec knows."""

import glob
import logging
import posixpath
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import obstore
from fsspec.utils import glob_translate
from obstore.exceptions import InvalidPathError
from obstore.store import ObjectStore

from grepr_core.errors import UserError
from grepr_core.storage import open_file_system
from grepr_core.web.access import is_web
from pipelines.lake.sources.entry import Entry, NameFilter, glob_root, path_below
from pipelines.lake.sources.files import TIMEOUT
from pipelines.lake.sources.versions import object_etag, plain_etag
from pipelines.stores.object_listing import list_objects
from pipelines.stores.object_store import STORE_ERRORS, is_object_store, open_store
from pipelines.stores.store_errors import store_error

if TYPE_CHECKING:
    from obstore import ObjectMeta

log = logging.getLogger(__name__)


def list_remote(source: str, names: NameFilter, storage_options: Mapping[str, Any]) -> Iterator[Entry]:
    """Lists an object, a prefix or what a glob matches.

    Args:
        source: URL, or glob of URLs.
        names: Decides what is taken of a prefix.
        storage_options: For fsspec.

    Yields:
        The objects, in the order of their names, as they come.

    Raises:
        UserError: There is nothing, or it cannot be listed.
    """
    nothing = True
    try:
        if is_web(source):
            found = _list_web(source, names, storage_options)
        elif is_object_store(source) and not glob.has_magic(source.split("/")[2]):
            found = _list_store(source, names, storage_options)
        else:
            found = _list_any(source, names, storage_options)
        for entry in found:
            nothing = False
            yield entry
    except STORE_ERRORS as error:  # no such bucket; a pattern that is none
        raise store_error(source, error) from error
    if nothing and not names.skipped:
        raise UserError(f"{source}: nothing there")


def _list_store(source: str, names: NameFilter, storage_options: Mapping[str, Any]) -> Iterator[Entry]:
    store, key = open_store(source, storage_options, timeout=TIMEOUT)
    bucket, folder = source[: len(source) - len(key)].rstrip("/"), key.rstrip("/")
    last = ""
    try:
        if "//" in folder:
            raise InvalidPathError
        item = None if key.endswith("/") else _head(store, folder)
        if item is not None:
            yield _entry(bucket, folder, item)
            return
        matches = None
        if glob.has_magic(key) and not any(obstore.list(store, folder, chunk_size=1)):
            matches = re.compile(glob_translate(key))
            # What stands before the first wildcard need not be searched.
            folder = glob_root(key)
        for item in list_objects(store, folder):
            path = item["path"]
            below = path_below(f"/{path}", f"/{folder}")
            if (matches.match(path) and names.allows(below)) if matches else names.wants(below):
                last = path
                yield _entry(bucket, folder, item)
    except InvalidPathError:
        log.warning("%s: some keys have empty or dot segments; listing goes on with a slower client", source)
        yield from _list_any(source, names, storage_options, after=f"{bucket}/{last}" if last else "")


def _head(store: ObjectStore, key: str) -> "ObjectMeta | None":
    try:
        item = store.head(key) if key else None
    except STORE_ERRORS:
        return None  # listing tells what is wrong
    # An empty object may stand for the folder of that name.
    return item if item and (item["size"] or not any(obstore.list(store, key, chunk_size=1))) else None


def _entry(bucket: str, folder: str, item: "ObjectMeta") -> Entry:
    uri = f"{bucket}/{item['path']}"
    return Entry(uri, item["size"], object_etag(item), path=path_below(uri, f"{bucket}/{folder}"))


def _list_web(source: str, names: NameFilter, storage_options: Mapping[str, Any]) -> Iterator[Entry]:
    # A question mark begins a query here.
    if "*" in source:
        yield from _list_any(source, names, storage_options)
        return
    fs, url = open_file_system(source, storage_options)
    info = fs.info(url)
    if url.endswith("/") or info.get("mimetype") == "text/html":
        yield from _list_any(url.rstrip("/") + "/", names, storage_options)
    else:
        name = posixpath.basename(urllib.parse.urlsplit(url).path)
        yield Entry(url, info.get("size"), _etag(info), path=name or None)


def _list_any(
    source: str, names: NameFilter, storage_options: Mapping[str, Any], *, after: str = ""
) -> Iterator[Entry]:
    fs, root = open_file_system(source, storage_options)
    matched = glob.has_magic(root) and not fs.exists(root)
    found = fs.glob(root, detail=True) if matched else fs.find(root, detail=True)
    folder = glob_root(root) if matched else root
    for path in sorted(found):
        uri, info, below = fs.unstrip_protocol(path), found[path], path_below(path, folder)
        # Links and whatever else is no folder may be images too.
        if info["type"] == "directory" or uri <= after or path.endswith("/"):
            continue
        if names.allows(below) if matched else names.wants(below):
            yield Entry(uri, info.get("size"), _etag(info), path=below)


def _etag(info: Mapping[str, Any]) -> str | None:
    return plain_etag(info.get("ETag") or info.get("etag"))
