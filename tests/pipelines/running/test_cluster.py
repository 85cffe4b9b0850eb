"""Connecting to a cluster that is away, is none, or wants something else."""

import json
import logging
import platform
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
import pytest
import ray
from ray._private import services
from ray.core.generated.gcs_service_pb2 import InternalKVGetReply
from ray.core.generated.gcs_service_pb2_grpc import (
    InternalKVGcsServiceServicer,
    add_InternalKVGcsServiceServicer_to_server,
)

from grepr_core.errors import Unavailable, UserError
from pipelines.options import ScoreOptions, ScoringOptions
from pipelines.running import cluster
from pipelines.running.session import check_cluster, cluster_address, ray_session
from pipelines.scoring.score import run

OURS = {"ray_version": ray.__version__, "python_version": platform.python_version()}


class Head(InternalKVGcsServiceServicer):
    """Answers as the head of a cluster does.

    Attributes:
        refuses: So many requests, as if they came without the cluster's token.
        silent: So many times it gives no answer in time.
        versions: Of the cluster.
    """

    def __init__(self, *, refuses: int = 0, silent: int = 0, versions: dict[str, str] | None = None) -> None:
        self.refuses = refuses
        self.silent = silent
        self.versions = OURS if versions is None else versions

    def InternalKVGet(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - of the protocol
        self.silent -= 1
        if self.silent >= 0:
            context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "")
        self.refuses -= 1
        if self.refuses >= 0:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
        return InternalKVGetReply(value=json.dumps(self.versions).encode() if self.versions else b"")


@contextmanager
def running(head: Head) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(1))
    add_InternalKVGcsServiceServicer_to_server(head, server)
    port = server.add_insecure_port("0.0.0.0:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None)


@contextmanager
def listening() -> Iterator[str]:
    with socket.create_server(("0.0.0.0", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture(autouse=True)
def nothing_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**options: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise ConnectionError("as far as Ray itself") from RuntimeError("first line\nGCS is gone")

    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.setattr(cluster, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(services, "find_node_ids", lambda: {"a node of this machine"})


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Counts how often a token is looked for, instead of switching this process to one."""
    looked: list[bool] = []
    monkeypatch.setattr(
        cluster, "maybe_enable_token_auth_if_token_available", lambda warn_if_disabled: not looked.append(True)
    )
    return looked


def refusal(address: str | None) -> UserError:
    with pytest.raises(UserError) as refused, ray_session(address):
        pass
    return refused.value


def test_nothing_listens(monkeypatch: pytest.MonkeyPatch):
    with listening() as address:
        pass
    error = refusal(address)
    assert isinstance(error, Unavailable)
    assert str(error).startswith(f"--address {address} (")
    assert "no Ray cluster answers there (Connection refused)" in str(error)
    assert "no Ray cluster answers there (" in str(refusal("head.invalid:6379"))

    monkeypatch.setenv("RAY_ADDRESS", address)
    for named in (None, "auto"):
        assert str(refusal(named)).startswith(f"RAY_ADDRESS={address} (")


def test_something_else_listens():
    class Page(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("0.0.0.0", 0), Page) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        error = refusal(f"127.0.0.1:{server.server_port}")
        server.shutdown()
    assert isinstance(error, Unavailable)
    assert "what listens there is no Ray cluster. The address is the one that 'ray start --head' told" in str(error)


def test_what_listens_is_silent(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cluster, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(cluster, "PATIENCE_SECONDS", 0.5)
    with listening() as address:
        error = refusal(address)
    assert isinstance(error, Unavailable)
    assert "gives no answer" in str(error)


def test_a_head_under_load_is_asked_again():
    with running(Head(silent=1)) as address:
        assert "GCS is gone" in str(refusal(address))  # by Ray itself, which comes next


def test_a_job_has_patience_with_its_own_cluster(monkeypatch: pytest.MonkeyPatch):
    connect, away = socket.create_connection, [ConnectionRefusedError(111, "Connection refused")] * 3

    def refuse_at_first(*arguments: Any, **options: Any) -> socket.socket:
        if away:
            raise away.pop()
        return connect(*arguments, **options)

    monkeypatch.setattr(socket, "create_connection", refuse_at_first)
    with running(Head()) as address:
        assert "no Ray cluster answers there" in str(refusal(address))
        assert len(away) == 2
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
        assert "GCS is gone" in str(refusal(address))
    monkeypatch.setattr(cluster, "PATIENCE_SECONDS_IN_JOB", 0.2)
    assert "no Ray cluster answers there" in str(refusal(address))  # whose end comes


def test_a_wrong_token_is_told_as_submit_tells_it(tokens: list[bool], monkeypatch: pytest.MonkeyPatch):
    with running(Head(refuses=9)) as address:
        error = refusal(address)
        assert not isinstance(error, Unavailable)
        assert str(error).endswith(str(cluster.wants_token("")))
        assert "set RAY_AUTH_TOKEN to it or RAY_AUTH_TOKEN_PATH" in str(error)
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        assert str(refusal(address)).endswith("RAY_AUTH_MODE=disabled keeps it back")


def test_a_token_is_taken_where_the_cluster_wants_one_and_only_there(tokens: list[bool]):
    with running(Head(refuses=1)) as address:
        assert "GCS is gone" in str(refusal(address))  # by Ray itself, which comes next
    assert tokens == [True]
    with running(Head()) as address:
        assert "GCS is gone" in str(refusal(address))
    assert tokens == [True]


@pytest.mark.parametrize("other", [{"ray_version": "2.9.0"}, {"python_version": "3.12.1"}])
def test_another_version_is_told(other: dict[str, str]):
    theirs = {**OURS, **other}
    with running(Head(versions=theirs)) as address:
        error = refusal(address)
    assert not isinstance(error, Unavailable)
    assert f"runs Ray {theirs['ray_version']} on Python {theirs['python_version']}, and this command Ray" in str(error)


def test_a_head_that_has_not_told_its_versions_yet_is_connected_to():
    with running(Head(versions={})) as address:
        assert "GCS is gone" in str(refusal(address))


def test_a_machine_that_is_no_node(monkeypatch: pytest.MonkeyPatch):
    with running(Head()) as address:
        monkeypatch.setattr(services, "find_node_ids", set)
        error = refusal(address)
    assert "this machine is no node of the cluster" in str(error)
    assert "grepr submit --address" in str(error)


def test_no_cluster_runs_on_this_machine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(services, "find_gcs_addresses", frozenset)
    monkeypatch.setattr(services, "find_bootstrap_address", lambda _: None)
    error = refusal("auto")
    assert isinstance(error, Unavailable)
    assert str(error).startswith("--address auto: no Ray cluster runs on this machine; start one by 'ray start'")
    with listening() as gone:
        pass
    monkeypatch.setattr(services, "find_bootstrap_address", lambda _: gone)
    assert str(refusal("auto")).startswith("--address auto (")


def test_a_cluster_is_looked_for_before_a_lake_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipelines.scoring.score.find_or_make_manifest", lambda *_, **__: pytest.fail("listed"))
    with listening() as address:
        pass
    options = ScoreOptions(source=str(tmp_path), output=str(tmp_path / "out"), address=address)
    with pytest.raises(Unavailable, match="no Ray cluster answers there"):
        run(options)
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    check_cluster(address)


def test_ray_tells_nothing_of_its_own_while_a_cluster_is_looked_for(monkeypatch: pytest.MonkeyPatch):
    ray_log = logging.getLogger("ray")
    monkeypatch.setattr(ray_log, "level", ray_log.level)
    ray_log.setLevel(logging.INFO)
    with running(Head()) as address:
        check_cluster(address)
    assert ray_log.level == logging.ERROR


def test_which_address_counts(monkeypatch: pytest.MonkeyPatch):
    assert cluster_address() is None
    assert cluster_address("auto") == "auto"
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert cluster_address() == cluster_address("auto") == "head:6379"
    assert cluster_address("other:6379") == "other:6379"
    assert cluster_address("local") is None
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    assert str(refusal(None)).startswith("RAY_ADDRESS=ray://head:10001: ")


def test_a_connection_that_fails_leaves_the_handling_of_signals():
    before = signal.getsignal(signal.SIGTERM)
    with running(Head()) as address:
        refusal(address)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("address", ["auto", "local", "head:6379", "10.0.0.1:6379", "[::1]:6379", None])
def test_addresses(address: str | None):
    assert ScoringOptions(address=address).address == address


@pytest.mark.parametrize("address", ["head", "6379", ":6379", "head:", "head:port", "head:99999", "s3://head:6379", ""])
def test_what_is_no_address(address: str):
    with pytest.raises(ValueError, match="neither 'auto', 'local' nor HOST:PORT"):
        ScoringOptions(address=address)
