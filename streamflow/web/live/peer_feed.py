"""The rows of one peer, live: one WebSocket for each peer and table, shared by all our subscribers."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from streamflow.web import encoding
from streamflow.web.live.filters import Filter, Item, RowId
from streamflow.web.messages import SUBPROTOCOL, message
from streamflow.web.peers import PeerUnavailable

if TYPE_CHECKING:
    from streamflow.web.live.feed import Feed

log = logging.getLogger(__name__)

LIVE: Final = "live"
FIRST_WAIT_MS: Final = 100.0
WAIT_MS_MAX: Final = 3_000.0
AWAY_MS: Final = 1_000.0
"""So long a peer may be away before its rows count as missing."""
_BROKEN = (
    aiohttp.ClientError, OSError, TimeoutError, PeerUnavailable,
    ValueError, KeyError, TypeError, AttributeError,
)  # fmt: skip


class Collector:
    """The rows of one filter as a peer has them now: its snapshot, kept up to date by its changes.

    ``done`` is set when the snapshot is complete, or ``is_lost``, or refused with ``error``.
    """

    def __init__(self, upstream: Upstream, sub_id: str, view: Filter) -> None:
        self.upstream = upstream
        self.id = sub_id
        self.filter = view
        self.rows: dict[RowId, Item] = {}
        self.done = asyncio.Event()
        self.is_lost = False
        self.has_left = False
        self.error: str | None = None

    def fold(self, items: list[Item]) -> None:
        """Changes that came after the snapshot. Those before it are in it: one connection keeps the order."""
        if not self.done.is_set():
            return
        for item in items:
            seen = self.filter.view(item)
            if seen is None:
                continue
            if seen.op == "upsert":
                self.rows[seen.id] = seen
            else:
                self.rows.pop(seen.id, None)

    def lose(self) -> None:
        self.is_lost = True
        self.done.set()

    def close(self) -> None:
        self.upstream.forget(self)


class Upstream:
    """``covered``: partitions that the peer shows. ``epoch`` changes when what we had of it is void."""

    def __init__(self, feed: Feed, url: str) -> None:
        self.feed = feed
        self.url = url
        self.epoch = 0
        self.covered: frozenset[int] = frozenset()
        self.is_connected = False
        self._cursor: str | None = None
        self._count = 0
        self._collectors: dict[str, Collector] = {}  # id of its subscription -> collector
        self._outbox: asyncio.Queue[bytes] = asyncio.Queue()
        self._task = asyncio.create_task(self._run())

    def stop(self) -> None:
        self._task.cancel()
        self._lose_collectors()

    def collect(self, view: Filter) -> Collector:
        """Asks for the rows of ``view``."""
        self._count += 1
        collector = Collector(self, f"s{self._count}", view)
        self._collectors[collector.id] = collector
        if self.is_connected:
            self._ask(collector)
        return collector

    def _ask(self, collector: Collector) -> None:
        view = collector.filter
        wanted: dict[str, Any] = {"id": collector.id, "table": self.feed.reader.name, "window": view.window}
        if view.keys is not None:
            wanted["keys"] = [encoding.decode(key) for key in view.keys]
        if view.prefix is not None:
            wanted["prefix"] = view.prefix
        self._outbox.put_nowait(message("subscribe", snapshot=True, mode="all", **wanted))

    def forget(self, collector: Collector) -> None:
        if self._collectors.pop(collector.id, None) is not None:
            self._leave(collector)

    def _leave(self, collector: Collector) -> None:
        """Ends the collector's subscription: from its snapshot on, the live one tells its changes."""
        if self.is_connected and not collector.has_left:
            collector.has_left = True
            self._outbox.put_nowait(message("unsubscribe", id=collector.id))

    def _lose_collectors(self) -> None:
        for collector in list(self._collectors.values()):
            collector.lose()
        self._collectors.clear()

    async def _run(self) -> None:
        """Stays connected, with growing waits between attempts."""
        clock = self.feed.served.clock
        wait_ms = FIRST_WAIT_MS
        away_since_ms = clock.monotonic_ms()
        while True:
            try:
                await self._converse()
            except _BROKEN as exc:
                log.debug("live rows of %s from %s: %r", self.feed.reader.name, self.url, exc)
            if self.is_connected:
                self.is_connected = False
                away_since_ms = clock.monotonic_ms()
                wait_ms = FIRST_WAIT_MS
            if self._collectors:
                # Who waits for them must start again, even if the peer is back before anybody looks.
                self._lose_collectors()
                self.epoch = self.feed.next_epoch()
            if clock.monotonic_ms() - away_since_ms >= AWAY_MS:
                self.covered = frozenset()
                self.feed.check()
            await clock.sleep_ms(wait_ms * random.uniform(0.75, 1.25))
            wait_ms = min(wait_ms * 2, WAIT_MS_MAX)

    async def _converse(self) -> None:
        """One connection, until it breaks."""
        peers = self.feed.peers
        address = peers.address(self.url, "/v1/ws")
        self._outbox = asyncio.Queue()
        async with asyncio.timeout(peers.settings.peer_timeout_s) as opening:
            async with peers.session.ws_connect(
                address,
                protocols=(SUBPROTOCOL,),
                headers=peers.headers,
                heartbeat=10.0,
                max_msg_size=0,  # a checkpoint is one message, however much it changed
                timeout=aiohttp.ClientWSTimeout(ws_close=1.0),
            ) as socket:
                await self._greet(socket)
                opening.reschedule(None)
                sender = asyncio.create_task(self._send(socket))
                try:
                    async for received in socket:
                        if received.type is aiohttp.WSMsgType.TEXT:
                            self._take(encoding.decode(received.data))
                finally:
                    sender.cancel()

    async def _greet(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        await socket.send_str(message("init").decode())
        if encoding.decode(await socket.receive_str()).get("t") != "ack":
            raise PeerUnavailable(f"{self.url} does not speak {SUBPROTOCOL}")
        table = self.feed.reader.name
        live = message("subscribe", id=LIVE, table=table, snapshot=False, mode="all", since=self._cursor)
        await socket.send_str(live.decode())

    async def _send(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        while True:
            await socket.send_str((await self._outbox.get()).decode())

    def _take(self, said: dict[str, Any]) -> None:
        if said.get("id") == LIVE:
            self._take_live(said)
        elif said.get("id") in self._collectors:
            self._take_snapshot(self._collectors[said["id"]], said)

    def _take_live(self, said: dict[str, Any]) -> None:
        kind = said["t"]
        if kind == "changes":
            self._cursor = said["cursor"]
            items = [Item(change["op"], encoding.row_from(change)) for change in said["rows"]]
            for collector in self._collectors.values():
                collector.fold(items)
            self.feed.on_remote(self.url, items, encoding.position_from(said["position"]))
        elif kind == "progress":
            watermark = said["watermark"]
            watermark_ms = None if watermark is None else encoding.parse_time(watermark)
            self.feed.on_remote_progress(self.url, encoding.position_from(said["position"]), watermark_ms)
        elif kind == "subscribed":
            # Its position is not ours yet: what we have missed comes now, and then `synced`.
            if said["recovered"]:
                self.covered = frozenset(said["partitions"])
            else:
                self._void()
            self.is_connected = True
            for collector in self._collectors.values():
                self._ask(collector)
        elif kind == "reset":
            self._void()
        elif kind == "synced":
            self._cursor = said["cursor"]
            self.covered = frozenset(said["partitions"])
            position = encoding.position_from(said["position"])
            self.feed.on_remote_progress(self.url, position, self.feed.watermark_of(self.url))
            self.feed.check()
        elif kind == "error":
            raise PeerUnavailable(f"{self.url}: {said['message']}")

    def _void(self) -> None:
        """What we had of this peer is not what it has."""
        self.epoch = self.feed.next_epoch()
        self.covered = frozenset()
        self._cursor = None

    def _take_snapshot(self, collector: Collector, said: dict[str, Any]) -> None:
        kind = said["t"]
        if kind == "snapshot":
            for value in said["rows"]:
                item = Item("upsert", encoding.row_from(value))
                collector.rows[item.id] = item
        elif kind == "synced":
            collector.done.set()
            self._leave(collector)
        elif kind == "reset":
            # The peer's rows are others now. It tells the live subscription so too, but maybe later.
            self.epoch = self.feed.next_epoch()
            collector.lose()
            self._leave(collector)
        elif kind == "error":
            collector.error = str(said["message"])
            collector.done.set()
