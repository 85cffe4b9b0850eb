"""``grepr submit``: a command as a job on a Ray cluster, by Ray's Job API.

The command is checked here by the same parser that reads it there. grepr's own packages travel with the job, so the
cluster runs the version that was typed; what they depend on is part of the cluster's image or of ``--runtime-env``.
"""

import dataclasses
import logging
import os
import re
import shlex
import time
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from grepr_core.bundles.bundle_files import built_in_bundles
from grepr_core.errors import Unavailable, UserError, without_secrets
from grepr_core.storage import absolute, is_file_url, is_local
from jobs.exit_codes import DONE, FAILED, INTERRUPTED
from jobs.job_client import LOST, RETRY_SECONDS, JobClient, Refused, connect
from jobs.job_log import follow
from pipelines.options import SubmitOptions

log = logging.getLogger(__name__)

#: What travels with a job.
PACKAGES = ("grepr", "grepr_core", "pipelines", "jobs")
#: Options of commands that name a file or folder.
PLACES = {"source", "output", "manifest", "scores", "since", "ratings", "images", "ratings_images", "pristine"}
#: Those that may also be a name, such as ``grepr-lite`` or ``open_clip:RN50``.
PLACES_OR_NAMES = {"model", "bundle", "low", "high", "pretrained"}
#: Tells, under this key of a job's metadata, one submission from another with the same id.
MARK = "grepr_submission"

_SECRET = re.compile("key|secret|token|password|sas|connection_string|credential|authorization|cookie", re.IGNORECASE)


def run(options: SubmitOptions, command: object | None) -> int:
    """Submits a job, or attaches to one that was submitted before, and follows its log if asked to.

    Args:
        options: Of the command.
        command: The options of the command that the job runs, as its parser gives them; None attaches.

    Returns:
        The exit code: of the job if it was followed, else 0.

    Raises:
        Unavailable: The job server does not answer, or no longer.
        UserError: The command cannot run on the cluster, the id is taken, or the job server refuses.
    """
    if command is not None:
        check_places(command)
        check_secrets(command)
    environment = runtime_env(options) if command is not None else {}
    client = connect(options.address)
    job = (
        options.submission_id or f"grepr-{options.command[0]}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
    )
    runs = "may have been handed over already"
    try:
        if command is not None:
            _submit(client, job, shlex.join(["python", "-m", "grepr", *options.command]), environment, options)
            log.info("submitted as %s", job)
        runs = "runs on"
        if not options.follow:
            log.info(_hint(job, options))
            return DONE
        info = follow(client, job)
    except KeyboardInterrupt:
        log.warning("%s %s. %s", job, runs, _hint(job, options))
        return INTERRUPTED
    except LOST as error:
        raise Unavailable(f"{options.address}: lost, while {job} may run on: {error}. {_hint(job, options)}") from error
    return _exit_code(job, info)


def _submit(client: JobClient, job: str, entrypoint: str, environment: dict[str, Any], options: SubmitOptions) -> None:
    mark = uuid.uuid4().hex
    for pause in (*RETRY_SECONDS, None):
        try:
            client.submit_job(entrypoint=entrypoint, submission_id=job, runtime_env=environment, metadata={MARK: mark})
            return
        except LOST as error:
            if pause is None:
                raise Unavailable(f"{options.address}: the job could not be handed over: {error}") from error
            log.warning("%s: %s; trying again in %d s", options.address, error, pause)
            time.sleep(pause)
        except Refused as error:
            there = client.find(job)
            if there is None:
                raise UserError(f"{options.address}: the cluster refuses the job: {error}") from error
            # Where the connection broke before the answer, the job that is there is this one.
            if (there.metadata or {}).get(MARK) == mark:
                return
            raise UserError(_taken(job, there, options)) from error
        except (ValueError, TypeError) as error:
            raise UserError(f"{options.runtime_env or 'runtime environment'}: {error}") from error


def _taken(job: str, there: Any, options: SubmitOptions) -> str:  # noqa: ANN401 - Ray's details of a job
    told = f"--submission-id {job}: the cluster has a job of this id already, which "
    if not there.status.is_terminal():
        return f"{told}is {there.status.value}. {_hint(job, options)}"
    return (
        f"{told}ended as {there.status.value}. Submit the command under another id: with the same output it goes on "
        "where that one ended"
    )


def _hint(job: str, options: SubmitOptions) -> str:
    return (
        f"Follow it: grepr submit --address {options.address} --submission-id {job} --follow. "
        f"Stop it: ray job stop --address {options.address} {job}"
    )


def _exit_code(job: str, info: Any) -> int:  # noqa: ANN401 - Ray's details of a job
    if info.status.value == "STOPPED":
        log.warning("%s was stopped; the same command, submitted again, goes on where it ended", job)
        return INTERRUPTED
    code: int | None = info.driver_exit_code
    if info.status.value == "SUCCEEDED":
        return DONE
    if code is None:
        log.error("%s %s: %s", job, info.status.value, info.message)
        return FAILED
    # As a shell tells of a process that a signal has ended.
    code = 128 - code if code < 0 else code
    log.error("%s ended with exit code %d", job, code)
    return code


def runtime_env(options: SubmitOptions) -> dict[str, Any]:
    """Gives the job's runtime environment: that of ``--runtime-env``, with grepr itself and what ``--env`` names.

    Raises:
        UserError: The file cannot be used, or a variable is not set.
    """
    environment = _read_runtime_env(options.runtime_env) if options.runtime_env is not None else {}
    variables = dict(environment.get("env_vars") or {})
    for name in filter(None, options.env.split(",")):
        if name not in os.environ:
            raise UserError(f"--env {name}: no environment variable of this name is set here")
        variables[name] = os.environ[name]
    return {
        **environment,
        "env_vars": variables,
        "py_modules": [*(environment.get("py_modules") or []), *map(str, own_folders())],
        "excludes": [*(environment.get("excludes") or []), "__pycache__"],
    }


def own_folders() -> list[Path]:
    """Gives the folders of grepr's packages, and of the metadata that tells its version; some 25 MB, mostly weights."""
    packages = [Path(str(files(name))) for name in PACKAGES]
    installed = distribution("grepr")
    (metadata,) = (file for file in installed.files or [] if file.name == "METADATA")
    return [*packages, Path(str(installed.locate_file(metadata))).parent]


def _read_runtime_env(path: str) -> dict[str, Any]:
    try:
        value = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--runtime-env {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise UserError(f"--runtime-env {path}: neither YAML nor JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"--runtime-env {path}: holds no mapping such as 'env_vars: {{NAME: value}}'")
    return value


def check_places(command: object) -> None:
    """Refuses what a job could not find or would lose, and warns of what every node must have mounted.

    Args:
        command: Options of the command to be submitted.

    Raises:
        UserError: A place is named by a path that means something on this machine only.
    """
    mounted = []
    for name, value in _fields(command):
        if name not in PLACES | PLACES_OR_NAMES or not isinstance(value, str) or not is_local(value):
            continue
        path = absolute(value) if is_file_url(value) else value
        if name in PLACES_OR_NAMES and (value in built_in_bundles() or not Path(path).exists()):
            continue
        if not Path(path).is_absolute():
            raise UserError(
                f"{value}: a path from this folder of this machine; a job needs a URL such as s3://bucket/folder, or "
                "an absolute path of a file system that every node has mounted"
            )
        mounted.append(value)
    if mounted:
        log.warning(
            "%s: has to be the same on every node of the cluster, as on a shared file system", ", ".join(mounted)
        )


def check_secrets(command: object) -> None:
    """Refuses credentials on a command line that Ray shows in the job's log and on its dashboard.

    Args:
        command: Options of the command to be submitted.

    Raises:
        UserError: The storage options or a URL hold some.
    """
    for name, value in _fields(command):
        if isinstance(value, str) and without_secrets(value) != value:
            raise UserError(
                f"{value}: its password or signature would be readable in the log of the job and on the dashboard; let "
                "the cluster's machines have a role, or name it in a table of URIs"
            )
        if name == "storage_options" and (found := next(filter(_SECRET.search, _keys(value)), None)):
            raise UserError(
                f"--storage-options: {found!r} would be readable in the log of the job and on the dashboard; let the "
                "cluster's machines have a role, or hand over environment variables by --env"
            )


def _fields(options: object) -> Iterator[tuple[str, object]]:
    for field in dataclasses.fields(options):  # type: ignore[arg-type]
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            yield from _fields(value)
        else:
            yield field.name, value


def _keys(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from _keys(item)
