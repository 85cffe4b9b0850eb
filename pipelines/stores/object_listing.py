"""Listing the keys of an object store in parallel and yet in their order.

A listing gives keys in lexicographic order, a page of 1,000 at a time, and can begin after any key. When a page ends
inside a folder, the rest of that folder and what comes after it are two ranges that can be listed side by side; each
splits again in the same way. So folders are found without a request of their own, and small ones cost nothing extra.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

import obstore
from obstore.store import GCSStore, MemoryStore, ObjectStore, S3Store

if TYPE_CHECKING:
    from obstore import ObjectMeta

PAGE_KEYS = 1000
#: Requests in flight; they wait rather than compute.
THREADS = 16
#: Pages read ahead of the consumer or on their way: 64,000 keys, some 40 MB.
PAGES_AHEAD = 64
#: Those that begin a listing after a given key by themselves; elsewhere the keys before it would be read and dropped.
_BEGIN_ANYWHERE = (S3Store, GCSStore, MemoryStore)


@dataclass
class _Range:
    """Keys below ``folder`` that come after ``after``; ``page`` holds the first of them once it is asked for."""

    folder: str
    after: str | None = None
    page: "Future[Sequence[ObjectMeta]] | None" = None
    split: bool = False

    @property
    def arrived(self) -> bool:
        return self.page is not None and self.page.done()


def list_objects(store: ObjectStore, folder: str) -> Iterator["ObjectMeta"]:
    """Lists the objects of a folder and of all below it.

    Args:
        store: Where.
        folder: Its key without a slash at the end; empty for the whole bucket.

    Yields:
        The objects, in the order of their keys. Folder markers, empty objects whose key ends in a slash, are left out.

    Raises:
        obstore.exceptions.BaseError: The store refuses, or a key has a form that obstore does not take.
    """
    last = ""
    pending: ObjectMeta | None = None
    pages = _parallel(store, folder) if isinstance(store, _BEGIN_ANYWHERE) else _stream(store, folder)
    for page in pages:
        for item in page:
            path = item["path"]
            # The client strips the slash off a marker's key. It gives itself away by coming too late for that name, or
            # by being empty and directly before what is in its folder.
            if pending is not None and (pending["size"] or not (path + "/").startswith(pending["path"] + "/")):
                yield pending
            pending = item if path > last and path != folder else None
            last = max(path, last)
    if pending is not None:
        yield pending


def _stream(store: ObjectStore, folder: str) -> Iterator[Sequence["ObjectMeta"]]:
    return iter(obstore.list(store, folder or None, chunk_size=PAGE_KEYS))


def _parallel(store: ObjectStore, folder: str) -> Iterator[Sequence["ObjectMeta"]]:
    ranges = [_Range(folder)]  # those not yet consumed, in order
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="list")
    try:
        while ranges:
            ranges = [part for whole in ranges for part in _split(whole)]
            held = sum(r.page is not None for r in ranges)
            for r in ranges:
                # The first is what the consumer waits for, so it may always go.
                if r.page is None and (held < PAGES_AHEAD or r is ranges[0]):
                    r.page = pool.submit(_page, store, r.folder, r.after)
                    held += 1
            first = ranges[0].page
            assert first is not None
            if ranges[0].split:
                yield first.result()
                ranges.pop(0)
            else:
                wait([r.page for r in ranges if r.page and not r.split], return_when=FIRST_COMPLETED)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _page(store: ObjectStore, folder: str, after: str | None) -> Sequence["ObjectMeta"]:
    return next(iter(obstore.list(store, folder or None, offset=after, chunk_size=PAGE_KEYS)), [])


def _split(whole: _Range) -> list[_Range]:
    """Gives a range whose page has arrived, and the ranges of what follows that page."""
    if whole.split or not whole.arrived:
        return [whole]
    assert whole.page is not None
    whole.split = True
    page = whole.page.result()
    if len(page) < PAGE_KEYS:
        return [whole]
    last = page[-1]["path"]
    if last <= max(page[-2]["path"], whole.after or ""):
        last += "/"  # a marker that lost its slash
    inside = last[len(whole.folder) + 1 if whole.folder else 0 :]
    first, slash, _ = inside.partition("/")
    if not slash:
        return [whole, _Range(whole.folder, last)]
    below = f"{whole.folder}/{first}" if whole.folder else first
    # No key of that folder comes after the last character of all.
    return [whole, _Range(below, last), _Range(whole.folder, f"{below}/\U0010ffff")]
