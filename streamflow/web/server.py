"""The web application of one worker, and the server that carries it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Final

from aiohttp import web

from streamflow.errors import ConfigurationError
from streamflow.web import security
from streamflow.web.checks import check
from streamflow.web.dashboard import Dashboard
from streamflow.web.door import Door, http_logger
from streamflow.web.http.api import Api
from streamflow.web.http.dead_letters import DeadLetters
from streamflow.web.http.everyone import Everyone
from streamflow.web.http.history import History
from streamflow.web.http.late import LateEvents
from streamflow.web.http.publish import Publish
from streamflow.web.http.routes import ROUTES
from streamflow.web.http.running import Running
from streamflow.web.http.subscriptions import Subscriptions
from streamflow.web.http.topics import Topics
from streamflow.web.live.hub import Hub
from streamflow.web.live.sse import Changes
from streamflow.web.peers import Peers
from streamflow.web.problems import Handler, problem_middleware
from streamflow.web.served import Served
from streamflow.web.settings import WebSettings
from streamflow.web.tls import server_context
from streamflow.web.tokens import is_hashed

log = logging.getLogger(__name__)

PORTS_TRIED_MAX: Final = 100
WILDCARDS: Final = frozenset({"", "0.0.0.0", "::"})
SHUTDOWN_S: Final = 2.0
HUB: Final = web.AppKey("HUB", Hub)


Extend = Callable[[web.Application], None]


def create_web_app(served: Served, settings: WebSettings, extend: Extend | None = None) -> web.Application:
    """The whole web view of ``served``: HTTP, WebSocket and dashboard. Raises ConfigurationError.

    ``extend`` may add routes of the app's own, which come first, and middlewares, which come last.
    """
    check(settings)
    guard = security.Guard(settings, served)
    peers = Peers(served, settings)
    api = Api(served, settings, peers)
    hub = Hub(served, settings, peers, guard)
    changes = Changes(api, hub)
    everyone = Everyone(served, peers)
    history = History(api)
    groups: dict[str, object] = {
        "api": api,
        "changes": changes,
        "history": history,
        "late": LateEvents(api),
        "running": Running(api, everyone),
        "subscriptions": Subscriptions(api, hub, everyone),
        "topics": Topics(api, everyone),
        "dead-letters": DeadLetters(api),
        "publish": Publish(api),
    }
    app = web.Application(
        # In this order: a refused token is a problem too.
        middlewares=[problem_middleware, security.middleware(guard, served.app_id)],
        client_max_size=settings.request_bytes_max,
    )
    app[HUB] = hub
    app.on_response_prepare.append(security.headers_signal(guard))
    if extend is not None:
        extend(app)
    app[security.PAGES] = frozenset(app.router.resources())
    for route in ROUTES:
        handler = getattr(groups[route.group], route.name)
        if route.method != "get":
            app.router.add_route(route.method, route.pattern, handler, name=route.name)
            continue
        # Without HEAD where answering has no end.
        app.router.add_get(route.pattern, handler, name=route.name, allow_head=route.group != "changes")
    app.router.add_get("/v1/ws", hub.websocket, name="ws")
    Dashboard().add_routes(app.router)

    async def start(_: web.Application) -> None:
        await peers.start()
        await hub.start()
        await history.start()

    async def drain(_: web.Application) -> None:
        await hub.drain()

    async def stop(_: web.Application) -> None:
        await history.stop()
        await hub.stop()
        await peers.stop()

    app.on_startup.append(start)
    app.on_shutdown.append(drain)
    app.on_cleanup.append(stop)
    return app


class WebServer:
    """Binds first, so that the worker can advertise its address when it joins its group; serves later.

    server = WebServer(settings)
    url = server.bind()
    await server.start(served)      # served.url == url
    await server.stop()
    """

    def __init__(self, settings: WebSettings) -> None:
        check(settings)
        self.settings = settings
        self.url = ""
        self._socket: socket.socket | None = None
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None
        self._door: Door | None = None
        self._sweep: asyncio.Task[None] | None = None

    def bind(self) -> str:
        """Claims the port; returns the address to advertise. Raises ConfigurationError if it can't be had."""
        settings = self.settings
        tries = 1 if settings.port_explicit or settings.port == 0 else PORTS_TRIED_MAX
        for port in range(settings.port, min(settings.port + tries, 65_536)):
            try:
                self._socket = _listening(settings.host, port)
                break
            except OSError as exc:
                if port == min(settings.port + tries, 65_536) - 1:
                    address = f"{settings.host}:{settings.port}"
                    raise ConfigurationError(
                        f"the web view can't listen on {address}: {exc}; take another port"
                        " (setting web_port, --web-port; STREAMFLOW_WEB_PORT=0: any that is free)"
                    ) from exc
        assert self._socket is not None
        bound = self._socket.getsockname()[1]
        if settings.port not in (0, bound):
            log.warning("web port %d is busy: using %d", settings.port, bound)
        self.url = settings.advertised_url or f"{settings.scheme}://{_advertised_host(settings.host)}:{bound}"
        return self.url

    def release(self) -> None:
        """Gives a bound port back without having served."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def start(self, served: Served, extend: Extend | None = None) -> None:
        """Serves from now on; ``/readyz`` says 503 until the worker is ready.

        ``extend``: as for `create_web_app`.
        """
        assert self._socket is not None, "bind() comes first"
        plain = sum(not is_hashed(token) for token in self.settings.tokens)
        if plain:
            log.warning(
                "%d of web_tokens can be read where the settings can: `streamflow token` makes hashes", plain
            )
        application = create_web_app(served, self.settings, extend)
        self._runner = web.AppRunner(
            application,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=SHUTDOWN_S,
            logger=http_logger(),
            keepalive_timeout=self.settings.idle_timeout_s,
        )
        # A placeholder holds the first place: the door needs the server, which freezes the middlewares.
        doors: list[Door] = []

        @web.middleware
        async def attended(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await doors[0].attend(request, handler)

        application.middlewares.insert(0, attended)
        await self._runner.setup()
        assert self._runner.server is not None
        hub = application[HUB]
        tls = server_context(self.settings)
        door = Door(self._runner.server, self.settings, served.clock, tls, hub.transports)
        doors.append(door)
        self._door = door
        self._sweep = asyncio.create_task(door.sweep(), name="streamflow-web-door")
        self._listener = await asyncio.get_running_loop().create_server(door, sock=self._socket)

    async def stop(self) -> None:
        """Tells live clients to come back later, finishes what is being answered, closes. Idempotent."""
        if self._listener is not None:
            self._listener.close()
        if self._sweep is not None:
            self._sweep.cancel()
        if self._door is not None:
            self._door.close()
        runner, self._runner = self._runner, None
        if runner is not None:
            async with asyncio.timeout(3 * SHUTDOWN_S):
                await runner.cleanup()
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _listening(host: str, port: int) -> socket.socket:
    """A listening socket: only listening, not binding, claims a port from others. Raises OSError."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    server = socket.socket(family, kind, protocol)
    try:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.setblocking(False)
        server.bind(address)
        server.listen(128)
    except BaseException:
        server.close()
        raise
    return server


def _advertised_host(host: str) -> str:
    """A name that peers can call: a wildcard is none."""
    if host in WILDCARDS:
        return socket.gethostname()
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
