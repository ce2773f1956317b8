"""Who may ask: tokens, names, origins, and the headers that keep browsers strict."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from math import ceil
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from aiohttp import typedefs as types
from aiohttp import web

from streamflow.web import tls
from streamflow.web.guesses import Guesses
from streamflow.web.jwt_tokens import JwtTokens
from streamflow.web.problems import Handler, Problem
from streamflow.web.rights import (
    EVERYTHING,
    NOBODY,
    Caller,
    Rule,
    caller_of,
    delegate_of,
    grants_for,
    grants_in,
    remember,
)
from streamflow.web.served import Served
from streamflow.web.settings import WebSettings
from streamflow.web.tokens import KnownTokens

log = logging.getLogger(__name__)

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
    "Streamflow-Peer", "Streamflow-App", "Streamflow-Caller",
)  # fmt: skip

PEER_HEADER: Final = "Streamflow-Peer"
"""The address of the worker that asks. It counts with a proof of `peer_proof` only."""

CALLER_HEADER: Final = "Streamflow-Caller"
"""For whom a worker asks."""

APP_HEADER: Final = "Streamflow-App"
"""Which app is meant: an address may be another app's by now. Browsers and others send none."""

PAGES: Final = web.AppKey("PAGES", frozenset)
"""Resources of the user's app: none is open without a token, and what they embed is theirs to say."""


class Guard:
    """Decides about tokens, host names and origins by the settings."""

    def __init__(self, settings: WebSettings, served: Served) -> None:
        self.tokens = KnownTokens(settings.tokens)
        self.guesses = Guesses(served.clock)
        self.rules = tuple(map(Rule.of, settings.rights))
        self.origins = frozenset(origin.rstrip("/") for origin in settings.allowed_origins)
        own = urlsplit(served.url).hostname or ""
        known = (*settings.allowed_hosts, settings.host, own, socket.gethostname())
        self.hosts = frozenset(name.lower() for name in known if name)
        self._settings = settings
        self._served = served
        self._jwt = JwtTokens(settings, served.clock) if settings.jwt_keys else None
        self._looking: dict[bytes, asyncio.Task[str | None]] = {}  # mark of a token that is being looked at

    async def identify(self, request: web.BaseRequest, token: str | None) -> Caller:
        """Who sent ``request`` with this token, or `NOBODY`. Everybody is somebody where no token is needed.

        Raises Problem 429 for an address that guesses, 503 where the issuer's keys can't be had.
        """
        if is_of_worker(request, self._settings, self._served):
            return worker(request)
        is_foreign = not self.origin_ok(request)
        if not self._settings.needs_token:
            # Whoever says that he is a worker gets fewer rows by it, and nothing else.
            asks_own_rows = PEER_HEADER in request.headers
            grants = grants_for(self.rules, "anybody", {})
            return Caller("anybody", grants, True, is_foreign, asks_own_rows)
        if token is None:
            return NOBODY
        name, claims, until_ms = self.tokens.remembered(token), dict[str, object](), None
        if name is None and self._jwt is not None and self._jwt.looks_like_one(token):
            signed = await self._jwt.claims(token)
            if signed is not None:
                name, claims, until_ms = name_in(signed.said), dict(signed.said), signed.until_ms
        if name is None:
            name = await self._look_at(request, token)
        if name is None:
            return NOBODY
        said = claims.get(self._settings.jwt_rights_claim)
        grants = (*grants_for(self.rules, name, claims), *grants_in(said, claims))
        return Caller(name, grants, True, is_foreign, until_ms=until_ms)

    async def _look_at(self, request: web.BaseRequest, token: str) -> str | None:
        """The name of a token that was not shown before; what is wrong counts."""
        address, mark = request.remote, self.tokens.mark(token)
        task = self._looking.get(mark)
        if task is not None:
            return await asyncio.shield(task)
        wait_s = self.guesses.wait_s(address)
        if wait_s > 0:
            headers = {"Retry-After": str(ceil(wait_s))}
            raise Problem(429, "too-many-guesses", "wait before you show another token", headers=headers)
        # Counted before: looking takes time, and many could be shown in the meantime.
        if self.guesses.wrong(address):
            log.warning("%s shows wrong tokens: it has to wait between them", address)
        task = asyncio.create_task(self.tokens.name_of(token))
        self._looking[mark] = task
        task.add_done_callback(lambda _: self._looking.pop(mark, None))
        name = await asyncio.shield(task)
        if name is not None:
            self.guesses.take_back(address)
        return name

    def host_ok(self, request: web.BaseRequest) -> bool:
        """Without tokens, a page of a foreign name that resolves to us (DNS rebinding) must not read us.

        Addresses, and names without a dot, can't be such a name.
        """
        if self._settings.needs_token:
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


def name_in(claims: Mapping[str, object]) -> str:
    """Fit for logs, and never the name of a token of the settings: that has no ``=``."""
    return f"sub={ascii(claims.get('sub'))[:100]}"


def peer_proof(secret: str, app_id: str, url: str) -> str:
    """By what the worker at ``url`` knows that another one asks.

    Each worker is shown another one, so that an address which is none of the app's learns nothing by it.
    """
    said = "\0".join(("streamflow-peer", app_id, url.rstrip("/")))
    return hmac.new(secret.encode(), said.encode(), hashlib.sha256).hexdigest()


def is_of_worker(request: web.BaseRequest, settings: WebSettings, served: Served) -> bool:
    """Whether a worker of this app has sent it, by its proof or its certificate."""
    if settings.ssl_client_ca_file and PEER_HEADER in request.headers:
        url = request.headers[PEER_HEADER].rstrip("/")
        is_member = any(member.url.rstrip("/") == url for member in served.members())
        if is_member and url != served.url.rstrip("/") and tls.shows_certificate_of(request, url):
            return True
    scheme, _, shown = request.headers.get("Authorization", "").partition(" ")
    if scheme != PEER_HEADER or settings.worker_secret is None:
        return False
    proof = peer_proof(settings.worker_secret, served.app_id, served.url)
    return hmac.compare_digest(proof.encode(), shown.strip().encode())


def worker(request: web.BaseRequest) -> Caller:
    """A worker that asks for itself, or with the rights of whom it asks for."""
    said = request.headers.get(CALLER_HEADER)
    name, grants = ("a worker", EVERYTHING) if said is None else delegate_of(said)
    return Caller(name, grants, is_known=True, asks_own_rows=True, is_worker=True)


def check_headers(request: web.BaseRequest) -> None:
    """Raises Problem 400 where a header that is read here is not ASCII. Its value is told to nobody."""
    for name in READ_HEADERS:
        if not all(value.isascii() for value in request.headers.getall(name, ())):
            raise Problem(400, "bad-request", f"the header {name} is not ASCII")


def is_page(request: web.Request) -> bool:
    """Is it for a page of the user's app, and not for one of our own addresses?"""
    return request.match_info.route.resource in request.app[PAGES]


def check_app(request: web.BaseRequest, app_id: str) -> None:
    """Raises Problem 421 where another app is meant. Its name is told to those who show a token."""
    meant = unquote(request.headers.get(APP_HEADER, quote(app_id)))
    if meant != app_id:
        name = repr(app_id) if caller_of(request).is_known else "another name"
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
        caller = await guard.identify(request, bearer(request))
        remember(request, caller)
        is_open = path in OPEN_PATHS or path.startswith(OPEN_PREFIX) or path in OWN_CHECK
        if (not is_open or is_page(request)) and not caller.is_known:
            raise Problem(
                401,
                "unauthorized",
                "send one of the tokens of this worker: Authorization: Bearer <token>",
                headers={"WWW-Authenticate": 'Bearer realm="streamflow"'},
            )
        check_app(request, app_id)
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
