"""The live hub of one worker: WebSocket connections, and the feeds that they have in common."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from aiohttp import WSCloseCode, web
from msgspec import UNSET

from streamflow.query.rows import TableChanges
from streamflow.web.live.connection import Connection, Deflater, Refused, Upgraded
from streamflow.web.live.fanout import Fanout
from streamflow.web.live.feed import Feed
from streamflow.web.live.filters import Filter
from streamflow.web.live.publisher import Publishing
from streamflow.web.live.session import Outlet, Session, Subscription
from streamflow.web.live.topic_feed import PARTITIONS_MAX, TopicFeed, TopicSubscription
from streamflow.web.live.topic_records import TopicFilter
from streamflow.web.messages import (
    SUBPROTOCOL,
    ClientMessage,
    Close,
    Init,
    Ping,
    Publish,
    Subscribe,
    Unsubscribe,
)
from streamflow.web.peers import Peers, is_peer
from streamflow.web.problems import TABLES_UNKNOWN, Problem, unavailable
from streamflow.web.rights import NO_KEYS, Caller, caller_of
from streamflow.web.security import Guard
from streamflow.web.served import Served
from streamflow.web.settings import WebSettings

log = logging.getLogger(__name__)

CHECK_MS = 100.0
LOOK_MS = 250.0
"""So often the hub looks at each connection."""
CLOSE_S = 2.0
PEER_FACTOR = 16
"""Another worker asks for all of its clients: so many times the messages and subscriptions of one."""


class Hub:
    """`start` and `stop` it with the server; `drain` it before."""

    def __init__(self, served: Served, settings: WebSettings, peers: Peers, guard: Guard) -> None:
        self.served = served
        self.settings = settings
        self.peers = peers
        self.guard = guard
        self.feeds: dict[tuple[str, bool], Feed] = {}  # (table, own rows only) -> feed
        self.topic_feeds: dict[str, TopicFeed] = {}
        self.sessions: set[Session] = set()
        self.connections: set[Connection] = set()
        self.fanout = Fanout(served.metrics)
        self._deflater = Deflater()
        self._is_draining = False
        self._stop_listening: Callable[[], None] | None = None
        self._ticker: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._stop_listening = self.served.listen(self.on_changes)
        self._ticker = asyncio.create_task(self._tick())
        self.fanout.start()

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
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                while self.connections:
                    await self.served.clock.sleep_ms(CHECK_MS / 10)

    async def stop(self) -> None:
        if self._stop_listening is not None:
            self._stop_listening()
        if self._ticker is not None:
            self._ticker.cancel()
        self.fanout.stop()
        for feed in self.feeds.values():
            feed.stop()
        for topic_feed in self.topic_feeds.values():
            topic_feed.stop()
        self.feeds.clear()
        self.topic_feeds.clear()
        for connection in list(self.connections):
            connection.abort()

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
        progress_at_ms = looked_ms = clock.monotonic_ms()
        while True:
            await clock.sleep_ms(CHECK_MS)
            now_ms = clock.monotonic_ms()
            if now_ms - looked_ms >= LOOK_MS:
                looked_ms = now_ms
                self._look_at_connections(now_ms)
            is_progress_due = now_ms - progress_at_ms >= self.settings.ws_progress_s * 1_000
            if is_progress_due:
                progress_at_ms = now_ms
                self._end_expired()
            for key, feed in list(self.feeds.items()):
                try:
                    self._look_at(key, feed, now_ms, is_progress_due)
                except Exception:  # one broken table must not stop the others
                    log.exception("live view of table %s", key[0])

            for topic_feed in list(self.topic_feeds.values()):
                self._look_at_topic(topic_feed, now_ms, is_progress_due)

    def _look_at_connections(self, now_ms: float) -> None:
        init_ms, heartbeat_ms = self.settings.ws_init_timeout_s * 1_000, self.settings.ws_heartbeat_s * 1_000
        for connection in list(self.connections):
            connection.look(now_ms, init_ms=init_ms, heartbeat_ms=heartbeat_ms)

    def _end_expired(self) -> None:
        """A connection lasts no longer than the token that opened it."""
        now_ms = self.served.clock.now_ms()
        for session in list(self.sessions):
            until_ms = session.caller.until_ms
            if until_ms is not None and now_ms >= until_ms:
                session.fail(Close.UNAUTHORIZED, "the token has expired")

    def _look_at(self, key: tuple[str, bool], feed: Feed, now_ms: float, is_progress_due: bool) -> None:
        if self._is_left(feed.idle_since_ms, now_ms):
            feed.stop()
            del self.feeds[key]
            return
        feed.check()
        if is_progress_due:
            feed.tell_progress()

    def _look_at_topic(self, feed: TopicFeed, now_ms: float, is_progress_due: bool) -> None:
        if self._is_left(feed.idle_since_ms, now_ms):
            feed.stop()
            del self.topic_feeds[feed.name]
        elif is_progress_due:
            feed.tell_progress()

    def _is_left(self, idle_since_ms: float | None, now_ms: float) -> bool:
        """For so long that nobody is going to come back to it."""
        return idle_since_ms is not None and now_ms - idle_since_ms > self.settings.ws_linger_s * 1_000

    def topic_feed(self, topic: str) -> TopicFeed:
        """The feed of a topic that the app knows, made on demand."""
        if topic not in self.topic_feeds:
            self.topic_feeds[topic] = TopicFeed(self.served, self.fanout, topic)
        return self.topic_feeds[topic]

    def feed(self, table: str, *, own_rows_only: bool) -> Feed | None:
        """The feed of a table, made on demand; ``None`` where there is no such table."""
        reader = self.served.tables.get(table)
        if reader is None:
            return None
        key = (table, own_rows_only)
        if key not in self.feeds:
            self.feeds[key] = Feed(
                self.served, self.settings, self.peers, reader, self.fanout, own_rows_only=own_rows_only
            )
        return self.feeds[key]

    def new_session(
        self, outlet: Outlet, caller: Caller, *, own_rows_only: bool = False, factor: int = 1
    ) -> Session:
        """``factor``: so many times the subscriptions that a client may have."""
        session = Session(
            secrets.token_hex(6),
            self.settings,
            self.served.metrics,
            outlet,
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
        """``GET /v1/ws``; with ``?compress=deflate`` messages are compressed, where the client offers it."""
        self.admit()
        deflates = request.query.get("compress") == "deflate"
        upgraded = Upgraded(request, deflates=deflates)
        caller = caller_of(request)
        refused = self._refused(request, upgraded)
        transport, tail = await upgraded.take(request)
        connection = Connection(
            transport,
            self.settings.ws_message_bytes_max,
            self._deflater if upgraded.deflates else None,
            self.served.clock.monotonic_ms(),
        )
        transport.set_protocol(connection)
        if refused is not None:
            self.connections.add(connection)
            connection.refuse(refused.code, refused.reason, Refusing(self, connection))
            return upgraded
        factor = PEER_FACTOR if caller.is_worker else 1
        session = self.new_session(connection, caller, own_rows_only=is_peer(request), factor=factor)
        client = Client(self, connection, session, None if caller.is_known else request, factor=factor)
        self.connections.add(connection)
        connection.begin(session, client, tail)
        return upgraded

    def _refused(self, request: web.Request, upgraded: Upgraded) -> Refused | None:
        # Close codes rather than HTTP errors: browsers show pages only the former.
        if not upgraded.speaks:
            return Refused(Close.SUBPROTOCOL, f"speak {SUBPROTOCOL}")
        if not self.guard.origin_ok(request):
            return Refused(Close.FORBIDDEN, "pages of this origin are not allowed")
        if len(self.sessions) >= self.settings.ws_connections_max:
            return Refused(Close.TOO_MANY, "too many connections")
        return None

    def forget(self, connection: Connection) -> None:
        """It is over."""
        self.connections.discard(connection)


class Refusing:
    """A WebSocket that is not taken: whatever it says, it is told why, and ends."""

    __slots__ = ("_connection", "_hub")

    def __init__(self, hub: Hub, connection: Connection) -> None:
        self._hub = hub
        self._connection = connection

    def hear(self, said: ClientMessage) -> None:
        """It is not listened to."""

    def end(self) -> None:
        self._hub.forget(self._connection)


class Client:
    """What one WebSocket says, and how much of it is taken."""

    __slots__ = (
        "_connection",
        "_factor",
        "_held",
        "_hub",
        "_identifying",
        "_publishing",
        "_request",
        "_session",
        "_tokens",
        "_tokens_at_ms",
    )

    def __init__(
        self, hub: Hub, connection: Connection, session: Session, request: web.Request | None, *, factor: int
    ) -> None:
        self._hub = hub
        self._connection = connection
        self._session = session
        self._request = request  # while it has not shown who it is
        self._identifying: asyncio.Task[None] | None = None
        self._held: list[ClientMessage] | None = None  # what is said meanwhile
        self._publishing: Publishing | None = None  # made when it publishes
        self._factor = factor
        self._tokens = 2 * factor * hub.settings.ws_messages_per_s_max  # of the rate limit
        self._tokens_at_ms = hub.served.clock.monotonic_ms()

    def end(self) -> None:
        if self._identifying is not None:
            self._identifying.cancel()
        if self._publishing is not None:
            self._publishing.end()
        self._hub.end_session(self._session)
        self._hub.forget(self._connection)

    def hear(self, said: ClientMessage) -> None:
        """Raises Refused."""
        self._take_token()
        if self._held is not None:
            self._held.append(said)
        elif not self._connection.is_greeted:
            self._greet(said)
        else:
            self._obey(said)

    def _obey(self, said: ClientMessage) -> None:
        session = self._session
        match said:
            case Subscribe():
                self._subscribe(said)
            case Unsubscribe(id=sub_id):
                sub = session.subscriptions.pop(sub_id, None)
                if sub is not None:
                    sub.leave()
                    session.purge(sub)
            case Publish():
                if self._publishing is None:
                    self._publishing = Publishing(self._hub.served, session)
                self._publishing.take(said)
            case Ping():
                session.say("pong")
            case Init():
                raise Refused(Close.BAD_MESSAGE, "init comes once")

    def _greet(self, first: ClientMessage) -> None:
        if not isinstance(first, Init):
            raise Refused(Close.BAD_MESSAGE, "the first message is init")
        if self._request is None or first.token is None:
            self._welcome()
            return
        self._held = []
        self._identifying = asyncio.create_task(self._identify(self._request, first.token))

    async def _identify(self, request: web.Request, token: str) -> None:
        """To look at a token takes its time."""
        try:
            try:
                self._session.admit(await self._hub.guard.identify(request, token))
            except Problem as problem:
                code = Close.TOO_MANY if problem.status == 429 else Close.RESTART
                raise Refused(code, problem.detail) from None
            self._welcome()
            held, self._held = self._held or [], None
            for said in held:
                self._obey(said)
        except Refused as refused:
            self._connection.close(refused.code, refused.reason)
        except Exception:
            log.exception("a WebSocket failed")
            self._connection.close(WSCloseCode.INTERNAL_ERROR, "the log of this worker has the details")

    def _welcome(self) -> None:
        if not self._session.caller.is_known:
            raise Refused(Close.UNAUTHORIZED, "init needs a valid token")
        settings = self._hub.settings
        limits = {
            "message_bytes": settings.ws_message_bytes_max,
            "subscriptions": settings.ws_subscriptions_max,
            "messages_per_s": settings.ws_messages_per_s_max,
            "snapshot_rows": settings.ws_snapshot_rows_max,
        }
        self._request = None
        self._connection.greet()
        self._session.say(
            "ack",
            server="streamflow",
            connection=self._session.connection,
            limits=limits,
            features=features(self._session.caller),
        )

    def _take_token(self) -> None:
        rate = self._factor * self._hub.settings.ws_messages_per_s_max
        now_ms = self._hub.served.clock.monotonic_ms()
        refill = (now_ms - self._tokens_at_ms) / 1_000 * rate
        self._tokens = min(self._tokens + refill, 2 * rate) - 1
        self._tokens_at_ms = now_ms
        if self._tokens < 0:
            raise Refused(Close.TOO_MANY, "too many messages")

    def _subscribe(self, wanted: Subscribe) -> None:
        session = self._session
        if wanted.id in session.subscriptions:
            raise Refused(Close.DUPLICATE_ID, f"the id {wanted.id!r} is in use")
        refusal = subscribe(self._hub, session, wanted)
        if refusal is not None:
            session.say("error", id=wanted.id, code=refusal.code, message=refusal.text, retry=refusal.retry)


def features(caller: Caller) -> list[str]:
    """What this server does for this caller, beyond tables."""
    found = ["topics"] if caller.has_any("read", "topic") else []
    return [*found, "publish"] if caller.has_any("publish", "topic") else found


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a subscription can't be had; ``retry``: the same one may be had a little later."""

    code: str
    text: str
    retry: bool = False


def may_subscribe(caller: Caller, table: str, wanted: Subscribe) -> bool:
    """Whether the caller may read some of the table, and each key that it names."""
    if wanted.key is UNSET and wanted.keys is UNSET:
        return caller.may_some("read", "table", table)
    keys = [wanted.key] if wanted.key is not UNSET else wanted.keys
    limits = caller.keys("read", "table", table)
    return isinstance(keys, list) and limits != NO_KEYS and all(map(limits.allows, keys))


def subscribe(hub: Hub, session: Session, wanted: Subscribe) -> Refusal | None:
    """Adds a subscription to ``session``, or says why it can't be had."""
    if len(session.subscriptions) >= session.subscriptions_max:
        text = f"at most {session.subscriptions_max} on one connection"
        return Refusal("too-many-subscriptions", text)
    if isinstance(wanted.topic, str):
        return _subscribe_to_topic(hub, session, wanted, wanted.topic)
    assert isinstance(wanted.table, str), "it names one or the other"
    return _subscribe_to_table(hub, session, wanted, wanted.table)


def _subscribe_to_topic(hub: Hub, session: Session, wanted: Subscribe, topic: str) -> Refusal | None:
    served = hub.served
    limits = session.caller.keys("read", "topic", topic)
    if limits == NO_KEYS:
        return Refusal("forbidden", f"the right read:topic:{topic} is needed (setting web_rights)")
    given = [name for name in ("key", "keys", "prefix") if getattr(wanted, name) is not UNSET]
    if given:
        return Refusal("bad-subscription", f"{' and '.join(given)}: of tables only; a topic has where")
    if not served.knows_tables():
        return Refusal("not-ready", TABLES_UNKNOWN, retry=True)
    count = served.log.partitions(topic)
    if not count:
        return Refusal("no-such-topic", f"this app knows no topic {topic!r}")
    if topic in served.topics.internal():
        return Refusal("not-applicable", f"topic {topic!r} holds the app's own state: subscribe to its table")
    if count > PARTITIONS_MAX:
        return Refusal(
            "not-applicable", f"topic {topic!r} has {count} partitions, more than {PARTITIONS_MAX}"
        )
    try:
        view = TopicFilter.of(wanted.where if isinstance(wanted.where, str) else None, limits)
    except ValueError as exc:
        return Refusal("bad-subscription", f"where: {exc}")
    feed = hub.topic_feed(topic)
    sub = TopicSubscription(session, feed, wanted.id, view)
    session.subscriptions[wanted.id] = sub
    feed.join(sub, wanted.since)
    return None


def _subscribe_to_table(hub: Hub, session: Session, wanted: Subscribe, table: str) -> Refusal | None:
    if not may_subscribe(session.caller, table, wanted):
        return Refusal("forbidden", f"the right read:table:{table} is needed (setting web_rights)")
    feed = hub.feed(table, own_rows_only=session.own_rows_only)
    if feed is None:
        if not hub.served.knows_tables():
            return Refusal("not-ready", TABLES_UNKNOWN, retry=True)
        return Refusal("no-such-table", f"this app has no table {table!r}")
    if wanted.where is not UNSET:
        return Refusal("bad-subscription", "where: of topics only; rows of a table are picked by their keys")
    try:
        view = Filter.of(wanted, session.caller.keys("read", "table", table))
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
