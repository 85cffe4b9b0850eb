"""Clusters whose nodes come and go."""

import time
from pathlib import Path
from types import ModuleType

import pytest
import ray
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.cluster_utils import Cluster

from grepr_core.errors import UserError
from pipelines.running import precision
from pipelines.running.placement import _free_nodes, missing
from pipelines.running.precision import has_bf16, shared_precision
from pipelines.running.workers import WORKER_BYTES, cluster_workers
from tests.lake import SMALL, check_invariants, grepr, make_lake, run_grepr

pytestmark = pytest.mark.slow


def test_a_run_begins_when_the_first_node_comes(tmp_path: Path):
    lake = make_lake(tmp_path / "photos", 40)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    where = ("--address", cluster.address)
    try:
        code, _, err = run_grepr("score", lake, tmp_path / "out", *where)
        assert code == 2
        assert "has no CPU to work on; add a worker node, or" in err
        assert "--workers N --autoscaling" in err
        process = grepr("score", lake, tmp_path / "out", *where, "--workers", "2", "--autoscaling", *SMALL)
        deadline = time.monotonic() + 120
        # What an autoscaler adds nodes for.
        while not get_cluster_status(cluster.address).resource_demands.ray_task_actor_demand:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "nothing waits for a node"
            time.sleep(0.2)
        cluster.add_node(num_cpus=1)
        # The second node never comes.
        _, err = process.communicate(timeout=250)
        assert process.returncode == 0, err
        assert len(check_invariants(tmp_path / "out")) == 40
    finally:
        cluster.shutdown()


def test_unlike_machines(shared_ray: ModuleType, monkeypatch: pytest.MonkeyPatch):
    """The GPU is only declared, so nothing runs on it."""
    shared_ray.disconnect()
    memory = 3 * WORKER_BYTES // 2
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 3, "memory": memory, "include_dashboard": False}
    )
    cluster.add_node(num_cpus=1, num_gpus=1, memory=memory)
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        for device in ("auto", "cuda"):
            workers = cluster_workers(device, None)
            assert (workers.count, workers.cpus, workers.gpus, workers.memory) == (1, 1, 1, WORKER_BYTES)
        with pytest.raises(UserError, match="--num-workers 2 needs as many GPUs, but Ray has 1 place"):
            cluster_workers("auto", 2, option="--num-workers", together=True)
        first, second = (ray.util.placement_group([workers.bundle]) for _ in range(2))
        assert first.wait(60)
        assert not second.wait(1)
        assert "each needs 1 CPU core, 1 GPU, 2.0 GiB on one node; places free now: 0 " in missing(
            workers, 0, _free_nodes()
        )
        # By cores there would be three places on the head.
        assert cluster_workers("cpu", 4).count == 2
        # Both are asked, and the one that declares a GPU has none that could multiply.
        monkeypatch.setattr(precision, "_best", None)
        assert shared_precision(cluster_workers("cpu", None)) == ("bf16" if has_bf16("cpu") else "fp32")
    finally:
        ray.shutdown()
        cluster.shutdown()
