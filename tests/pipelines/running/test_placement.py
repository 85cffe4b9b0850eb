import logging

import pytest

from pipelines.running import placement
from pipelines.running.placement import PlacementWatch, missing
from pipelines.running.workers import Node, Workers

GIB = 2**30
WORKERS = Workers(8, 4, 1, 2 * GIB)


def test_what_is_missing_is_said_in_one_sentence():
    free = [Node(32, 0, 45 * GIB), Node(2, 1, 30 * GIB), Node(9, 4, 64 * GIB)]
    assert missing(WORKERS, 5, free) == (
        "3 of 8 processes wait for a place: each needs 4 CPU cores, 1 GPU, 2.0 GiB on one node; places free now: 2 "
        "(the node with most has 9 CPU cores, 4 GPUs, 64.0 GiB free)"
    )
    assert "places free now: 0 (the node with most has 0 CPU cores, 0.0 GiB free)" in missing(WORKERS, 0, [])


def test_it_is_said_every_minute_until_all_have_a_place(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    clock = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    monkeypatch.setattr(placement, "_free_nodes", list)
    watch = PlacementWatch(WORKERS)
    with caplog.at_level(logging.WARNING):
        # Half minutes; all have a place at the fourth look, and one has lost it at the fifth.
        for started in (0, 0, 7, 8, 7, 7):
            clock[0] += 30
            watch.look(started)
    assert [message.partition(" wait")[0] for message in caplog.messages] == ["8 of 8 processes", "1 of 8 processes"]


def test_shares_of_gpus_are_told_too():
    free = [Node(9, 0.5, 64 * GIB), Node(1, 1, 64 * GIB)]
    assert missing(Workers(8, 1, 4, 2 * GIB), 5, free) == (
        "3 of 8 processes wait for a place: each needs 1 CPU core, 0.25 GPUs, 2.0 GiB on one node; places free now: 3 "
        "(the node with most has 1 CPU core, 1 GPU, 64.0 GiB free)"
    )
