"""The server of `harness annotate`: each rater has a folder of pages, and nobody else's.

    /RATER/             the guide                   POST /RATER/7       what the rater says of place 7, as JSON
    /RATER/7            place 7                     POST /RATER/undo    the last word taken back
    /RATER/7.0.png      the image of place 7        /RATER/example.0.png

A rater's address holds a token, which a cookie for their own folder then keeps: two raters may even share a browser. Nothing
is written unless the request comes from a page of this server (Origin), and on loopback only requests that call this machine
by its own name are answered (Host), so no website can write through somebody's browser.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import Field, ValidationError

from harness.records import BadImageError, ImageRef, Record
from harness.shown import duration
from judges.human.desk import Desk
from judges.human.site import guide, pages
from judges.human.study import Word
from leaderboard.site import app as viewer
from leaderboard.site.pages import HERE as VIEWER
from leaderboard.site.pictures import NoPictureError, Pictures, encode

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

#: Bytes of a request; a comment has at most COMMENT letters.
LONGEST, COMMENT = 64_000, 10_000
COOKIE = "harness_rater"


class Said(Record):
    """What a page sends: the whole of what stands on it, and the seconds since it last sent."""

    final: Word | None
    reasoning: Word | None
    comment: str = Field(default="", max_length=COMMENT)
    seconds: float = Field(default=0.0, ge=0, le=1e6, allow_inf_nan=False)


def create(desk: Desk, pictures: Pictures, *, host: str = "127.0.0.1") -> Starlette:
    """The application."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    rooms = _Rooms(desk, pictures)
    names = viewer.LOOPBACK if viewer.is_loopback(host) else ["*"]
    return Starlette(
        routes=[
            Mount("/static", StaticFiles(directory=VIEWER / "static")),
            Mount("/annotate", StaticFiles(directory=Path(pages.HERE) / "static")),
            Route("/{rater}/", rooms.of(rooms.guide)),
            Route("/{rater}/undo", rooms.of(rooms.undo), methods=["POST"]),
            Route("/{rater}/example.{n:int}.png", rooms.of(rooms.example)),
            Route("/{rater}/{place:int}", rooms.of(rooms.question), methods=["GET"]),
            Route("/{rater}/{place:int}", rooms.of(rooms.say), methods=["POST"]),
            Route("/{rater}/{place:int}.{n:int}.png", rooms.of(rooms.image)),
            Route("/{rest:path}", _nothing),
        ],
        middleware=[
            Middleware(viewer.Headers),
            Middleware(TrustedHostMiddleware, allowed_hosts=names, www_redirect=False),
        ],
        exception_handlers={500: viewer.failed},
    )


Endpoint = Callable[["Request", str], Awaitable["Response"]]


class _Rooms:
    """The endpoints, each for one rater."""

    def __init__(self, desk: Desk, pictures: Pictures) -> None:
        self.desk, self.pictures = desk, pictures
        self.encoded = lru_cache(maxsize=64)(_encode)

    def of(self, endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
        """The endpoint behind the rater's own door."""

        async def guarded(request: Request) -> Response:
            rater = request.path_params["rater"]
            given = request.query_params.get("token")
            if rater not in self.desk.study.order or not self._is(rater, given or request.cookies.get(COOKIE)):
                return _refused("This page needs the address that `harness annotate` printed for you.")
            if given is not None:
                return self._let_in(request, rater)
            if request.method == "POST" and not _from_here(request):
                return _refused("This request does not come from a page of this server.")
            return await endpoint(request, rater)

        return guarded

    def _is(self, rater: str, given: str | None) -> bool:
        return given is not None and hmac.compare_digest(given.encode(errors="replace"), self.desk.token(rater).encode())

    def _let_in(self, request: Request, rater: str) -> Response:
        from starlette.responses import RedirectResponse

        answer = RedirectResponse(f"/{rater}/", 303)
        answer.set_cookie(COOKIE, self.desk.token(rater), path=f"/{rater}/", httponly=True, samesite="strict")
        return answer

    async def guide(self, request: Request, rater: str) -> Response:
        return await _page(pages.guide_page, self.desk, rater)

    async def question(self, request: Request, rater: str) -> Response:
        place = request.path_params["place"]
        if not 1 <= place <= self.desk.places(rater):
            return await _nothing(request)
        return await _page(pages.question_page, self.desk, self.pictures, rater, place)

    async def say(self, request: Request, rater: str) -> Response:
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import JSONResponse, PlainTextResponse

        place = request.path_params["place"]
        if not 1 <= place <= self.desk.places(rater):
            return await _nothing(request)
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > LONGEST:
                return PlainTextResponse("too long", 413)
        try:
            said = Said.model_validate_json(body)
        except ValidationError as e:
            return PlainTextResponse(f"not a verdict: {e.errors()[0]['msg']}", 400)
        await run_in_threadpool(self.desk.say, rater, place, said.final, said.reasoning, said.comment, said.seconds)
        done, spent = len(self.desk.done(rater)), self.desk.seconds(rater)
        return JSONResponse({"done": done, "spent": duration(spent), "next": self.desk.next(rater, place)})

    async def undo(self, request: Request, rater: str) -> Response:
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import JSONResponse

        return JSONResponse({"place": await run_in_threadpool(self.desk.undo, rater)})

    async def image(self, request: Request, rater: str) -> Response:
        place, n = request.path_params["place"], request.path_params["n"]
        if not 1 <= place <= self.desk.places(rater):
            return await _nothing(request)
        return await _png(lambda: self.encoded(self.pictures.find(*self.desk.row(rater, place))[n]))

    async def example(self, request: Request, rater: str) -> Response:
        return await _png(lambda: self.encoded(guide.rows()[request.path_params["n"]].images[0]))


def _encode(image: ImageRef) -> bytes:
    return encode(image)


async def _page(make: Callable[..., str], *what: object) -> Response:
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import HTMLResponse

    return HTMLResponse(await run_in_threadpool(make, *what))


async def _png(make: Callable[[], bytes]) -> Response:
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import PlainTextResponse, Response

    try:
        return Response(await run_in_threadpool(make), media_type="image/png")
    except (NoPictureError, BadImageError, IndexError):  # the reason may name a file
        return PlainTextResponse("no picture", 404)


async def _nothing(request: Request) -> Response:
    from starlette.responses import HTMLResponse

    return HTMLResponse(pages.missing_page("There is no such page."), 404)


def _refused(why: str) -> Response:
    from starlette.responses import HTMLResponse

    return HTMLResponse(pages.missing_page(why), 403)


def _from_here(request: Request) -> bool:
    """Whether a page of this server sent it: browsers name the origin of every POST, and no page can change that."""
    origin = request.headers.get("origin", "")
    return bool(origin) and urlsplit(origin).netloc == request.headers.get("host")
