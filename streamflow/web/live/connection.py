"""One WebSocket: the handshake on HTTP, then the bare connection, without a task of its own.

aiohttp reads the request, and its middlewares judge it. What follows is ours: a connection costs its buffers
and a few objects, a message in is a call, a message out a write. `Hub` looks at all of them now and then, for
those that are silent, gone, or don't get on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol

from aiohttp import WSCloseCode, web

from streamflow.web.live.session import Session
from streamflow.web.live.wire import (
    DEFLATE,
    FrameReader,
    Op,
    WireError,
    accept_key,
    agrees_to_deflate,
    close_code,
    close_frame,
    deflated_frame,
    frame,
)
from streamflow.web.messages import SUBPROTOCOL, ClientMessage, Close, read
from streamflow.web.problems import Problem

log = logging.getLogger(__name__)

CLOSE_MS: Final = 2_000.0
"""So long a client may take to answer that the connection ends."""
BUFFER_BYTES: Final = 64 * 1024
"""More than this on its way to a client, and what comes next waits in its session."""


class Refused(Exception):
    """The connection ends with this close code."""

    def __init__(self, code: Close, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class Talk(Protocol):
    """What is said on a connection."""

    def hear(self, said: ClientMessage) -> None:
        """A message of the client. Raises Refused."""
        ...

    def end(self) -> None:
        """The connection is over."""
        ...


class _Tail:
    """Takes what came behind the handshake: an aiohttp parser that parses nothing."""

    def __init__(self) -> None:
        self.data = b""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.data += data
        return False, b""

    def feed_eof(self) -> None:
        """Nothing more comes."""


class Deflater:
    """The frame of the message that was compressed last, since most go to many clients."""

    def __init__(self) -> None:
        self._payload = b""
        self._frame = b""

    def frame(self, payload: bytes) -> bytes:
        if payload is not self._payload:
            self._payload, self._frame = payload, deflated_frame(payload)
        return self._frame


class Connection(asyncio.Protocol):
    """An `session.Outlet`. `begin` it once it has a session and somebody who listens."""

    __slots__ = (
        "_closing_ms",
        "_deflater",
        "_heard_ms",
        "_is_over",
        "_opened_ms",
        "_pinged_ms",
        "_reader",
        "_session",
        "_spoke",
        "_talk",
        "_transport",
        "is_greeted",
        "takes_more",
    )

    def __init__(
        self, transport: asyncio.Transport, bytes_max: int, deflater: Deflater | None, now_ms: float
    ) -> None:
        self._transport = transport
        self._reader = FrameReader(bytes_max, deflates=deflater is not None)
        self._deflater = deflater
        self._session: Session | None = None
        self._talk: Talk | None = None
        self._closing_ms: float | None = None  # since when our close frame is on its way
        self._is_over = False
        self.takes_more = True
        self._opened_ms = self._heard_ms = now_ms
        self._spoke = False  # since the last look
        self._pinged_ms: float | None = None  # when we asked whether it is still there
        self.is_greeted = False  # its `init` came, and was good
        transport.set_write_buffer_limits(high=BUFFER_BYTES)

    def begin(self, session: Session, talk: Talk, tail: bytes) -> None:
        """Listens from now on; ``tail`` came with the handshake."""
        self._session, self._talk = session, talk
        session.write_on()
        if tail:
            self.data_received(tail)

    def refuse(self, code: int, reason: str, talk: Talk) -> None:
        """It is not taken."""
        self._talk = talk
        self.close(code, reason)

    # -- what is said to the client --------------------------------------------------------------

    @property
    def transport(self) -> asyncio.Transport:
        return self._transport

    @property
    def raw(self) -> Callable[[bytes], None] | None:
        return self._transport.write if self._deflater is None else None

    def write(self, payload: bytes) -> None:
        if not self._is_over and self._closing_ms is None:
            deflater = self._deflater
            self._transport.write(frame(payload) if deflater is None else deflater.frame(payload))

    def wake(self) -> None:
        """Nothing waits where the client takes more; one that has failed is let go."""
        session = self._session
        if session is None or self._is_over:
            return
        if session.failure is not None:
            self.close(*session.failure)
        elif self.takes_more and not session.is_clear:
            session.write_on()

    def pause_writing(self) -> None:
        self.takes_more = False
        if self._session is not None:
            self._session.block()

    def resume_writing(self) -> None:
        self.takes_more = True
        if self._session is not None and self._closing_ms is None:
            self._session.write_on()

    # -- what the client says --------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._is_over or self._talk is None:
            return
        self._spoke = True
        try:
            for op, payload in self._reader.feed(data):
                self._take(op, payload)
        except Refused as refused:
            self.close(refused.code, refused.reason)
        except WireError as error:
            self.close(error.code, error.reason)
        except Exception:
            log.exception("a WebSocket failed")
            self.close(WSCloseCode.INTERNAL_ERROR, "the log of this worker has the details")

    def _take(self, op: Op, payload: bytes) -> None:
        if self._is_over:
            return
        if op is Op.PING:
            if self._closing_ms is None and self.takes_more:
                self._transport.write(frame(payload, Op.PONG))
        elif op is Op.CLOSE:
            code = close_code(payload)
            if self._closing_ms is None:
                self._transport.write(close_frame(code, ""))
            self._over()
        elif op is Op.TEXT and self._closing_ms is None:
            try:
                text = payload.decode()
            except UnicodeDecodeError:
                raise WireError(1007, "text is UTF-8") from None
            try:
                said = read(text)
            except ValueError as exc:
                raise Refused(Close.BAD_MESSAGE, str(exc)) from None
            assert self._talk is not None
            self._talk.hear(said)

    # -- its end ---------------------------------------------------------------------------------

    def look(self, now_ms: float, *, init_ms: float, heartbeat_ms: float) -> None:
        """Time has passed: ends those that don't begin, or have gone, and asks those that are silent."""
        if self._is_over:
            return
        if self._closing_ms is not None:
            if self._closing_ms < 0:
                self._closing_ms = now_ms
            elif now_ms - self._closing_ms >= CLOSE_MS:
                self.abort()
        elif not self.is_greeted and now_ms - self._opened_ms >= init_ms:
            self.close(Close.INIT_TIMEOUT, "init did not come")
        elif self._spoke:
            self._spoke, self._heard_ms, self._pinged_ms = False, now_ms, None
        elif self._pinged_ms is not None:
            if now_ms - self._pinged_ms >= heartbeat_ms / 2:
                self.abort()
        elif now_ms - self._heard_ms >= heartbeat_ms:
            self._pinged_ms = now_ms
            self._transport.write(frame(b"", Op.PING))

    def greet(self) -> None:
        """Its `init` came, and was good."""
        self.is_greeted = True

    def close(self, code: int, reason: str) -> None:
        """Says why, and waits for the client to say so too; `look` sees to it that it isn't for ever."""
        if self._closing_ms is not None or self._is_over:
            return
        self._closing_ms = -1.0
        if self._session is not None:
            self._session.block()
        self._transport.write(close_frame(code, reason))

    @property
    def is_over(self) -> bool:
        return self._is_over

    def abort(self) -> None:
        self._transport.abort()
        self._end()

    def _over(self) -> None:
        self._transport.close()
        self._end()

    def eof_received(self) -> bool:
        return False  # asyncio closes it

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            self.takes_more = False
            talk, self._talk = self._talk, None
            if talk is not None:
                talk.end()


class Upgraded(web.StreamResponse):
    """The answer after which a connection is a WebSocket; ``deflates``: messages are compressed.

    Raises Problem 426 or 400 for a request that is none, as browsers and others send it.
    """

    def __init__(self, request: web.Request, *, deflates: bool) -> None:
        super().__init__(status=101)
        headers = request.headers
        if headers.get("Upgrade", "").strip().lower() != "websocket" or "upgrade" not in (
            part.strip().lower() for part in headers.get("Connection", "").split(",")
        ):
            more = {"Upgrade": "websocket", "Connection": "Upgrade"}
            raise Problem(426, "bad-request", "this is a WebSocket", headers=more)
        accepted = accept_key(headers.get("Sec-WebSocket-Key"))
        if headers.get("Sec-WebSocket-Version") != "13" or accepted is None:
            more = {"Sec-WebSocket-Version": "13"}
            raise Problem(426, "bad-request", "a WebSocket of version 13, with a key", headers=more)
        self.headers.update(
            {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": accepted}
        )
        offered = ",".join(headers.getall("Sec-WebSocket-Protocol", ()))
        self.speaks = SUBPROTOCOL in (part.strip() for part in offered.split(","))
        if self.speaks:
            self.headers["Sec-WebSocket-Protocol"] = SUBPROTOCOL
        offers = ",".join(headers.getall("Sec-WebSocket-Extensions", ()))
        self.deflates = deflates and agrees_to_deflate(offers)
        if self.deflates:
            self.headers["Sec-WebSocket-Extensions"] = DEFLATE

    async def take(self, request: web.Request) -> tuple[asyncio.Transport, bytes]:
        """Answers, and takes the connection from aiohttp, with what came behind the handshake.

        Raises ConnectionError when the client has gone.
        """
        await self.prepare(request)
        http, tail = request.protocol, _Tail()
        transport = http.transport
        if transport is None:
            raise ConnectionResetError("the client has gone")
        http.set_parser(tail)  # type: ignore[arg-type]  # of a parser aiohttp wants these two methods here
        # For aiohttp the connection is over: it forgets it, and has none to close.
        http.transport = None
        http.connection_lost(None)
        return transport, tail.data

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing ends here: aiohttp would close what is not its own any more."""
