"""Ray's job server, spoken to with a time limit and the cluster's token."""

import logging
import os
import time
from typing import Any, NoReturn

import aiohttp
import requests
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobSubmissionClient

from grepr_core.errors import Unavailable, UserError
from pipelines.running.cluster import wants_token

#: Seconds that the server may keep silent within a request.
REQUEST_SECONDS = 30.0
#: Seconds between attempts to be heard by a server that is there, but not well.
RETRY_SECONDS = (1, 2, 4, 8, 16)
#: What a request fails with when the connection or the server is away for a while.
LOST = (requests.RequestException, aiohttp.ClientError, OSError)
#: Of these, what a connection fails with that there was.
BROKEN = (
    ConnectionResetError,
    ConnectionAbortedError,
    BrokenPipeError,
    requests.exceptions.ChunkedEncodingError,
)
#: What a proxy says of a server that is away, as that of a head that has just started.
AWAY = (502, 503, 504)

log = logging.getLogger(__name__)


class Refused(Exception):  # noqa: N818 - says what the server did
    """The server answered, but not as hoped."""

    def __init__(self, status: int, text: str) -> None:
        """Takes the last line of a traceback that the server may have sent."""
        super().__init__(text.strip().rpartition("\n")[2])
        self.status = status


class Unwell(OSError):  # noqa: N818 - says how the server is
    """The server answered with an error of its own, which may pass."""


class JobClient(JobSubmissionClient):
    """Fails within a time, where Ray's own client waits for ever on a connection that went silent."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:  # noqa: ANN401
        return super()._do_request(method, endpoint, timeout=REQUEST_SECONDS, **options)

    def _raise_error(self, r: requests.Response) -> NoReturn:
        # A head that has just started says the latter, with 500.
        if r.status_code in AWAY or "try again later" in r.text:
            raise Unwell(f"status {r.status_code}: {r.text.strip()}")
        raise Refused(r.status_code, r.text)

    def find(self, job: str) -> JobDetails | None:
        """Gives a job's details, or None where the cluster knows no job of this id."""
        try:
            return self.get_job_info(job)
        except Refused as error:
            if error.status == requests.codes.not_found:
                return None
            raise Unwell(str(error)) from error


def connect(address: str) -> JobClient:
    """Connects to a cluster's job server; tries again where a connection broke, not where nothing takes one.

    Args:
        address: Its URL.

    Returns:
        The client.

    Raises:
        Unavailable: No job server of Ray answers there.
        UserError: It wants another token, or the address cannot be one.
    """
    # Ray would prefer these to the address that is asked for.
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        os.environ.pop(name, None)
    logging.getLogger("ray").setLevel(logging.ERROR)
    for module in ("dashboard_sdk", "job.sdk"):
        logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.ERROR)
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    pauses = iter(RETRY_SECONDS)
    while True:
        try:
            return JobClient(address)
        except AuthenticationError as error:
            raise wants_token(address) from error
        except LOST as error:
            pause = next(pauses, None)
            if pause is None or not _passes(error):
                raise Unavailable(
                    f"{address}: no Ray job server answers there; is port 8265 of the head reachable?"
                ) from error
            log.warning("%s: the job server does not answer; trying again in %d s", address, pause)
            time.sleep(pause)
        except (RuntimeError, KeyError) as error:
            raise Unavailable(f"{address}: what answers there is no Ray job server ({error})") from error
        except ValueError as error:
            raise UserError(f"{address}: {error}") from error


def _passes(error: BaseException) -> bool:
    """Tells a connection that broke, and a server that is away for a while, from one that nothing takes."""
    cause: BaseException | None = error
    # Ray's client and those below it each hide what went wrong behind an error of their own.
    while cause is not None:
        if isinstance(cause, requests.HTTPError) and cause.response is not None:
            return cause.response.status_code in AWAY
        if isinstance(cause, BROKEN):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
