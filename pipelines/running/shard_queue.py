"""Which shards are left, in whose hands the others are, and what has become of them.

A process takes one shard at a time, whenever it has room for it. So none waits for another that is slower, one that
joins works at once, and what a process or node had in hand when it was lost goes to the next that asks. Nothing here
knows of Ray, which makes one queue a command an actor.
"""

import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Instead of a shard's number: none can be had now, or none ever will.
WAIT, OVER = -1, -2
#: Attempts at a shard that fail before it is given up.
MOST_ATTEMPTS = 3
#: Seconds before a shard that failed is tried again, the first time and the second: an outage may pass meanwhile.
PAUSES = (2.0, 15.0)
#: A process that dies so often while it starts is not started again.
MOST_START_DEATHS = 3
#: When so many attempts fail in a row, and as many as all processes make in some time, all others would.
MOST_FAILURES_IN_A_ROW = 12


class _State(Enum):
    STARTING = auto()
    STARTED = auto()
    BROKEN = auto()
    LOST = auto()


@dataclass
class _Process:
    node: str
    state: _State = _State.STARTING
    start_deaths: int = 0


@dataclass
class ShardFailure:
    """Why a shard could not be worked on.

    Attributes:
        message: In one line.
        traceback: Of the exception.
        processes: That have tried it.
    """

    message: str
    traceback: str
    processes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class News:
    """What has happened since it was last asked for.

    Attributes:
        summaries: Of shards that were finished.
        over: Whether there is nothing more to come.
        failures: At the end, the shards that could not be worked on.
        cause: Why all is over before the end: what would fail for every shard, or why no process can start.
        processes: Those that have started so far, whether they live or not.
        placed: Those that have a place on the cluster now, whether they work, start or cannot.
    """

    summaries: list[dict[str, Any]]
    over: bool
    failures: dict[int, ShardFailure]
    cause: ShardFailure | None
    processes: int
    placed: int


class ShardQueue:
    """Hands out shards, takes them back from what is lost, and keeps account of every one."""

    def __init__(self, shards: NDArray[np.int64], *, clock: Callable[[], float] = time.monotonic) -> None:
        """Starts with all shards to be done.

        Args:
            shards: Their numbers, in the order in which they are handed out.
            clock: Tells seconds.
        """
        self._shards = shards
        self._next = 0
        self._clock = clock
        self._open = len(shards)
        self._done = np.zeros(int(shards.max()) + 1 if len(shards) else 0, bool)
        self._back: deque[tuple[float, int]] = deque()
        self._hands: dict[int, str] = {}
        self._processes: dict[str, _Process] = {}
        self._attempts: dict[int, ShardFailure] = {}
        self._failures: dict[int, ShardFailure] = {}
        self._in_a_row = 0
        self._summaries: list[dict[str, Any]] = []
        self._start_failure: ShardFailure | None = None
        self._cause: ShardFailure | None = None
        self._started: set[str] = set()
        self._closed = False

    def begin(self, process: str, node: str) -> bool:
        """Tells that a process is about to start its worker; one that is known has died meanwhile.

        Args:
            process: Its name, the same after Ray has restarted it.
            node: Where it is now.

        Returns:
            Whether it may; not where it has died too often in doing so.
        """
        known = self._processes.get(process)
        deaths = known.start_deaths + (known.state is _State.STARTING) if known else 0
        self._take_back(process)
        self._processes[process] = _Process(node, start_deaths=deaths)
        if deaths >= MOST_START_DEATHS:
            self.broken(process, ShardFailure(f"a process died {deaths} times while it started; out of memory?", ""))
            return False
        return True

    def started(self, process: str) -> None:
        """Tells that a process is ready for work."""
        self._processes[process] = _Process(self._processes[process].node, _State.STARTED)
        self._started.add(process)

    def broken(self, process: str, cause: ShardFailure) -> None:
        """Tells that a process cannot start; the first cause is kept."""
        self._processes[process].state = _State.BROKEN
        self._start_failure = self._start_failure or cause

    def take(self, process: str) -> int:
        """Hands out a shard.

        Args:
            process: That asks.

        Returns:
            Its number, :data:`WAIT` or :data:`OVER`.
        """
        if self.over():
            return OVER
        shard = self._from_back(process)
        if shard is None and self._next < len(self._shards):
            shard = int(self._shards[self._next])
            self._next += 1
        if shard is None:
            return WAIT
        self._hands[shard] = process
        return shard

    def over(self) -> bool:
        """Tells whether no shard will be handed out any more."""
        return self._open == 0 or self._cause is not None or self._closed

    def close(self) -> None:
        """Hands out no more."""
        self._closed = True

    def _from_back(self, process: str) -> int | None:
        """Gives a shard that has come back and is due, not to the process that failed at it if there is another."""
        now = self._clock()
        for _ in range(len(self._back)):
            due, shard = self._back.popleft()
            if self._done[shard] or shard in self._hands:
                continue
            if due <= now and not (self._has_failed_at(process, shard) and self._others_may_try(shard)):
                return shard
            self._back.append((due, shard))
        return None

    def _has_failed_at(self, process: str, shard: int) -> bool:
        return shard in self._attempts and process in self._attempts[shard].processes

    def _others_may_try(self, shard: int) -> bool:
        ready = {name for name, process in self._processes.items() if process.state is _State.STARTED}
        return not ready <= set(self._attempts[shard].processes)

    def finish(self, process: str, shard: int, summary: dict[str, Any]) -> None:
        """Takes a finished shard's summary, but not twice: one thought lost may be finished after all."""
        if self._hands.get(shard) == process:
            del self._hands[shard]
        if self._done[shard]:
            return
        self._close(shard)
        self._failures.pop(shard, None)
        self._in_a_row = 0
        self._summaries.append(summary)

    def fail(self, process: str, shard: int, failure: ShardFailure, *, for_all: bool = False) -> None:
        """Sets a shard aside that could not be worked on, to be tried again by another process.

        Args:
            process: That tried.
            shard: Its number.
            failure: Why.
            for_all: Whether every other shard would fail likewise.
        """
        if self._hands.get(shard) == process:
            del self._hands[shard]
        if self._done[shard]:
            return
        tried = [*(self._attempts[shard].processes if shard in self._attempts else []), process]
        failure = ShardFailure(failure.message, failure.traceback, tried)
        self._attempts[shard] = failure
        self._in_a_row += 1
        working = sum(known.state is _State.STARTED for known in self._processes.values())
        if for_all or self._in_a_row >= max(MOST_FAILURES_IN_A_ROW, MOST_ATTEMPTS * working):
            self._cause = self._cause or failure
        elif len(tried) >= MOST_ATTEMPTS:
            self._close(shard)
            self._failures[shard] = failure
        else:
            self._back.append((self._clock() + PAUSES[len(tried) - 1], shard))

    def _close(self, shard: int) -> None:
        self._done[shard] = True
        self._open -= 1
        self._attempts.pop(shard, None)

    def keep(self, nodes: Collection[str]) -> None:
        """Takes back what was in the hands of processes on other nodes than these, which are those that live."""
        for name, process in self._processes.items():
            if process.node not in nodes and process.state is not _State.LOST:
                process.state = _State.LOST
                self._take_back(name)

    def _take_back(self, process: str) -> None:
        for shard in [shard for shard, holder in self._hands.items() if holder == process]:
            del self._hands[shard]
            self._back.appendleft((self._clock(), shard))

    def news(self) -> News:
        """Tells what has happened since it was last asked."""
        summaries, self._summaries = self._summaries, []
        states = [process.state for process in self._processes.values()]
        working = states.count(_State.STARTING) + states.count(_State.STARTED)
        if self._open and not working and _State.BROKEN in states:
            self._cause = self._cause or self._start_failure
        failures = self._failures if self.over() else {}
        return News(
            summaries, self.over(), failures, self._cause, len(self._started), working + states.count(_State.BROKEN)
        )
