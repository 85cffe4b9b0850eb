"""Clusters whose nodes come and go."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.cluster_utils import Cluster

from tests.lake import check_invariants, grepr, make_lake, run_grepr, scores

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def test_a_run_outlives_a_node(cluster: Cluster, tmp_path: Path):
    lake = make_lake(tmp_path / "photos", 160)
    where = ("--shard-size", "4", "--address", cluster.address)
    process = grepr("score", lake, tmp_path / "out", *where)
    deadline = time.monotonic() + 150
    while len(list((tmp_path / "out/scores").glob("shard=*"))) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no shard was finished in time"
        time.sleep(0.05)
    node = next(node for node in cluster.list_all_nodes() if not node.head)
    os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)
    _, err = process.communicate(timeout=250)
    if process.returncode != 0:  # the node was the one that the command itself was connected to
        code, _, err = run_grepr("score", lake, tmp_path / "out", *where)
        assert code == 0, err
    table = check_invariants(tmp_path / "out")
    assert set(table["status"].to_pylist()) == {"scored"}
    assert json.loads((tmp_path / "out/run.json").read_text())["workers"]["cpus"] == 1

    # A Ray that runs on the machine is left alone by a command without --address.
    code, _, err = run_grepr("score", lake, tmp_path / "alone", "--workers", "1")
    assert code == 0, err
    assert scores(tmp_path / "alone").equals(table)


def test_a_run_begins_when_the_first_node_comes(tmp_path: Path):
    lake = make_lake(tmp_path / "photos", 40)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    where = ("--address", cluster.address)
    try:
        code, _, err = run_grepr("score", lake, tmp_path / "out", *where)
        assert code == 2
        assert "has no CPU to work on; add a worker node, or" in err
        assert "--workers N --autoscaling" in err
        process = grepr("score", lake, tmp_path / "out", *where, "--workers", "2", "--autoscaling")
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
