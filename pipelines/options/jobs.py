"""The options of ``grepr submit``."""

import re
from dataclasses import dataclass
from typing import Annotated

from pipelines.options.shown import Argument, File, Value


@dataclass(frozen=True, kw_only=True)
class SubmitOptions:
    """Run a command as a job on a Ray cluster, with this version of grepr.

    The same command under another id goes on where it ended. Without a command, --submission-id and --follow follow a
    job that was submitted before.

    Example: grepr submit --address http://head:8265 --follow -- score s3://lake/ s3://scores/monday
    """

    command: Annotated[tuple[str, ...], Argument("-- COMMAND")] = ()
    """What the job runs, with its options, after two dashes."""

    address: Annotated[str, Value("URL")]
    """The cluster's job server, such as http://head:8265. The cluster's token is taken from RAY_AUTH_TOKEN, the file
    that RAY_AUTH_TOKEN_PATH names, or ~/.ray/auth_token."""

    runtime_env: File | None = None
    """YAML or JSON with Ray's runtime environment of the job, such as 'env_vars' and 'pip'."""

    env: Annotated[str, Value("NAMES")] = ""
    """Environment variables, with commas between, that the job gets from here; no others are handed over."""

    submission_id: Annotated[str | None, Value("NAME")] = None
    """Of the job on the cluster; a second job of the same name is refused."""

    follow: bool = False
    """Show the job's log until it ends, and end with its exit code."""

    def __post_init__(self) -> None:
        """Checks that the options go together.

        Raises:
            ValueError: Names the option that is missing or cannot be used.
        """
        if not self.address.startswith(("http://", "https://")):
            raise ValueError("--address must be the URL of the job server, such as http://head:8265")
        if self.submission_id is not None and not re.fullmatch(r"[\w.-]+", self.submission_id):
            raise ValueError("--submission-id must be of letters, digits, '.', '_' and '-'")
        if not self.command and not (self.submission_id and self.follow):
            raise ValueError("a command must follow '--'; or --submission-id and --follow, to follow an earlier job")
