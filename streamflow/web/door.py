"""Who may stay connected: limits of connections, of silence before a request, and of idleness between two.

A socket costs memory and a file descriptor before it has said anything, and whoever holds all of them shuts
everybody else out.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import ssl
from collections.abc import Callable, Collection
from typing import Final
from weakref import WeakKeyDictionary

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from streamflow.clock import Clock
from streamflow.errors import rewrite_log_record
from streamflow.web.guesses import is_loopback, network
from streamflow.web.problems import Handler
from streamflow.web.settings import WebSettings

log = logging.getLogger(__name__)

SWEEP_MS: Final = 1_000.0
TOLD_AGAIN_MS: Final = 30_000.0
FULL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)


class _Gate(asyncio.Protocol):
    """A connection that is not let in yet: its address is counted, and its handshake comes first."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._door.arrived(self, transport)

    def data_received(self, data: bytes) -> None:
        self._early.append(data)  # in the same step in which the handshake has ended: one read

    def hand_over(self, transport: asyncio.Transport, protocol: asyncio.Protocol) -> None:
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        for data in self._early:
            protocol.data_received(data)


class Door:
    """Makes the protocol of each connection; `attend` is to be the app's first middleware.

    ``taken`` gives the transports of connections that are no HTTP any more, but WebSockets.
    """

    def __init__(
        self,
        server: web.Server,
        settings: WebSettings,
        clock: Clock,
        tls: ssl.SSLContext | None,
        taken: Callable[[], Collection[asyncio.Transport]],
    ) -> None:
        self._server = server
        self._taken = taken
        self._settings = settings
        self._clock = clock
        self._tls = tls
        self._most = connections_max(settings)
        # Those without a request now -> since when, and whether they have had one
        self._waiting: dict[web.RequestHandler, tuple[float, bool]] = {}
        self._networks: dict[web.RequestHandler, str] = {}
        self._handshakes: dict[asyncio.Transport, tuple[str, asyncio.Task[None]]] = {}  # -> network
        self._places: WeakKeyDictionary[asyncio.Transport, str] = WeakKeyDictionary()  # -> network
        self._told_ms: float | None = None

    def __call__(self) -> asyncio.BaseProtocol:
        return _Gate(self)

    def arrived(self, gate: _Gate, transport: asyncio.Transport) -> None:
        """Somebody has connected. Refuses, begins the handshake, or lets in."""
        address = (transport.get_extra_info("peername") or ("",))[0]
        place = "" if is_loopback(address) else network(address)
        if not self._has_room(place):
            if self._tls is None:
                transport.write(FULL)
                transport.close()
            else:
                transport.abort()  # whom we can't talk to yet
            return
        if self._tls is None:
            self._let_in(gate, transport, place)
            return
        transport.pause_reading()
        task = asyncio.get_running_loop().create_task(self._shake_hands(gate, transport, place, self._tls))
        self._handshakes[transport] = place, task

    def _has_room(self, place: str) -> bool:
        here = len(self._server.connections) + len(self._handshakes) + len(self._taken())
        if here >= self._most and not self._make_room(None):
            return False
        if not place or self._count(place) < self._settings.connections_per_address_max:
            return True
        self._forget()  # those that have gone by themselves
        return self._count(place) < self._settings.connections_per_address_max or self._make_room(place)

    def _count(self, place: str) -> int:
        shaking = sum(other == place for other, _ in self._handshakes.values())
        upgraded = sum(self._places.get(transport) == place for transport in self._taken())
        return shaking + upgraded + sum(other == place for other in self._networks.values())

    async def _shake_hands(
        self, gate: _Gate, transport: asyncio.Transport, place: str, context: ssl.SSLContext
    ) -> None:
        loop = asyncio.get_running_loop()
        limit_s = self._settings.header_timeout_s
        try:
            secure = await loop.start_tls(
                transport, gate, context, server_side=True, ssl_handshake_timeout=limit_s
            )
        except (OSError, TimeoutError) as exc:
            log.debug("a TLS handshake failed: %s", type(exc).__name__)
            transport.abort()
            return
        finally:
            self._handshakes.pop(transport, None)
        if secure is not None and not secure.is_closing():
            self._let_in(gate, secure, place)

    def _let_in(self, gate: _Gate, transport: asyncio.Transport, place: str) -> None:
        handler = self._server()
        self._waiting[handler] = self._clock.monotonic_ms(), False
        if place:
            self._networks[handler] = self._places[transport] = place
        gate.hand_over(transport, handler)

    def close(self) -> None:
        """Ends the handshakes that are under way."""
        for _, task in list(self._handshakes.values()):
            task.cancel()

    def _make_room(self, place: str | None) -> bool:
        """Ends the connection that has waited longest without a request; False where all are at work.

        ``place``: one of this network.
        """
        now_ms = self._clock.monotonic_ms()
        if self._told_ms is None or now_ms - self._told_ms >= TOLD_AGAIN_MS:
            self._told_ms = now_ms
            log.warning(
                "as many web connections as may be (web_connections_max, web_connections_per_address_max,"
                " open files): idle ones are ended"
            )
        self._forget()
        shaking = (t for t, (other, _) in self._handshakes.items() if place in (None, other))
        silent = next(shaking, None)
        if silent is not None:
            silent.abort()
            self._handshakes.pop(silent)[1].cancel()
            return True
        waiting = (handler for handler in self._waiting if place in (None, self._networks.get(handler)))
        oldest = next(waiting, None)
        if oldest is None:
            return False
        self._end(oldest)
        return True

    def _forget(self) -> None:
        """Those that have gone themselves."""
        alive = set(self._server.connections)
        for handler in [handler for handler in self._waiting if handler not in alive]:
            del self._waiting[handler]
        for handler in [handler for handler in self._networks if handler not in alive]:
            del self._networks[handler]

    def _end(self, handler: web.RequestHandler) -> None:
        del self._waiting[handler]
        self._networks.pop(handler, None)
        handler.force_close()

    async def sweep(self) -> None:
        """Until cancelled: ends those that have been silent for too long."""
        limits_ms = {
            False: self._settings.header_timeout_s * 1_000,
            True: self._settings.idle_timeout_s * 1_000,
        }
        while True:
            await self._clock.sleep_ms(SWEEP_MS)
            self._forget()
            now_ms = self._clock.monotonic_ms()
            for handler, (since_ms, had_one) in list(self._waiting.items()):
                if now_ms - since_ms >= limits_ms[had_one]:
                    self._end(handler)

    async def attend(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """A middleware: while it runs the connection is at work."""
        connection = request.protocol
        self._waiting.pop(connection, None)
        try:
            return await handler(request)
        finally:
            self._waiting[connection] = self._clock.monotonic_ms(), True


def connections_max(settings: WebSettings) -> int:
    """The setting, and never so many that the process has no files left for its broker and its stores."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return settings.connections_max if files < 0 else max(1, min(settings.connections_max, files * 3 // 4))


class QuietHttp(logging.Filter):
    """Of requests that are no HTTP only that they came: their text may hold a token."""

    def filter(self, record: logging.LogRecord) -> bool:
        exc = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if isinstance(exc, HttpProcessingError):
            text = f"{record.getMessage()}: {type(exc).__name__}"
            rewrite_log_record(record, text=text, level=logging.DEBUG, keeps_traceback=False)
            return log.isEnabledFor(logging.DEBUG)
        return True


def http_logger() -> logging.Logger:
    """What aiohttp's server logs with."""
    logger = logging.getLogger("streamflow.web.http.server")
    if not any(isinstance(each, QuietHttp) for each in logger.filters):
        logger.addFilter(QuietHttp())
    return logger
