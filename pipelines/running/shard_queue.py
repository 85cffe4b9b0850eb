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
from typing import Any, NamedTuple

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
#: When so many shards fail and none is finished meanwhile, all others would. More where more processes work, and not
#: if all of it is the fault of few of them.
MOST_FAILED_IN_A_ROW, FEW_PROCESSES = 12, 3
#: A process that fails so often in a row, beside others that do not, rests for some seconds, each time for longer.
FAILURES_TO_REST, LONGEST_REST = 3, 60.0
#: Seconds without a sign of life, after which what a process has in hand goes to others. It may only be suspended, and
#: come back.
SILENCE = 45.0
#: Seconds in which others than those that cannot start may come, where more were planned.
PATIENCE = 600.0


class _State(Enum):
    STARTING = auto()
    STARTED = auto()
    BROKEN = auto()
    LOST = auto()


@dataclass
class _Process:
    node: str
    heard: float
    state: _State = _State.STARTING
    start_deaths: int = 0
    failures: int = 0
    rests_until: float = 0.0


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


class Turn(NamedTuple):
    """What a process is to do next.

    Attributes:
        shard: Its number, :data:`WAIT` or :data:`OVER`.
        last_try: Whether it is given up if this fails.
    """

    shard: int
    last_try: bool = False


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

    def __init__(
        self, shards: NDArray[np.int64], *, processes: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Starts with all shards to be done.

        Args:
            shards: Their numbers, in the order in which they are handed out.
            processes: How many are expected.
            clock: Tells seconds.
        """
        self._shards = shards
        self._planned = processes
        self._clock = clock
        self._next = 0
        self._open = len(shards)
        self._done = np.zeros(int(shards.max()) + 1 if len(shards) else 0, bool)
        self._back: deque[tuple[float, int]] = deque()
        self._hands: dict[int, tuple[str, float]] = {}
        self._processes: dict[str, _Process] = {}
        self._attempts: dict[int, ShardFailure] = {}
        self._failures: dict[int, ShardFailure] = {}
        self._failed_in_a_row: dict[int, str] = {}
        self._for_all_on: set[str] = set()
        self._summaries: list[dict[str, Any]] = []
        self._start_failure: ShardFailure | None = None
        self._cause: ShardFailure | None = None
        self._started: set[str] = set()
        self._came = clock()
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
        deaths = 0
        if known is not None:
            # Elsewhere now, it was its node that died.
            deaths = known.start_deaths + (known.state is _State.STARTING and known.node == node)
        self._take_back(process)
        self._came = self._clock()
        self._processes[process] = _Process(node, self._came, start_deaths=deaths)
        if deaths >= MOST_START_DEATHS:
            self.broken(process, ShardFailure(f"a process died {deaths} times while it started; out of memory?", ""))
            return False
        return True

    def started(self, process: str) -> None:
        """Tells that a process is ready for work."""
        self._processes[process] = _Process(self._processes[process].node, self._clock(), _State.STARTED)
        self._started.add(process)

    def broken(self, process: str, cause: ShardFailure) -> None:
        """Tells that a process cannot start; the first cause is kept."""
        self._processes[process].state = _State.BROKEN
        self._start_failure = self._start_failure or cause

    def alive(self, process: str, holds: Collection[int]) -> None:
        """Tells that a process lives, and which shards it has in hand: an answer may have got lost on its way."""
        known, now = self._processes[process], self._clock()
        known.heard = now
        if known.state is _State.LOST:
            known.state = _State.STARTED if process in self._started else _State.STARTING
        for shard, (holder, since) in list(self._hands.items()):
            if holder == process and shard not in holds and now - since > SILENCE:
                self._return(shard)

    def take(self, process: str) -> Turn:
        """Hands out a shard.

        Args:
            process: That asks.

        Returns:
            What it is to do.
        """
        if self.over():
            return Turn(OVER)
        if self._rests(process):
            return Turn(WAIT)
        shard = self._from_back(process)
        if shard is None and self._next < len(self._shards):
            shard = int(self._shards[self._next])
            self._next += 1
        if shard is None:
            return Turn(WAIT)
        self._hands[shard] = process, self._clock()
        tried = self._attempts[shard].processes if shard in self._attempts else []
        return Turn(shard, last_try=len(tried) + 1 >= MOST_ATTEMPTS)

    def over(self) -> bool:
        """Tells whether no shard will be handed out any more."""
        return self._open == 0 or self._cause is not None or self._closed

    def close(self) -> None:
        """Hands out no more."""
        self._closed = True

    def _rests(self, process: str) -> bool:
        others = (other for name, other in self._working().items() if name != process)
        return self._clock() < self._processes[process].rests_until and any(not other.failures for other in others)

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
        return not self._working().keys() <= set(self._attempts[shard].processes)

    def _working(self) -> dict[str, _Process]:
        return {name: process for name, process in self._processes.items() if process.state is _State.STARTED}

    def finish(self, process: str, shard: int, summary: dict[str, Any]) -> None:
        """Takes a finished shard's summary, but not twice: one thought lost may be finished after all."""
        self._let_go(process, shard)
        self._processes[process].failures = 0
        self._failed_in_a_row.clear()
        self._for_all_on.clear()
        if self._done[shard] and self._failures.pop(shard, None) is None:
            return
        if not self._done[shard]:
            self._close(shard)
        self._summaries.append(summary)

    def fail(self, process: str, shard: int, failure: ShardFailure, *, for_all: bool = False) -> None:
        """Sets a shard aside that could not be worked on, to be tried again by another process.

        Args:
            process: That tried.
            shard: Its number.
            failure: Why.
            for_all: Whether every other shard would fail likewise, at least on this node.
        """
        self._let_go(process, shard)
        if self._done[shard]:
            return
        tried = [*(self._attempts[shard].processes if shard in self._attempts else []), process]
        failure = self._attempts[shard] = ShardFailure(failure.message, failure.traceback, tried)
        self._tire(process)
        self._failed_in_a_row[shard] = process
        if for_all:
            self._for_all_on.add(self._processes[process].node)
        if self._all_would_fail():
            self._cause = self._cause or failure
        elif len(tried) >= MOST_ATTEMPTS:
            self._close(shard)
            self._failures[shard] = failure
        else:
            self._back.append((self._clock() + PAUSES[len(tried) - 1], shard))

    def _tire(self, process: str) -> None:
        known = self._processes[process]
        known.failures += 1
        if known.failures >= FAILURES_TO_REST:
            known.rests_until = self._clock() + min(LONGEST_REST, 2.0**known.failures)

    def _all_would_fail(self) -> bool:
        working = self._working()
        nodes = {process.node for process in working.values()}
        if self._for_all_on and len(self._for_all_on) >= min(2, len(nodes)):
            return True
        most = max(MOST_FAILED_IN_A_ROW, MOST_ATTEMPTS * len(working))
        by = set(self._failed_in_a_row.values())
        return len(self._failed_in_a_row) >= most and len(by) >= min(FEW_PROCESSES, len(working))

    def _close(self, shard: int) -> None:
        self._done[shard] = True
        self._open -= 1
        self._attempts.pop(shard, None)

    def _let_go(self, process: str, shard: int) -> None:
        if shard in self._hands and self._hands[shard][0] == process:
            del self._hands[shard]

    def keep(self, nodes: Collection[str]) -> None:
        """Takes back what was in the hands of processes on other nodes than these, which are those that live."""
        for name, process in self._processes.items():
            if process.node not in nodes:
                self._lose(name, process)

    def _lose(self, name: str, process: _Process) -> None:
        if process.state in (_State.STARTING, _State.STARTED):
            process.state = _State.LOST
            self._take_back(name)

    def _take_back(self, process: str) -> None:
        for shard in [shard for shard, (holder, _) in self._hands.items() if holder == process]:
            self._return(shard)

    def _return(self, shard: int) -> None:
        del self._hands[shard]
        self._back.appendleft((self._clock(), shard))

    def news(self) -> News:
        """Tells what has happened since it was last asked."""
        now = self._clock()
        for name, process in self._processes.items():
            if now - process.heard > SILENCE:
                self._lose(name, process)
        states = [process.state for process in self._processes.values()]
        broken, working = states.count(_State.BROKEN), states.count(_State.STARTING) + states.count(_State.STARTED)
        if self._open and broken and not working and (broken >= self._planned or now - self._came > PATIENCE):
            self._cause = self._cause or self._start_failure
        summaries, self._summaries = self._summaries, []
        failures = self._failures if self.over() else {}
        return News(summaries, self.over(), failures, self._cause, len(self._started), working + broken)
