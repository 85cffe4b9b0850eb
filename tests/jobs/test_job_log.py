"""Following a log from a job server that loses connections at the worst places."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from aiohttp import WSCloseCode, web

import jobs.job_log
from grepr_core.errors import UserError
from jobs.job_client import JobClient
from jobs.job_log import WithoutStateDump, follow

#: As Ray's server cuts a log into messages.
PIECES = [
    "started\n",
    "ä line\nand",
    " its end\n",
    "an equal line\n",
    "an equal line\n    [state-",
    "dump] Node name: 192.0.2.2\n",
    "the last\n",
]
END = "written while the connection was away\n"
SHOWN = "started\nä line\nand its end\nan equal line\nan equal line\nthe last\n" + END


class Server:
    """Speaks Ray's protocol of jobs, and breaks off after one more message at every connection, in one of three ways.

    Attributes:
        tails: How often the log was asked for.
        silent: Whether it goes silent instead of breaking off.
    """

    def __init__(self, *, silent: bool = False) -> None:
        self.tails = 0
        self.requests = 0
        self.silent = silent

    async def version(self, request: web.Request) -> web.Response:
        return web.json_response({"ray_version": "2.60.0", "version": "4", "ray_commit": "", "session_name": ""})

    async def details(self, request: web.Request) -> web.Response:
        self.requests += 1
        if request.match_info["job"] != "job":
            raise web.HTTPNotFound(text="does not exist")
        if self.requests % 3 == 0:
            raise web.HTTPInternalServerError(text="Traceback: of the server")
        done = self.tails > len(PIECES)
        status = {"status": "SUCCEEDED" if done else "RUNNING", "driver_exit_code": 0 if done else None}
        return web.json_response({"type": "SUBMISSION", "entrypoint": "", **status})

    async def logs(self, request: web.Request) -> web.Response:
        return web.json_response({"logs": "".join(PIECES) + END})

    async def tail(self, request: web.Request) -> web.WebSocketResponse:
        self.tails += 1
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        for piece in PIECES[: self.tails]:
            await socket.send_str(piece)
        if self.silent:
            await socket.receive()
        elif self.tails % 3 == 0:
            assert request.transport is not None
            request.transport.abort()
        elif self.tails % 3 == 1:
            await socket.close(code=WSCloseCode.INTERNAL_ERROR)
        return socket


@contextmanager
def running(server: Server) -> Iterator[str]:
    app = web.Application()
    app.add_routes(
        [
            web.get("/api/version", server.version),
            web.get("/api/jobs/{job}", server.details),
            web.get("/api/jobs/{job}/logs", server.logs),
            web.get("/api/jobs/{job}/logs/tail", server.tail),
        ]
    )
    loop, runner = asyncio.new_event_loop(), web.AppRunner(app, shutdown_timeout=0.1)
    loop.run_until_complete(runner.setup())
    site = web.TCPSite(runner, "127.0.0.1", 0)
    loop.run_until_complete(site.start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield "http://{}:{}".format(*runner.addresses[0])
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(timeout=10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=10)
        loop.close()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jobs.job_log, "PAUSE_SECONDS", (0.01, 0.02))


@pytest.mark.parametrize("silent", [False, True])
def test_no_line_is_lost_or_shown_twice(silent: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jobs.job_log, "SILENCE_SECONDS", 0.2)
    shown: list[str] = []
    server = Server(silent=silent)
    with running(server) as address:
        info = follow(JobClient(address), "job", shown.append)
    assert "".join(shown) == SHOWN
    assert info.driver_exit_code == 0
    assert server.tails > len(PIECES)


def test_a_job_that_nobody_knows():
    with running(Server()) as address, pytest.raises(UserError, match="knows no job other"):
        follow(JobClient(address), "other")


def test_a_server_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch):
    with running(Server()) as address:
        client = JobClient(address)
    monkeypatch.setattr(jobs.job_log, "PATIENCE_SECONDS", 0.1)
    with pytest.raises(OSError):
        follow(client, "job")


#: Of the ways in which Ray's state gets into the log of a job.
DUMP = [
    "[2026-11-26 18:51:44,066 I 21613 21613] (raylet) node_manager.cc:492: [state-dump] NodeManager:\n",
    "[state-dump] Node name: 192.0.2.2\n",
    "    [state-dump] \tNodeManager.deadline_timer.debug_state_dump - 306 total (1 active)\n",
    "    [state-dump] \n",
    "    [2026-11-26 18:51:44,066 I 21613 21613] (raylet) node_manager.cc:492: [state-dump] NodeManager:\n",
    "\x1b[36m(raylet, ip=192.0.2.2)\x1b[0m [state-dump] Local id: 2363376039675338545\n",
    "(raylet) [state-dump] Waiting leases size: 0\n",
]
#: What looks like it, and is shown.
OTHER = [
    "(raylet) Raylet is terminated. Last 20 lines of the Raylet logs:\n",
    "    [2026-11-26 18:51:41,697 I 1568506 1568506] (raylet) accessor.cc:436: Received address\n",
    "\n",
    "s3://lake/[state-dump].jpg: unreadable\n",
    "scoring:  50%\rscoring: 100%\r",
    "[1, 2]\n",
    "  no line end",
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 40, 10_000])
def test_rays_state_is_left_out_wherever_the_log_is_cut(size: int):
    log = "".join(line for lines in zip(DUMP, OTHER, strict=True) for line in lines)
    shown: list[str] = []
    lines = WithoutStateDump(shown.append)
    for start in range(0, len(log), size):
        lines.write(log[start : start + size])
    lines.flush()
    assert "".join(shown) == "".join(OTHER)


def test_an_unfinished_line_is_shown_at_once_unless_it_may_be_of_rays_state():
    shown: list[str] = []
    lines = WithoutStateDump(shown.append)
    for piece in ("scoring: ", "[state-dump] is no line of its own", "\n", "  [state"):
        lines.write(piece)
    assert shown == ["scoring: ", "[state-dump] is no line of its own", "\n"]
    lines.flush()
    assert shown[-1] == "  [state"
