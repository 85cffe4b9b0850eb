"""Connecting to a Ray cluster, or saying why it cannot be."""

import json
import logging
import os
import platform
import socket
import time

import grpc
import ray
from ray._common.usage.usage_constants import CLUSTER_METADATA_KEY
from ray._private import services
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._private.gcs_utils import create_gcs_channel
from ray._private.ray_constants import KV_NAMESPACE_CLUSTER
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray._private.utils import check_version_info
from ray.core.generated.gcs_service_pb2 import InternalKVGetRequest  # type: ignore[attr-defined]
from ray.core.generated.gcs_service_pb2_grpc import InternalKVGcsServiceStub
from ray.exceptions import AuthenticationError

from grepr_core.errors import Unavailable, UserError
from pipelines.options import HAND_OVER, check_address

#: Seconds for a connection, and then for an answer.
CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 5.0
#: Seconds for all attempts, more in a job, whose cluster is there. Ray itself would try for a quarter of an hour.
PATIENCE_SECONDS, PATIENCE_SECONDS_IN_JOB = 10.0, 60.0
PAUSE_SECONDS = 0.5

_WHICH_ADDRESS = "The address is the one that 'ray start --head' told, with port 6379 if no other was chosen"
_NO_NODE = f"this machine is no node of the cluster; run the command on one that is, or hand it over: {HAND_OVER}"


def connect(address: str, named: str) -> None:
    """Connects this process to a cluster.

    Args:
        address: 'auto' or HOST:PORT.
        named: How the person named it, for messages.

    Raises:
        Unavailable: No Ray answers there.
        UserError: The address cannot be one, or the cluster cannot be used from here; see :func:`find`.
    """
    found = find(address, named)
    try:
        ray.init(address=found, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        why = str(error.__cause__ or error).strip().rpartition("\n")[2]
        if why.startswith("No node info found"):
            raise UserError(f"{named}: {_NO_NODE}") from error
        raise Unavailable(f"{named}: {why}") from error


def find(address: str, named: str) -> str:
    """Makes sure within seconds, in a Ray job within a minute, that a cluster can be connected to.

    Args:
        address: 'auto' or HOST:PORT.
        named: How the person named it, for messages.

    Returns:
        HOST:PORT as Ray takes it.

    Raises:
        Unavailable: No Ray answers there.
        UserError: The address cannot be one, the cluster wants another token or another version of Ray or Python, or
            this machine is none of its nodes.
    """
    try:
        check_address(address, named)
    except ValueError as error:
        raise UserError(str(error)) from error
    try:
        found = services.canonicalize_bootstrap_address_or_die(address)
    except ConnectionError as error:
        raise Unavailable(
            f"{named}: no Ray cluster runs on this machine; start one by 'ray start', or leave it out: Ray is then "
            "started for this command alone"
        ) from error
    # That of 'auto', or one of this machine by which the other nodes know it.
    named = f"{named} ({found})" if found != address else named
    _check_versions(_metadata(found, named), named)
    # Ray itself would look for one for a minute.
    if not services.find_node_ids():  # type: ignore[no-untyped-call]
        raise UserError(f"{named}: {_NO_NODE}")
    return found


def wants_token(named: str) -> UserError:
    """Gives the error of a cluster that was shown no token or a wrong one.

    Args:
        named: The cluster, as the person named it.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "token")
    unset = f"; RAY_AUTH_MODE={mode} keeps it back" if mode.lower() != "token" else ""
    return UserError(
        f"{named}: the cluster wants its token; set RAY_AUTH_TOKEN to it or RAY_AUTH_TOKEN_PATH to a file that holds "
        f"it, or put it into ~/.ray/auth_token{unset}"
    )


class _SilentError(Unavailable):
    """What listens gives no answer, as a head may that is under load."""


def _metadata(address: str, named: str) -> dict[str, str]:
    in_job = RAY_JOB_CONFIG_JSON_ENV_VAR in os.environ
    deadline = time.monotonic() + (PATIENCE_SECONDS_IN_JOB if in_job else PATIENCE_SECONDS)
    while True:
        try:
            return _metadata_now(address, named, deadline)
        except Unavailable as error:
            passing = in_job or isinstance(error, _SilentError)
            if not passing or time.monotonic() + PAUSE_SECONDS >= deadline:
                raise
        time.sleep(PAUSE_SECONDS)


def _metadata_now(address: str, named: str, deadline: float) -> dict[str, str]:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise Unavailable(
            f"{named}: no Ray cluster answers there ({error.strerror or error}); is its head up? {_WHICH_ADDRESS}"
        ) from error
    try:
        return _ask(address, max(0.0, min(ANSWER_SECONDS, deadline - time.monotonic())))
    except AuthenticationError as error:
        raise wants_token(named) from error
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            raise wants_token(named) from error
        silent = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        raise (_SilentError if silent else Unavailable)(
            f"{named}: what listens there {'gives no answer, or not in time' if silent else 'is no Ray cluster'}. "
            f"{_WHICH_ADDRESS}, and not that of the dashboard"
        ) from error


def _ask(address: str, seconds: float) -> dict[str, str]:
    """Asks a cluster for its versions, and settles whether it is to be shown a token.

    The user may have a token of another Ray, and with tokens a driver also wants one of the processes that it works
    with. So a cluster is first spoken to without, unless RAY_AUTH_MODE says otherwise.
    """
    try:
        return _versions(address, seconds)
    except grpc.RpcError as error:
        wants_token = error.code() is grpc.StatusCode.UNAUTHENTICATED
        if not (wants_token and maybe_enable_token_auth_if_token_available(warn_if_disabled=False)):
            raise
    return _versions(address, seconds)


def _versions(address: str, seconds: float) -> dict[str, str]:
    request = InternalKVGetRequest(namespace=KV_NAMESPACE_CLUSTER, key=CLUSTER_METADATA_KEY)
    with create_gcs_channel(address) as channel:
        answer = InternalKVGcsServiceStub(channel).InternalKVGet(  # type: ignore[no-untyped-call]
            request, timeout=seconds
        )
    return dict(json.loads(answer.value)) if answer.value else {}


def _check_versions(cluster: dict[str, str], named: str) -> None:
    if not cluster:  # its head is about to write them
        return
    try:
        check_version_info(cluster, named)
    except RuntimeError as error:
        raise UserError(
            f"{named}: the cluster runs Ray {cluster['ray_version']} on Python {cluster['python_version']}, and this "
            f"command Ray {ray.__version__} on Python {platform.python_version()}; install the cluster's versions, "
            f"or hand the command over: {HAND_OVER}"
        ) from error
