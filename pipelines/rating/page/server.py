"""The web server of the page.

It listens on the loopback address only, unless a person names another. Who does not know the token in the page's
address gets nothing; and a page of the internet whose name was made to point to this machine is told by the ``Host``
header, which then holds that name. The token is told to nobody: requests are not logged, and browsers send no referrer.
"""

import errno
import json
import logging
import secrets
import sys
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from grepr_core.decoding.images import Failure, Limits
from pipelines.lake.image_reader import ImageReader
from pipelines.rating.journal import SCALE, RatingJournal
from pipelines.rating.page.addresses import is_loopback, listen, names_this_machine, origins
from pipelines.rating.page.qr_code import in_terminal
from pipelines.rating.page.shown import MOST_SHOWN_PIXELS, for_browser

log = logging.getLogger(__name__)

#: The least copy of a photo that can be asked for, in pixels; none is that of a screen.
LEAST_PIXELS = 10_000
LONGEST_NAME = 64
LONGEST_REQUEST = 4096
#: Seconds that an unfinished answer may hold up the end.
GRACE = 2
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class _Guard:
    """Lets through who knows the token, which is the first part of every path, and adds the headers of security.

    What was sent to a name that is not this machine's is refused first.
    """

    def __init__(self, app: ASGIApp, token: str, host: str) -> None:
        self._app = app
        self._token = token.encode()
        self._host = host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
            await send(message)

        first = scope["path"].encode().split(b"/")[1:2]
        known = first and secrets.compare_digest(first[0], self._token)
        app = self._app
        if not names_this_machine(Headers(scope=scope).get("host", ""), self._host):
            app = PlainTextResponse("the page is at an address of this machine only", 400)
        elif not known:
            app = PlainTextResponse("open the address that the command printed", 403)
        await app(scope, receive, send_with_headers)


class _Page:
    """What the page asks for. Reading photos and flushing ratings to the disk happen in threads."""

    def __init__(self, journal: RatingJournal, reader: ImageReader, limits: Limits, finish: Callable[[], None]) -> None:
        self._journal = journal
        self._reader = reader
        self._limits = limits
        self._finish = finish

    def photo(self, request: Request) -> Response:
        number = request.path_params["number"]
        if number >= len(self._journal.photos):
            raise HTTPException(404)
        pixels = _pixels(request.query_params.get("pixels", str(MOST_SHOWN_PIXELS)))
        content = self._reader.read(self._journal.photos[number].entry).content
        shown = content if isinstance(content, Failure) else for_browser(content, self._limits, pixels)
        if isinstance(shown, Failure):
            return PlainTextResponse(f"{shown.status}: {shown.error}", 422)
        headers = {"Cache-Control": "private, max-age=86400"}
        if shown.full_size:
            headers["X-Full-Size"] = "x".join(map(str, shown.full_size))
        return Response(shown.content, media_type=shown.media_type, headers=headers)

    def raters(self, request: Request) -> Response:
        return JSONResponse(self._journal.raters())

    def state(self, request: Request) -> Response:
        return self._state(_name(request.query_params.get("rater")))

    async def rate(self, request: Request) -> Response:
        body = await _body(request)
        rater, slot, rating = _name(body.get("rater")), body.get("slot"), body.get("rating")
        if type(slot) is not int or not 0 <= slot < len(self._journal.slots):
            raise HTTPException(400, "no such photo")
        if rating is not None and (type(rating) is not int or rating not in SCALE):
            raise HTTPException(400, "a rating is a number from 1 to 5")
        # What was decided before, by an earlier try whose answer got lost or in another tab, stays as it is.
        await run_in_threadpool(self._journal.rate, rater, slot, rating)
        return self._state(rater)

    async def undo(self, request: Request) -> Response:
        body = await _body(request)
        rater, slot = _name(body.get("rater")), body.get("slot")
        if type(slot) is not int:
            raise HTTPException(400, "no such photo")
        await run_in_threadpool(self._journal.undo, rater, slot)
        return self._state(rater)

    async def finish(self, request: Request) -> Response:
        self._finish()
        return JSONResponse({})

    def _state(self, rater: str) -> Response:
        slots, upcoming, last = self._journal.slots, self._journal.upcoming(rater), self._journal.last(rater)
        state: dict[str, Any] = {
            "total": len(slots),
            "done": len(slots) - len(upcoming),
            "upcoming": [{"slot": slot, "photo": slots[slot].photo} for slot in upcoming[:2]],
            "last": None if last is None else dict(zip(("slot", "rating"), last, strict=True)),
        }
        if not upcoming:
            state["consistency"] = str(self._journal.consistency(rater))
        return JSONResponse(state)


def make_app(
    journal: RatingJournal, reader: ImageReader, *, limits: Limits, token: str, host: str, finish: Callable[[], None]
) -> Starlette:
    """Makes the web application.

    Args:
        journal: Of the ratings.
        reader: Of the photos.
        limits: Larger photos are not shown.
        token: First part of every path.
        host: What the person calls this machine, which requests may call it too.
        finish: Is called when the person is done.

    Returns:
        The application.
    """
    page = _Page(journal, reader, limits, finish)
    routes = [
        Route("/photos/{number:int}", page.photo),
        Route("/api/raters", page.raters),
        Route("/api/state", page.state),
        Route("/api/rate", page.rate, methods=["POST"]),
        Route("/api/undo", page.undo, methods=["POST"]),
        Route("/api/finish", page.finish, methods=["POST"]),
        Mount("/", StaticFiles(packages=[(__package__, "static")], html=True)),
    ]
    return Starlette(
        routes=[Mount(f"/{token}", routes=routes)],
        exception_handlers={OSError: _not_kept},
        middleware=[Middleware(_Guard, token=token, host=host)],
    )


def serve(
    journal: RatingJournal,
    reader: ImageReader,
    *,
    limits: Limits,
    host: str,
    port: int,
    announce: Callable[[str], None],
) -> None:
    """Serves the page until the person finishes it there, or interrupts the process.

    Args:
        journal: Of the ratings.
        reader: Of the photos.
        limits: Larger photos are not shown.
        host: Address or name of this machine to listen on, 0.0.0.0 or :: for all of its addresses.
        port: To listen on; 0 for any that is free.
        announce: Is told the page's addresses, a line each.

    Raises:
        UserError: The host is none of this machine, or the port is taken.
        KeyboardInterrupt: The process was interrupted, and the server has ended.
    """
    with listen(host, port) as listener:

        def finish() -> None:
            server.should_exit = True

        token = secrets.token_urlsafe(24)
        app = make_app(journal, reader, limits=limits, token=token, host=host, finish=finish)
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE)
        )
        links = [f"{origin}/{token}/" for origin in origins(listener)]
        if not is_loopback(listener):
            log.warning(
                "whoever in the network has the link sees the photos and can rate them, and what is sent is not "
                "encrypted; end the command when you are done"
            )
        announce(f"rate here: {links[0]}")
        for link in links[1:]:
            announce(f"from other devices in the network: {link}")
        # What a phone's camera reads is of use on a screen alone.
        if not is_loopback(listener) and sys.stdout.isatty() and (code := in_terminal(links[min(1, len(links) - 1)])):
            announce(code)
        server.run(sockets=[listener])


def _not_kept(request: Request, error: Exception) -> Response:
    """Answers where the disk did not take a rating; the page tries again."""
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    log.warning("a rating could not be saved: %s; the page tries again", reason)
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return PlainTextResponse(reason, 507 if full else 500)


def _pixels(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= LEAST_PIXELS):
        raise HTTPException(400, f"pixels is a number from {LEAST_PIXELS:,} on")
    return int(text)


def _name(value: object) -> str:
    name = " ".join(value.split()) if isinstance(value, str) else ""
    if not (0 < len(name) <= LONGEST_NAME and name.isprintable()):
        raise HTTPException(400, f"a rater's name has 1 to {LONGEST_NAME} characters")
    return name


async def _body(request: Request) -> dict[str, Any]:
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > LONGEST_REQUEST:
            raise HTTPException(413)
    try:
        body = json.loads(content)
    except ValueError as error:
        raise HTTPException(400, "no JSON") from error
    if not isinstance(body, dict):
        raise HTTPException(400, "no JSON object")
    return body
