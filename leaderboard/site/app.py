"""The server of `harness view`: pages, plots and pictures of what is on this machine, for whoever sits at it.

It answers on the loopback interface, and only when the request's Host says so too (else any website could reach it through a
name of its own that points here). On another address every request must bring the token that was printed when it started.
It only ever reads. Each answer forbids the browser everything that the pages do not need.
"""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import secrets
from typing import TYPE_CHECKING

from harness.errors import RunError, UserError
from harness.records import BadImageError
from leaderboard.site.drawings import NoPlotError, draw
from leaderboard.site.library import Library
from leaderboard.site.pages import HERE, NoPageError, ServerLinks, Site
from leaderboard.site.pictures import NoPictureError, Pictures, encode
from leaderboard.site.rows import MODELS

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
#: So many runs are made ready before the first page is served: about a second.
PREPARED = 100
#: What a request may call this machine: a name that somebody else's website chose is refused.
LOOPBACK = ["127.0.0.1", "localhost", "::1", "[::1]"]
#: Where a browser keeps the token.
COOKIE = "harness_token"


def is_loopback(host: str) -> bool:
    """
    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def new_token() -> str:
    return secrets.token_urlsafe(24)


def create(library: Library, pictures: Pictures, *, host: str = "127.0.0.1", token: str | None = None) -> Starlette:
    """The application. Raises UserError where `host` can be reached by others and there is no `token`."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    if not is_loopback(host) and not token:
        raise UserError(f"--host {host}: others can reach this address, so it needs a token")
    viewer = _Viewer(library, pictures)
    routes = [
        Route("/", viewer.page),
        Route("/image.png", viewer.image),
        Route("/plots/{name}", viewer.plot),
        Mount("/static", StaticFiles(directory=HERE / "static")),
        Route("/{name}", viewer.page),
    ]
    # with a token other names are no danger, and cannot be known
    names = LOOPBACK if is_loopback(host) else ["*"]
    middleware = [
        Middleware(Headers),
        Middleware(TrustedHostMiddleware, allowed_hosts=names, www_redirect=False),
        *([Middleware(_Token, token=token)] if token else []),
    ]
    return Starlette(routes=routes, middleware=middleware, exception_handlers={500: failed})


def prepare(library: Library, pictures: Pictures) -> None:
    """Make the pages that are opened first, so that nobody waits for imports. Raises UserError as `Library` does."""
    shelf = library.shelf()
    site = Site(shelf, pictures, ServerLinks())
    site.page("index.html")
    with contextlib.suppress(RunError):  # whoever opens that page is told
        # whose answers stand beside those of any other run on the same rows
        best = [shelf.of(cell).path for shown in shelf.tables.values() for cell in shown.cells[:MODELS]]
        shelf.browser.prepare(best[:PREPARED])
        if shelf.cells:
            site.page(f"samples-{shelf.of(shelf.cells[0]).id}.html")


def failed(request: Request, error: Exception) -> Response:
    """What went wrong is in the server's log. Starlette answers this outside all middleware."""
    from starlette.responses import PlainTextResponse

    return PlainTextResponse("Something went wrong; the terminal in which this was started says what.", 500, headers=HEADERS)


class _Viewer:
    """The endpoints. Starlette runs them in threads, so a slow page holds up no other."""

    def __init__(self, library: Library, pictures: Pictures) -> None:
        self.library, self.pictures = library, pictures

    def _site(self) -> Site:
        return Site(self.library.shelf(), self.pictures, ServerLinks())

    def page(self, request: Request) -> Response:
        from starlette.responses import HTMLResponse

        site = self._site()
        try:
            return HTMLResponse(site.page(request.path_params.get("name", "index.html"), request.query_params))
        except NoPageError as e:
            return HTMLResponse(site.missing(str(e)), status_code=404)
        except RunError as e:
            return HTMLResponse(site.missing(str(e)), status_code=500)

    def plot(self, request: Request) -> Response:
        from starlette.responses import PlainTextResponse, Response

        name, site = request.path_params["name"], self._site()
        try:
            drawn = draw(site.shelf, site.slice_keys, name)
        except NoPlotError:
            return PlainTextResponse("no such plot", status_code=404)
        return Response(drawn, media_type="image/png" if name.endswith(".png") else "image/svg+xml")

    def image(self, request: Request) -> Response:
        from starlette.responses import PlainTextResponse, Response

        query, shelf = request.query_params, self.library.shelf()
        run, number = shelf.runs.get(query.get("run", "")), query.get("n", "0")
        if run is None or not number.isdecimal() or len(number) > 3:
            return PlainTextResponse("no such picture", status_code=404)
        try:
            row = shelf.browser.sample(run.path, query.get("row", ""))
            return Response(encode(self.pictures.find(run.card, row)[int(number)]), media_type="image/png")
        except (UserError, NoPictureError, BadImageError, IndexError) as e:
            return PlainTextResponse(f"no picture: {e}", status_code=404)


class Headers:
    """Sets HEADERS on every answer, whoever gives it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                from starlette.datastructures import MutableHeaders

                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)


class _Token:
    """Lets nobody in without the token: in the address once, then in a cookie that only this site gets; or as a bearer."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token

    def _is(self, given: str | None) -> bool:
        return given is not None and hmac.compare_digest(given.encode(errors="replace"), self.token.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.requests import Request
        from starlette.responses import PlainTextResponse, RedirectResponse

        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        if self._is(request.cookies.get(COOKIE)) or (scheme.lower() == "bearer" and self._is(bearer)):
            await self.app(scope, receive, send)
        elif self._is(request.query_params.get("token")):
            rest = request.url.remove_query_params("token").query
            answer = RedirectResponse(f"/{request.url.path.lstrip('/')}{f'?{rest}' if rest else ''}", 303)
            answer.set_cookie(COOKIE, self.token, httponly=True, samesite="strict")
            await answer(scope, receive, send)
        else:
            refused = PlainTextResponse("This viewer needs the token that `harness view` printed when it started.", 403)
            await refused(scope, receive, send)
