"""Reading encoded images ahead of the model that scores them."""

import collections
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

from grepr_core.decoding.images import Failure, Limits, Status
from pipelines.lake.image_reader import Fetched, ImageReader
from pipelines.lake.sources import Entry

#: What a process with a GPU reads ahead, in place of what :class:`Fetcher` does by default: requests in flight for
#: 3,000 images a second at 40 ms each; and bytes, for each of two shards, that leave most of the 2 GB that a process of
#: a scoring job asks Ray for to the model.
GPU_FETCH = {"threads": 128, "ahead": 512, "ahead_bytes": 256 * 2**20}
#: Bytes that an image of unknown size is taken to have before any such image has been read.
FIRST_GUESS = 16 * 2**20


class Fetcher:
    """Reads images, many requests in flight, and hands them back in order.

    An error is a value: an image that cannot be read becomes a :class:`~grepr_core.decoding.images.Failure`.
    """

    def __init__(
        self,
        *,
        limits: Limits,
        timeout: float,
        storage_options: Mapping[str, Any] | None = None,
        threads: int = 32,
        ahead: int = 64,
        ahead_bytes: int = 128 * 2**20,
    ) -> None:
        """Starts the threads.

        Args:
            limits: Objects over ``limits.max_bytes`` are refused; those whose size a listing tells, unread.
            timeout: Seconds that one image may take from when its reading begins, all attempts together. One whose
                reading has not begun may be waited for as long.
            storage_options: As fsspec takes them.
            threads: Requests in flight. They wait rather than compute, so they take no core from the model.
            ahead: Images read ahead at most, by each call of :meth:`read`.
            ahead_bytes: Their encoded size at most; one image is always read. One whose size is not told counts as
                much as others were of late, until it has been read.
        """
        self._reader = ImageReader(limits=limits, timeout=timeout, storage_options=storage_options)
        self._timeout = timeout
        self._threads = _Threads(threads)
        self._ahead = ahead
        self._ahead_bytes = ahead_bytes
        self._guess = _Guess()

    def read(self, images: Sequence[Entry] = ()) -> "Reading":
        """Reads images. The first are asked for at once, before the iterator is.

        Several calls at a time share the threads: each asks for no more than it may read ahead, and requests are
        served in the order in which they are made.

        Args:
            images: Which; more may be added to what is returned.

        Returns:
            The content of each, or why it could not be read; in order. Closed or dropped, the iterator gives back what
            it has asked for.
        """
        return Reading(
            images, self._reader.read, self._threads, self._guess, self._timeout, self._ahead, self._ahead_bytes
        )


class _Guess:
    """How large an image is that nobody tells the size of."""

    def __init__(self) -> None:
        self.size = FIRST_GUESS

    def learn(self, size: int) -> None:
        """Comes nearer to the size of an image that has been read; that threads do so at a time does not matter."""
        self.size += (size - self.size) // 8


class _Tally:
    """Bytes that a reading has asked for and not yet handed back."""

    def __init__(self) -> None:
        self.bytes = 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """Counts bytes, negative ones where they are fewer."""
        with self._lock:
            self.bytes += count


class _Read:
    """One image that has been asked for."""

    def __init__(self, image: Entry, read: Callable[[Entry], Fetched], guess: _Guess, tally: _Tally) -> None:
        self._size = guess.size if image.size is None else image.size
        self._image = image
        self._read = read
        self._guess = guess
        self._tally: _Tally | None = tally
        tally.add(self._size)
        self._future: Future[Fetched] = Future()
        self._began: float | None = None
        self._given_up = False
        self._lock = threading.Lock()

    def run(self) -> bool:
        """Reads it, in a thread; tells whether no other has taken the thread's place."""
        if not self._future.set_running_or_notify_cancel():
            return True
        self._began = time.monotonic()
        fetched = self._read(self._image)
        size = len(fetched.content) if isinstance(fetched.content, bytes) else 0
        if self._image.size is None and size:
            self._guess.learn(size)
        with self._lock:
            if self._tally:
                self._tally.add(size - self._size)
                self._size = size
            self._future.set_result(fetched)
            return not self._given_up

    def result(self, timeout: float) -> Fetched | None:
        """Waits for it, but no longer than it may take; gives None when that time is over."""
        asked = time.monotonic()
        while True:
            over = (self._began or asked) + timeout
            try:
                return self._future.result(timeout=over - time.monotonic())
            except TimeoutError:
                if time.monotonic() >= (self._began or asked) + timeout:  # it may have begun in the meantime
                    return None

    def give_up(self) -> bool:
        """Gives it up; tells whether a thread is still busy with it, perhaps for ever."""
        with self._lock:
            self._given_up = not (self._future.cancel() or self._future.done())
            return self._given_up

    def leave(self) -> None:
        """Counts it no more, since its content is held no more, or will not come."""
        with self._lock:
            if self._tally:
                self._tally.add(-self._size)
                self._tally = None

    def cancel(self) -> None:
        """Does not read it, if that has not begun."""
        self._future.cancel()


class Reading:
    """The images of one call of :meth:`Fetcher.read`, and those that are added: an iterator of what became of them."""

    def __init__(
        self,
        images: Sequence[Entry],
        read: Callable[[Entry], Fetched],
        threads: "_Threads",
        guess: _Guess,
        timeout: float,
        ahead: int,
        ahead_bytes: int,
    ) -> None:
        """Asks for the first; see :class:`Fetcher`."""
        self._remaining = collections.deque(images)
        self._waiting: collections.deque[_Read] = collections.deque()
        self._read = read
        self._threads = threads
        self._timeout = timeout
        self._ahead = ahead
        self._ahead_bytes = ahead_bytes
        self._guess = guess
        self._tally = _Tally()
        self._ask()

    @property
    def is_behind(self) -> bool:
        """Whether images wait to be asked for until others have been taken."""
        return bool(self._remaining)

    def add(self, image: Entry) -> None:
        """Reads one more image, after those that there are."""
        self._remaining.append(image)
        self._ask()

    def __iter__(self) -> Iterator[Fetched]:
        return self

    def __next__(self) -> Fetched:
        if not self._waiting:
            raise StopIteration
        read = self._waiting.popleft()
        fetched = read.result(self._timeout)
        read.leave()
        if fetched is None:
            fetched = Fetched(Failure(Status.TIMEOUT, f"not read within {self._timeout:g} seconds"))
            self._threads.give_up(read)
        self._ask()
        return fetched

    def _ask(self) -> None:
        while self._remaining and len(self._waiting) < self._ahead:
            size = self._guess.size if self._remaining[0].size is None else self._remaining[0].size
            if self._waiting and self._tally.bytes + size > self._ahead_bytes:
                break
            read = _Read(self._remaining.popleft(), self._read, self._guess, self._tally)
            self._waiting.append(read)
            self._threads.submit(read)

    def close(self) -> None:
        """Gives up what has been asked for."""
        self._remaining.clear()
        while self._waiting:
            self._waiting.popleft().cancel()

    __del__ = close


class _Threads:
    """Threads that read what is submitted.

    No process waits for them to end it, and one that hangs is replaced: a file system may keep a read for ever.
    """

    #: Threads that may hang; beyond, a storage that hangs every read would cost a thread an image.
    MOST_HANGING = 256

    def __init__(self, count: int) -> None:
        self._reads: SimpleQueue[_Read | None] = SimpleQueue()
        self._spare = threading.Semaphore(self.MOST_HANGING)
        for _ in range(count):
            self._start()
        weakref.finalize(self, self._reads.put, None)

    def submit(self, read: _Read) -> None:
        """Has an image read."""
        self._reads.put(read)

    def give_up(self, read: _Read) -> None:
        """Waits for an image no more; where a thread is busy with it, another takes the thread's place."""
        if self._spare.acquire(blocking=False):
            if read.give_up():
                self._start()
            else:
                self._spare.release()

    def _start(self) -> None:
        threading.Thread(target=_work, args=(self._reads, self._spare), name="fetch", daemon=True).start()


def _work(reads: "SimpleQueue[_Read | None]", spare: threading.Semaphore) -> None:
    # Without a reference to the pool, whose end ends the threads.
    while (read := reads.get()) is not None:
        if not read.run():
            spare.release()
            return
        del read  # and with it the image
    reads.put(None)  # for the next thread
