"""Who may ask: tokens, names, origins, and the headers that keep browsers strict."""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from aiohttp import typedefs as types
from aiohttp import web

from streamflow.web.problems import Handler, Problem
from streamflow.web.settings import WebSettings

API_POLICY: Final = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
# Open without a token: they hold no data, and a probe or a first page view has none.
OPEN_PATHS: Final = frozenset({"/", "/healthz", "/readyz"})
OPEN_PREFIX: Final = ("/static/", "/console/")
# The WebSocket takes its token in the header or in `init`, since browsers can't set the header.
OWN_CHECK: Final = frozenset({"/v1/ws"})

READ_HEADERS: Final = (
    "Host", "Origin", "Authorization", "Accept", "If-None-Match", "Last-Event-ID",
    "Streamflow-Peer", "Streamflow-App",
)  # fmt: skip

APP_HEADER: Final = "Streamflow-App"
"""Which app is meant: an address may be another app's by now. Browsers and others send none."""

PAGES: Final = web.AppKey("PAGES", frozenset)
"""Resources of the user's app: none is open without a token, and what they embed is theirs to say."""


class Guard:
    """Decides about tokens, host names and origins by the settings."""

    def __init__(self, settings: WebSettings, url: str) -> None:
        self.tokens = tuple(token.encode() for token in settings.tokens)
        self.origins = frozenset(origin.rstrip("/") for origin in settings.allowed_origins)
        known = (*settings.allowed_hosts, settings.host, urlsplit(url).hostname or "", socket.gethostname())
        self.hosts = frozenset(name.lower() for name in known if name)

    def token_ok(self, token: str | None) -> bool:
        """Compares with every token in constant time. Everything is open when no token is set."""
        if not self.tokens:
            return True
        if token is None:
            return False
        shown = token.encode(errors="surrogatepass")
        # A list, not any(): how long it takes must not tell which token came close.
        return any([hmac.compare_digest(shown, known) for known in self.tokens])  # noqa: C419

    def request_ok(self, request: web.BaseRequest) -> bool:
        return self.token_ok(bearer(request))

    def host_ok(self, request: web.BaseRequest) -> bool:
        """Without tokens, a page of a foreign name that resolves to us (DNS rebinding) must not read us.

        Addresses, and names without a dot, can't be such a name.
        """
        if self.tokens:
            return True
        host = host_name(request.headers.get("Host", ""))
        if host in self.hosts or "." not in host or host.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return True

    def origin_ok(self, request: web.BaseRequest) -> bool:
        """Browsers send the origin of the page with every WebSocket; other clients send none."""
        origin = request.headers.get("Origin")
        if origin is None:
            return True
        if origin.rstrip("/") in self.origins:
            return True
        return origin != "null" and urlsplit(origin).netloc.lower() == request.headers.get("Host", "").lower()


def host_name(authority: str) -> str:
    """The name in ``name:port`` or ``[address]:port``, in lower case and without brackets."""
    if authority.startswith("["):
        return authority[1:].partition("]")[0].lower()
    return authority.partition(":")[0].lower()


def bearer(request: web.BaseRequest) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token else None


def check_headers(request: web.BaseRequest) -> None:
    """Raises Problem 400 where a header that is read here is not ASCII. Its value is told to nobody."""
    for name in READ_HEADERS:
        if not all(value.isascii() for value in request.headers.getall(name, ())):
            raise Problem(400, "bad-request", f"the header {name} is not ASCII")


def is_page(request: web.Request) -> bool:
    """Is it for a page of the user's app, and not for one of our own addresses?"""
    return request.match_info.route.resource in request.app[PAGES]


def check_app(request: web.BaseRequest, guard: Guard, app_id: str) -> None:
    """Raises Problem 421 where another app is meant. Its name is told to those who show a token."""
    meant = unquote(request.headers.get(APP_HEADER, quote(app_id)))
    if meant != app_id:
        name = repr(app_id) if guard.request_ok(request) else "another name"
        raise Problem(421, "another-app", f"this is a worker of the app {name}, and not of {meant!r}")


def middleware(guard: Guard, app_id: str) -> types.Middleware:
    """Host, token, cross-origin and app checks for every request."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        path = request.path
        check_headers(request)
        if not guard.host_ok(request):
            raise Problem(403, "host-not-allowed", "call this worker by its address or a name set as allowed")
        if request.method == "OPTIONS" and request.headers.get("Origin", "").rstrip("/") in guard.origins:
            return web.Response(status=204)
        is_open = path in OPEN_PATHS or path.startswith(OPEN_PREFIX) or path in OWN_CHECK
        if (not is_open or is_page(request)) and not guard.request_ok(request):
            raise Problem(
                401,
                "unauthorized",
                "send one of the tokens of this worker: Authorization: Bearer <token>",
                headers={"WWW-Authenticate": 'Bearer realm="streamflow"'},
            )
        check_app(request, guard, app_id)
        return await handler(request)

    return guarded


def headers_signal(guard: Guard) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """Headers of every answer, streamed ones and errors too."""

    async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
        headers = response.headers
        headers.setdefault("X-Content-Type-Options", "nosniff")
        headers.setdefault("Referrer-Policy", "no-referrer")
        headers.setdefault("X-Frame-Options", "DENY")
        if not is_page(request):
            headers.setdefault("Content-Security-Policy", API_POLICY)
            headers.setdefault("Cache-Control", "no-store")
        headers["Server"] = "streamflow"
        origin = request.headers.get("Origin", "").rstrip("/")
        if guard.origins:
            headers["Vary"] = "Origin"
        if origin and origin in guard.origins:
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Allow-Headers"] = "Authorization, If-None-Match"
            headers["Access-Control-Allow-Methods"] = "GET"
            headers["Access-Control-Expose-Headers"] = "ETag, Retry-After"
        else:
            headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")

    return add_headers
