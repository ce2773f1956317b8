"""The live hub of one worker: WebSocket connections, and the feeds that they have in common."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from aiohttp import WSCloseCode, WSMsgType, web
from msgspec import UNSET

from streamflow.query.rows import TableChanges
from streamflow.web.live.feed import Feed
from streamflow.web.live.filters import Filter
from streamflow.web.live.session import Session, Subscription
from streamflow.web.messages import (
    SUBPROTOCOL,
    ClientMessage,
    Close,
    Init,
    Ping,
    Subscribe,
    Unsubscribe,
    read,
)
from streamflow.web.peers import Peers, is_peer
from streamflow.web.problems import TABLES_UNKNOWN, Problem, unavailable
from streamflow.web.rights import NO_KEYS, Caller, caller_of
from streamflow.web.security import Guard
from streamflow.web.served import Served
from streamflow.web.settings import WebSettings

log = logging.getLogger(__name__)

CHECK_MS = 100.0
CLOSE_S = 2.0
PEER_FACTOR = 16
"""Another worker asks for all of its clients: so many times the messages and subscriptions of one."""


class Refused(Exception):
    """The connection ends with this close code."""

    def __init__(self, code: Close, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class Hub:
    """`start` and `stop` it with the server; `drain` it before."""

    def __init__(self, served: Served, settings: WebSettings, peers: Peers, guard: Guard) -> None:
        self.served = served
        self.settings = settings
        self.peers = peers
        self.guard = guard
        self.feeds: dict[tuple[str, bool], Feed] = {}  # (table, own rows only) -> feed
        self.sessions: set[Session] = set()
        self._is_draining = False
        self._stop_listening: Callable[[], None] | None = None
        self._ticker: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._stop_listening = self.served.listen(self.on_changes)
        self._ticker = asyncio.create_task(self._tick())

    async def drain(self) -> None:
        """Asks every client to come back a little later, elsewhere or here."""
        self._is_draining = True
        sessions = list(self.sessions)
        for session in sessions:
            session.say("draining", reconnect_in_ms=self.settings.ws_reconnect_ms)
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S / 2):
                await asyncio.gather(*(session.drain(self.served.clock) for session in sessions))
        for session in sessions:
            session.fail(Close.RESTART, "this worker stops")

    async def stop(self) -> None:
        if self._stop_listening is not None:
            self._stop_listening()
        if self._ticker is not None:
            self._ticker.cancel()
        for feed in self.feeds.values():
            feed.stop()
        self.feeds.clear()

    def on_changes(self, changes: Iterable[TableChanges]) -> None:
        """Told by the engine after each checkpoint. Tables nobody watches cost nothing."""
        by_table: dict[str, list[TableChanges]] = {}
        for part in changes:
            by_table.setdefault(part.table, []).append(part)
        for (table, _), feed in self.feeds.items():
            if table in by_table:
                try:
                    feed.on_local(by_table[table])
                except Exception:  # a listener must not raise: it would fail the checkpoint
                    log.exception("live changes of table %s", table)
                    feed.void()

    async def _tick(self) -> None:
        clock = self.served.clock
        progress_at_ms = clock.monotonic_ms()
        while True:
            await clock.sleep_ms(CHECK_MS)
            now_ms = clock.monotonic_ms()
            is_progress_due = now_ms - progress_at_ms >= self.settings.ws_progress_s * 1_000
            if is_progress_due:
                progress_at_ms = now_ms
                self._end_expired()
            for key, feed in list(self.feeds.items()):
                try:
                    self._look_at(key, feed, now_ms, is_progress_due)
                except Exception:  # one broken table must not stop the others
                    log.exception("live view of table %s", key[0])

    def _end_expired(self) -> None:
        """A connection lasts no longer than the token that opened it."""
        now_ms = self.served.clock.now_ms()
        for session in list(self.sessions):
            until_ms = session.caller.until_ms
            if until_ms is not None and now_ms >= until_ms:
                session.fail(Close.UNAUTHORIZED, "the token has expired")

    def _look_at(self, key: tuple[str, bool], feed: Feed, now_ms: float, is_progress_due: bool) -> None:
        idle_ms = 0.0 if feed.idle_since_ms is None else now_ms - feed.idle_since_ms
        if idle_ms > self.settings.ws_linger_s * 1_000:
            feed.stop()
            del self.feeds[key]
            return
        feed.check()
        if is_progress_due:
            feed.tell_progress()

    def feed(self, table: str, *, own_rows_only: bool) -> Feed | None:
        """The feed of a table, made on demand; ``None`` where there is no such table."""
        reader = self.served.tables.get(table)
        if reader is None:
            return None
        key = (table, own_rows_only)
        if key not in self.feeds:
            feed = Feed(self.served, self.settings, self.peers, reader, own_rows_only=own_rows_only)
            self.feeds[key] = feed
        return self.feeds[key]

    def new_session(
        self,
        send: Callable[[bytes], Awaitable[None]],
        caller: Caller,
        *,
        own_rows_only: bool = False,
        factor: int = 1,
    ) -> Session:
        """``factor``: so many times the subscriptions that a client may have."""
        session = Session(
            secrets.token_hex(6),
            self.settings,
            self.served.metrics,
            send,
            caller,
            own_rows_only=own_rows_only,
            subscriptions_max=factor * self.settings.ws_subscriptions_max,
        )
        self.sessions.add(session)
        self.served.metrics.ws_connections.set(len(self.sessions))
        return session

    def end_session(self, session: Session) -> None:
        session.close()
        self.sessions.discard(session)
        self.served.metrics.ws_connections.set(len(self.sessions))

    def admit(self) -> None:
        """Raises Problem 503 where no more live clients are taken."""
        if self._is_draining:
            raise unavailable("not-ready", "this worker stops")

    async def websocket(self, request: web.Request) -> web.StreamResponse:
        """``GET /v1/ws``."""
        self.admit()
        socket = web.WebSocketResponse(
            protocols=(SUBPROTOCOL,),
            heartbeat=self.settings.ws_heartbeat_s,
            max_msg_size=self.settings.ws_message_bytes_max,
            compress=False,  # for each client anew, it would cost more than the sending
            timeout=CLOSE_S,
        )
        if not socket.can_prepare(request).ok:
            headers = {"Upgrade": "websocket", "Connection": "Upgrade"}
            raise Problem(426, "bad-request", "this is a WebSocket", headers=headers)
        await socket.prepare(request)
        try:
            self._check_upgrade(request, socket)
            await Connection(self, request, socket).run()
        except Refused as refused:
            await close(request, socket, refused.code, refused.reason)
        except Exception:
            # The stream is no HTTP any more: an error page must not be written into it.
            log.exception("a WebSocket failed")
            await close(request, socket, WSCloseCode.INTERNAL_ERROR, "the log of this worker has the details")
        return socket

    def _check_upgrade(self, request: web.Request, socket: web.WebSocketResponse) -> None:
        # Close codes rather than HTTP errors: browsers show pages only the former.
        if socket.ws_protocol != SUBPROTOCOL:
            raise Refused(Close.SUBPROTOCOL, f"speak {SUBPROTOCOL}")
        if not self.guard.origin_ok(request):
            raise Refused(Close.FORBIDDEN, "pages of this origin are not allowed")
        if len(self.sessions) >= self.settings.ws_connections_max:
            raise Refused(Close.TOO_MANY, "too many connections")


async def close(request: web.Request, socket: web.WebSocketResponse, code: int, reason: str) -> None:
    """Closes within `CLOSE_S`, whether the client still reads or not."""
    try:
        async with asyncio.timeout(CLOSE_S):
            await socket.close(code=code, message=reason.encode()[:120])
    except (TimeoutError, ConnectionError):
        if request.transport is not None:
            request.transport.abort()


class Connection:
    """One WebSocket: its messages in, its session out."""

    def __init__(self, hub: Hub, request: web.Request, socket: web.WebSocketResponse) -> None:
        self.hub = hub
        self.request = request
        self.socket = socket
        caller = caller_of(request)
        factor = PEER_FACTOR if caller.is_worker else 1
        self.session = hub.new_session(self._send, caller, own_rows_only=is_peer(request), factor=factor)
        self._rate = factor * hub.settings.ws_messages_per_s_max
        self._tokens = 2 * self._rate  # of the rate limit
        self._tokens_at_ms = hub.served.clock.monotonic_ms()

    async def _send(self, frame: bytes) -> None:
        await self.socket.send_frame(frame, WSMsgType.TEXT)

    async def run(self) -> None:
        """Returns when the client has gone; raises Refused when it must go."""
        tasks: list[asyncio.Task[None]] = []
        try:
            await self._greet()
            tasks = [
                asyncio.create_task(self._read()),
                asyncio.create_task(self.session.write()),
                asyncio.create_task(self._wait_failed()),
            ]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                with suppress(ConnectionError):
                    task.result()
            if self.session.failure is not None:
                raise Refused(*self.session.failure)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.hub.end_session(self.session)

    async def _wait_failed(self) -> None:
        await self.session.failed.wait()

    async def _greet(self) -> None:
        settings = self.hub.settings
        try:
            async with asyncio.timeout(settings.ws_init_timeout_s):
                first = await self._receive()
        except TimeoutError:
            raise Refused(Close.INIT_TIMEOUT, "init did not come") from None
        if first is None:
            return
        if not isinstance(first, Init):
            raise Refused(Close.BAD_MESSAGE, "the first message is init")
        if not self.session.caller.is_known:
            self.session.admit(await self._identified(first.token))
        if not self.session.caller.is_known:
            raise Refused(Close.UNAUTHORIZED, "init needs a valid token")
        limits = {
            "message_bytes": settings.ws_message_bytes_max,
            "subscriptions": settings.ws_subscriptions_max,
            "messages_per_s": settings.ws_messages_per_s_max,
            "snapshot_rows": settings.ws_snapshot_rows_max,
        }
        self.session.say("ack", server="streamflow", connection=self.session.connection, limits=limits)

    async def _identified(self, token: str | None) -> Caller:
        try:
            return await self.hub.guard.identify(self.request, token)
        except Problem as problem:
            code = Close.TOO_MANY if problem.status == 429 else Close.RESTART
            raise Refused(code, problem.detail) from None

    async def _receive(self) -> ClientMessage | None:
        """The next message, or ``None`` when the client has gone. Raises Refused for a bad one."""
        received = await self.socket.receive()
        if received.type is WSMsgType.TEXT:
            self._take_token()
            try:
                return read(received.data)
            except ValueError as exc:
                raise Refused(Close.BAD_MESSAGE, str(exc)) from None
        if received.type is WSMsgType.BINARY:
            raise Refused(Close.BAD_MESSAGE, "messages are text")
        return None

    def _take_token(self) -> None:
        rate = self._rate
        now_ms = self.hub.served.clock.monotonic_ms()
        refill = (now_ms - self._tokens_at_ms) / 1_000 * rate
        self._tokens = min(self._tokens + refill, 2 * rate) - 1
        self._tokens_at_ms = now_ms
        if self._tokens < 0:
            raise Refused(Close.TOO_MANY, "too many messages")

    async def _read(self) -> None:
        while (said := await self._receive()) is not None:
            match said:
                case Subscribe():
                    self._subscribe(said)
                case Unsubscribe(id=sub_id):
                    sub = self.session.subscriptions.pop(sub_id, None)
                    if sub is not None:
                        sub.feed.leave(sub)
                        self.session.purge(sub)
                case Ping():
                    self.session.say("pong")
                case Init():
                    raise Refused(Close.BAD_MESSAGE, "init comes once")

    def _subscribe(self, wanted: Subscribe) -> None:
        session = self.session
        if wanted.id in session.subscriptions:
            raise Refused(Close.DUPLICATE_ID, f"the id {wanted.id!r} is in use")
        refusal = subscribe(self.hub, session, wanted)
        if refusal is not None:
            session.say("error", id=wanted.id, code=refusal.code, message=refusal.text, retry=refusal.retry)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a subscription can't be had; ``retry``: the same one may be had a little later."""

    code: str
    text: str
    retry: bool = False


def may_subscribe(caller: Caller, wanted: Subscribe) -> bool:
    """Whether the caller may read some of the table, and each key that it names."""
    if wanted.key is UNSET and wanted.keys is UNSET:
        return caller.may_some("read", "table", wanted.table)
    keys = [wanted.key] if wanted.key is not UNSET else wanted.keys
    limits = caller.keys("read", "table", wanted.table)
    return isinstance(keys, list) and limits != NO_KEYS and all(map(limits.allows, keys))


def subscribe(hub: Hub, session: Session, wanted: Subscribe) -> Refusal | None:
    """Adds a subscription to ``session``, or says why it can't be had."""
    if len(session.subscriptions) >= session.subscriptions_max:
        text = f"at most {session.subscriptions_max} on one connection"
        return Refusal("too-many-subscriptions", text)
    if not may_subscribe(session.caller, wanted):
        return Refusal("forbidden", f"the right read:table:{wanted.table} is needed (setting web_rights)")
    feed = hub.feed(wanted.table, own_rows_only=session.own_rows_only)
    if feed is None:
        if not hub.served.knows_tables():
            return Refusal("not-ready", TABLES_UNKNOWN, retry=True)
        return Refusal("no-such-table", f"this app has no table {wanted.table!r}")
    try:
        view = Filter.of(wanted, session.caller.keys("read", "table", wanted.table))
    except ValueError as exc:
        return Refusal("bad-subscription", str(exc))
    sub = Subscription(
        session,
        feed,
        wanted.id,
        view,
        wanted.mode,
        wants_snapshot=wanted.snapshot,
        max_hz=wanted.max_hz,
    )
    session.subscriptions[wanted.id] = sub
    feed.join(sub, wanted.since)
    return None
