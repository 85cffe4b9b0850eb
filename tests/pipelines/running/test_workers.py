import pytest

from grepr_core.errors import UserError
from pipelines.running.workers import GPU_PARTS, WORKER_BYTES, Node, Workers, plan_workers

GIB = 2**30
HEAD = Node(0, 0, 8 * GIB)  # does no work
SMALL, LARGE, GPU = Node(8, 0, 32 * GIB), Node(32, 0, 45 * GIB), Node(16, 1, 45 * GIB)
UNLIKE = [Node(3, 0, 8 * GIB), Node(1, 1, 8 * GIB)]


def planned(count: int, cpus: int, per_gpu: int, *, most: int | None = None, memory: float = 2) -> Workers:
    return Workers(count, cpus, per_gpu, int(memory * GIB), most)


@pytest.mark.parametrize(
    ("nodes", "device", "requested", "expected"),
    [
        ([Node(1, 0, 8 * GIB)], "auto", None, planned(1, 1, 0)),
        ([Node(2, 0, 8 * GIB)], "auto", None, planned(2, 1, 0)),
        ([Node(16, 0, 64 * GIB)], "auto", None, planned(16, 1, 0)),
        ([Node(16, 0, 8 * GIB)], "auto", None, planned(4, 4, 0)),  # short of memory: fewer processes, more threads
        ([Node(4, 0, GIB)], "auto", None, planned(1, 4, 0, memory=1)),  # less than one needs, by the estimate
        ([Node(4, 0, 0)], "auto", None, planned(4, 1, 0, memory=0)),  # Ray does not tell
        ([Node(4, 0, 3 * GIB)], "auto", 4, planned(4, 1, 0, most=4, memory=0.75)),  # whoever asks knows it better
        ([Node(16, 0, 64 * GIB)], "auto", 3, planned(3, 5, 0, most=3)),
        ([HEAD, SMALL, SMALL], "auto", None, planned(16, 1, 0)),
        ([SMALL, SMALL], "auto", 1, planned(1, 8, 0, most=1)),  # a process cannot span nodes
        ([Node(3, 0, 8 * GIB)] * 2, "auto", 3, planned(3, 1, 0, most=3)),  # two of two cores fit, but not three
        ([Node(8, 0, 4 * GIB), Node(2, 0, 64 * GIB)], "auto", None, planned(4, 1, 0)),  # memory does not cross either
        ([HEAD, LARGE, LARGE], "auto", None, planned(44, 1, 0)),  # today 64 processes on 90 GiB
        ([Node(16, 4, 64 * GIB)], "auto", None, planned(4, 4, 1)),
        ([Node(16, 4, 64 * GIB)], "cpu", None, planned(16, 1, 0)),
        ([Node(16, 4, 64 * GIB)], "cuda", 2, planned(2, 8, 1, most=2)),
        ([Node(2, 8, 64 * GIB)], "auto", None, planned(2, 1, 1)),
        ([HEAD, *[LARGE] * 16, *[GPU] * 8], "auto", None, planned(8, 16, 1)),  # the machines of cluster.yaml
        ([HEAD, *[LARGE] * 16, *[GPU] * 8], "cuda", 8, planned(8, 16, 1, most=8)),
        ([GPU, Node(4, 1, 8 * GIB)], "auto", None, planned(2, 4, 1)),
        (UNLIKE, "auto", None, planned(1, 1, 1)),
        (UNLIKE, "cuda", None, planned(1, 1, 1)),
        (UNLIKE, "cpu", None, planned(4, 1, 0)),
        ([HEAD, SMALL], "auto", 20, planned(8, 1, 0, most=20)),  # others begin when nodes join
        ([HEAD, LARGE], "auto", 32, planned(22, 1, 0, most=32)),
    ],
)
def test_processes_fill_the_nodes_and_never_more(
    nodes: list[Node], device: str, requested: int | None, expected: Workers
):
    workers = plan_workers(nodes=nodes, device=device, requested=requested)
    assert workers == expected
    assert workers.count <= workers.places(nodes)


@pytest.mark.parametrize(
    ("nodes", "device", "requested", "message"),
    [
        ([Node(2, 0, 8 * GIB)], "auto", 3, r"--workers 3 needs as many CPU cores, but Ray has 2 places .* 2 CPU cores"),
        ([Node(2, 1, 8 * GIB)], "auto", 2, "--workers 2 needs as many GPUs, but Ray has 1 place .* 1 GPU, 8.0 GiB"),
        ([SMALL], "cuda", None, "no GPU"),
        ([HEAD], "auto", None, "no CPU"),
        ([], "auto", None, "no CPU"),
        ([SMALL, Node(0, 1, 8 * GIB)], "cuda", None, "no node with a GPU has a CPU core"),
    ],
)
def test_what_the_cluster_has_not_is_refused_in_words(
    nodes: list[Node], device: str, requested: int | None, message: str
):
    with pytest.raises(UserError, match=message):
        plan_workers(nodes=nodes, device=device, requested=requested)


def test_processes_that_can_only_begin_together_need_their_places_now():
    nodes = [HEAD, LARGE, GPU, GPU]
    with pytest.raises(UserError, match="--num-workers 3 needs as many GPUs, but Ray has 2 places"):
        plan_workers(nodes=nodes, requested=3, option="--num-workers", together=True)
    assert plan_workers(nodes=nodes, requested=2, together=True) == planned(2, 16, 1, most=2)
    short = [HEAD, Node(4, 0, 4 * GIB), Node(4, 0, 8 * GIB)]
    assert plan_workers(nodes=short, requested=8, together=True) == planned(8, 1, 0, most=8, memory=1)


@pytest.mark.parametrize(
    ("nodes", "device", "requested", "expected"),
    [
        ([HEAD], "auto", 8, planned(8, 1, 0, most=8)),  # a head that waits for its first node
        ([HEAD, Node(4, 0, 8 * GIB)], "auto", 8, planned(8, 1, 0, most=8)),
        ([HEAD, Node(16, 0, 32 * GIB)], "auto", 8, planned(8, 2, 0, most=8)),  # room for all there is already
        ([HEAD, LARGE], "auto", 32, planned(32, 1, 0, most=32)),  # cores for all, but not memory
        ([HEAD], "cuda", 8, planned(8, 4, 1, most=8)),
        ([HEAD, GPU], "auto", 8, planned(8, 4, 1, most=8)),
        ([HEAD, LARGE, Node(2, 1, 8 * GIB)], "auto", 8, planned(8, 2, 1, most=8)),  # others of its kind fit too
        ([HEAD, GPU], "cpu", 32, planned(32, 1, 0, most=32)),
        ([HEAD, GPU], "auto", None, planned(1, 16, 1)),
    ],
)
def test_a_cluster_that_grows_is_asked_for_more_than_it_has(
    nodes: list[Node], device: str, requested: int | None, expected: Workers
):
    assert plan_workers(nodes=nodes, device=device, requested=requested, autoscaling=True) == expected


def test_how_far_a_cluster_should_grow_has_to_be_said():
    with pytest.raises(UserError, match="--workers N --autoscaling"):
        plan_workers(nodes=[HEAD], autoscaling=True)


def test_each_process_asks_ray_for_its_memory_too():
    workers = plan_workers(nodes=UNLIKE)
    assert workers.request == {"num_cpus": 1, "num_gpus": 1, "memory": WORKER_BYTES}
    assert workers.bundle == {"CPU": 1.0, "GPU": 1.0, "memory": WORKER_BYTES}
    assert plan_workers(nodes=[Node(2, 0, 0)]).bundle == {"CPU": 1.0}


@pytest.mark.parametrize(
    ("nodes", "device", "requested", "per_gpu", "expected"),
    [
        ([Node(16, 1, 64 * GIB)], "auto", None, 4, planned(4, 4, 4)),
        ([Node(16, 1, 64 * GIB)], "auto", 3, 4, planned(3, 5, 4, most=3)),
        ([Node(16, 2, 64 * GIB)], "cuda", None, 3, planned(6, 2, 3)),
        ([Node(16, 1, 4 * GIB)], "auto", None, 4, planned(2, 8, 4)),  # short of memory
        ([Node(64, 3, 128 * GIB)], "auto", None, 7, planned(21, 3, 7)),  # parts that do not add up to one
        ([HEAD, LARGE, GPU, Node(4, 1, 8 * GIB)], "auto", None, 8, planned(12, 1, 8)),
        ([GPU, GPU], "auto", 5, 2, planned(4, 8, 2, most=5)),
    ],
)
def test_processes_share_gpus_and_the_cores_beside_them(
    nodes: list[Node], device: str, requested: int | None, per_gpu: int, expected: Workers
):
    workers = plan_workers(nodes=nodes, device=device, requested=requested, per_gpu=per_gpu)
    assert workers == expected
    assert workers.count <= workers.places(nodes)
    assert workers.request["num_gpus"] * per_gpu == pytest.approx(1)


@pytest.mark.parametrize(
    ("nodes", "expected"), [([HEAD], planned(8, 2, 2, most=8)), ([HEAD, GPU], planned(8, 2, 2, most=8))]
)
def test_a_cluster_grows_for_processes_that_share_gpus(nodes: list[Node], expected: Workers):
    assert plan_workers(nodes=nodes, device="cuda", requested=8, per_gpu=2, autoscaling=True) == expected


@pytest.mark.parametrize(
    ("nodes", "requested", "per_gpu", "message"),
    [
        ([SMALL], None, 2, "--processes-per-gpu 2: the Ray cluster has no GPU; leave it out"),
        ([Node(4, 1, 8 * GIB)], None, 5, "--processes-per-gpu 5: .* no node has more than 4 beside a GPU"),
        ([Node(16, 1, 64 * GIB)], 3, 2, "--workers 3 needs as many shares of GPUs, but Ray has 2 places"),
    ],
)
def test_gpus_that_cannot_be_shared_so_are_refused(
    nodes: list[Node], requested: int | None, per_gpu: int, message: str
):
    with pytest.raises(UserError, match=message):
        plan_workers(nodes=nodes, requested=requested, per_gpu=per_gpu)


def test_of_a_gpu_that_is_free_in_part_as_many_have_a_place_as_fit():
    for per_gpu in range(1, 33):
        part = int(GPU_PARTS / per_gpu) / GPU_PARTS  # what Ray deals out
        for taken in range(per_gpu + 1):
            free = Node.from_resources({"CPU": 99.0, "GPU": 1 - taken * part, "memory": 99.0})
            assert free.places(1, per_gpu, 0) == per_gpu - taken, (per_gpu, taken)
    assert Node.from_resources({"CPU": 1.0, "GPU": 0.9}).places(1, 1, 0) == 0
