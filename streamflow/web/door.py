"""Who may stay connected: limits of connections, of silence before a request, and of idleness between two.

A socket costs memory and a file descriptor before it has said anything, and whoever holds all of them shuts
everybody else out.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Callable
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from streamflow.clock import Clock
from streamflow.errors import rewrite_log_record
from streamflow.web.problems import Handler
from streamflow.web.settings import WebSettings

log = logging.getLogger(__name__)

SWEEP_MS: Final = 1_000.0
TOLD_AGAIN_MS: Final = 30_000.0
FULL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)


class _Refusal(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(FULL)
        transport.close()


class Door:
    """Makes the protocol of each connection; `attend` is to be the app's first middleware.

    ``taken`` tells how many connections are no HTTP any more, but WebSockets.
    """

    def __init__(
        self, server: web.Server, settings: WebSettings, clock: Clock, taken: Callable[[], int]
    ) -> None:
        self._server = server
        self._taken = taken
        self._settings = settings
        self._clock = clock
        self._most = connections_max(settings)
        # Those without a request now -> since when, and whether they have had one
        self._waiting: dict[web.RequestHandler, tuple[float, bool]] = {}
        self._told_ms: float | None = None

    def __call__(self) -> asyncio.BaseProtocol:
        if len(self._server.connections) + self._taken() >= self._most and not self._make_room():
            return _Refusal()
        handler = self._server()
        self._waiting[handler] = self._clock.monotonic_ms(), False
        return handler

    def _make_room(self) -> bool:
        """Ends the connection that has waited longest without a request; False where all are at work."""
        now_ms = self._clock.monotonic_ms()
        if self._told_ms is None or now_ms - self._told_ms >= TOLD_AGAIN_MS:
            self._told_ms = now_ms
            log.warning(
                "%d web connections, as many as may be (connections_max, open files): idle ones are ended",
                self._most,
            )
        self._forget()
        oldest = next(iter(self._waiting), None)
        if oldest is None:
            return False
        self._end(oldest)
        return True

    def _forget(self) -> None:
        """Those that have gone themselves."""
        alive = set(self._server.connections)
        for handler in [handler for handler in self._waiting if handler not in alive]:
            del self._waiting[handler]

    def _end(self, handler: web.RequestHandler) -> None:
        del self._waiting[handler]
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
