import pytest

from grepr_core.errors import UserError
from pipelines.running.workers import Workers, plan_workers

GIB = 2**30


@pytest.mark.parametrize(
    ("node_cpus", "gpus", "memory", "device", "requested", "expected"),
    [
        ([1], 0, 8, "auto", None, Workers(1, 1, 0)),
        ([2], 0, 8, "auto", None, Workers(2, 1, 0)),
        ([16], 0, 64, "auto", None, Workers(16, 1, 0)),
        ([16], 0, 8, "auto", None, Workers(4, 4, 0)),  # short of memory: fewer processes with more threads
        ([16], 0, 1, "auto", None, Workers(1, 16, 0)),
        ([16], 0, 64, "auto", 3, Workers(3, 5, 0)),
        ([0, 8, 8], 0, 64, "auto", None, Workers(16, 1, 0)),  # a head that does no work
        ([8, 8], 0, 64, "auto", 1, Workers(1, 8, 0)),  # a process cannot span nodes
        ([3, 3], 0, 64, "auto", 3, Workers(3, 1, 0)),  # two of two cores fit, but not three
        ([16], 4, 64, "auto", None, Workers(4, 4, 1)),
        ([16], 4, 64, "cpu", None, Workers(16, 1, 0)),
        ([16], 4, 64, "cuda", 2, Workers(2, 8, 1)),
        ([2], 8, 64, "auto", None, Workers(8, 1, 1)),
    ],
)
def test_processes_fill_the_cluster_and_never_more(
    node_cpus: list[int], gpus: int, memory: int, device: str, requested: int | None, expected: Workers
):
    workers = plan_workers(node_cpus=node_cpus, gpus=gpus, memory=memory * GIB, device=device, requested=requested)
    assert workers == expected
    assert workers.count * workers.gpus <= gpus
    if not workers.gpus:
        assert sum(cpus // workers.cpus for cpus in node_cpus) >= workers.count


@pytest.mark.parametrize(
    ("cpus", "gpus", "device", "requested", "message"),
    [
        (2, 0, "auto", 3, "--workers 3 needs as many CPU cores, but Ray has 2"),
        (2, 1, "auto", 2, "--workers 2 needs as many GPUs, but Ray has 1"),
        (2, 0, "cuda", None, "no GPU"),
        (0, 0, "auto", None, "no CPU"),
    ],
)
def test_what_the_cluster_has_not_is_refused_in_words(
    cpus: int, gpus: int, device: str, requested: int | None, message: str
):
    with pytest.raises(UserError, match=message):
        plan_workers(node_cpus=[cpus], gpus=gpus, memory=8 * GIB, device=device, requested=requested)


@pytest.mark.parametrize(
    ("node_cpus", "gpus", "device", "requested", "expected"),
    [
        ([0], 0, "auto", 8, Workers(8, 1, 0)),  # a head that waits for its first node
        ([0, 4], 0, "auto", 8, Workers(8, 1, 0)),
        ([0, 16], 0, "auto", 8, Workers(8, 2, 0)),  # room for all there is already
        ([0], 0, "cuda", 8, Workers(8, 4, 1)),
        ([0, 16], 1, "auto", 8, Workers(8, 4, 1)),
        ([0, 16], 1, "cpu", 32, Workers(32, 1, 0)),
        ([0, 16], 1, "auto", None, Workers(1, 16, 1)),
    ],
)
def test_a_cluster_that_grows_is_asked_for_more_than_it_has(
    node_cpus: list[int], gpus: int, device: str, requested: int | None, expected: Workers
):
    cluster = {"node_cpus": node_cpus, "gpus": gpus, "memory": 64 * GIB}
    assert plan_workers(**cluster, device=device, requested=requested, autoscaling=True) == expected


def test_how_far_a_cluster_should_grow_has_to_be_said():
    with pytest.raises(UserError, match="--workers N --autoscaling"):
        plan_workers(node_cpus=[0], gpus=0, memory=64 * GIB, autoscaling=True)
