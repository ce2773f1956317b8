"""The rows of one peer, live: one WebSocket for each peer and table, shared by all our subscribers."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any, Final, Protocol

import aiohttp

from streamflow.clock import Clock
from streamflow.web import encoding
from streamflow.web.live.filters import Filter, Item
from streamflow.web.live.gathered import Gathered
from streamflow.web.messages import SUBPROTOCOL, message
from streamflow.web.peers import Peers, PeerUnavailable

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


class PeerListener(Protocol):
    """Who shows what the peers have: told of their changes, and asked for numbers of new epochs."""

    def next_epoch(self) -> int: ...

    def check(self) -> None: ...

    def on_remote(self, url: str, items: list[Item], position: dict[int, int]) -> None: ...

    def on_remote_progress(self, url: str, position: dict[int, int], watermark_ms: int | None) -> None: ...

    def watermark_of(self, url: str) -> int | None: ...


class PeerSnapshot:
    """The rows of one filter as a peer has them now: its snapshot, kept up to date by its changes.

    ``done`` is set when the snapshot is complete, or ``is_lost``, or refused with ``error``.
    """

    def __init__(self, peer: PeerFeed, sub_id: str, view: Filter) -> None:
        self.peer = peer
        self.id = sub_id
        self.filter = view
        self.rows = Gathered()
        self.done = asyncio.Event()
        self.is_lost = False
        self.error: str | None = None
        self._has_left = False

    def fold(self, items: list[Item]) -> None:
        """Changes that came after the snapshot. Those before it are in it: one connection keeps the order."""
        if self.done.is_set():
            self.rows.fold(items, self.filter)

    def complete(self) -> None:
        self.done.set()

    def refuse(self, why: str) -> None:
        self.error = why
        self.done.set()

    def leave(self) -> bool:
        """Whether its subscription is still to be ended; only once."""
        is_subscribed, self._has_left = not self._has_left, True
        return is_subscribed

    def lose(self) -> None:
        self.is_lost = True
        self.done.set()

    def close(self) -> None:
        self.peer.forget(self)


class PeerFeed:
    """``covered``: partitions that the peer shows. ``epoch`` changes when what we had of it is void."""

    def __init__(self, listener: PeerListener, peers: Peers, clock: Clock, table: str, url: str) -> None:
        self.url = url
        self.epoch = 0
        self.covered: frozenset[int] = frozenset()
        self.is_connected = False
        self._listener = listener
        self._peers = peers
        self._clock = clock
        self._table = table
        self._cursor: str | None = None
        self._count = 0
        self._snapshots: dict[str, PeerSnapshot] = {}  # id of its subscription -> snapshot
        self._outbox: asyncio.Queue[bytes] = asyncio.Queue()
        self._task = asyncio.create_task(self._run())

    def stop(self) -> None:
        self._task.cancel()
        self._lose_snapshots()

    def collect(self, view: Filter) -> PeerSnapshot:
        """Asks for the rows of ``view``."""
        self._count += 1
        snapshot = PeerSnapshot(self, f"s{self._count}", view)
        self._snapshots[snapshot.id] = snapshot
        if self.is_connected:
            self._ask(snapshot)
        return snapshot

    def _ask(self, snapshot: PeerSnapshot) -> None:
        view = snapshot.filter
        wanted: dict[str, Any] = {"id": snapshot.id, "table": self._table, "window": view.window}
        if view.keys is not None:
            wanted["keys"] = [encoding.decode(key) for key in view.keys]
        prefix = view.limits.narrowed(view.prefix)
        if prefix is not None and view.keys is None:
            wanted["prefix"] = prefix
        self._outbox.put_nowait(message("subscribe", snapshot=True, mode="all", **wanted))

    def forget(self, snapshot: PeerSnapshot) -> None:
        if self._snapshots.pop(snapshot.id, None) is not None:
            self._leave(snapshot)

    def _leave(self, snapshot: PeerSnapshot) -> None:
        """Ends the snapshot's subscription: from its end on, the live one tells its changes."""
        if self.is_connected and snapshot.leave():
            self._outbox.put_nowait(message("unsubscribe", id=snapshot.id))

    def _lose_snapshots(self) -> None:
        for snapshot in list(self._snapshots.values()):
            snapshot.lose()
        self._snapshots.clear()

    async def _run(self) -> None:
        """Stays connected, with growing waits between attempts."""
        clock = self._clock
        wait_ms = FIRST_WAIT_MS
        away_since_ms = clock.monotonic_ms()
        while True:
            try:
                await self._converse()
            except _BROKEN as exc:
                log.debug("live rows of %s from %s: %r", self._table, self.url, exc)
            if self.is_connected:
                self.is_connected = False
                away_since_ms = clock.monotonic_ms()
                wait_ms = FIRST_WAIT_MS
            if self._snapshots:
                # Who waits for them must start again, even if the peer is back before anybody looks.
                self._lose_snapshots()
                self.epoch = self._listener.next_epoch()
            if clock.monotonic_ms() - away_since_ms >= AWAY_MS:
                self.covered = frozenset()
                self._listener.check()
            await clock.sleep_ms(wait_ms * random.uniform(0.75, 1.25))
            wait_ms = min(wait_ms * 2, WAIT_MS_MAX)

    async def _converse(self) -> None:
        """One connection, until it breaks."""
        peers = self._peers
        address = peers.address(self.url, "/v1/ws")
        self._outbox = asyncio.Queue()
        async with asyncio.timeout(peers.settings.peer_timeout_s) as opening:
            async with peers.session.ws_connect(
                address,
                protocols=(SUBPROTOCOL,),
                headers=peers.headers(self.url),
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
        table = self._table
        live = message("subscribe", id=LIVE, table=table, snapshot=False, mode="all", since=self._cursor)
        await socket.send_str(live.decode())

    async def _send(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        while True:
            await socket.send_str((await self._outbox.get()).decode())

    def _take(self, said: dict[str, Any]) -> None:
        if said.get("id") == LIVE:
            self._take_live(said)
        elif said.get("id") in self._snapshots:
            self._take_snapshot(self._snapshots[said["id"]], said)

    def _take_live(self, said: dict[str, Any]) -> None:
        kind = said["t"]
        if kind == "changes":
            self._cursor = said["cursor"]
            items = [Item(change["op"], encoding.row_from(change)) for change in said["rows"]]
            for snapshot in self._snapshots.values():
                snapshot.fold(items)
            self._listener.on_remote(self.url, items, encoding.position_from(said["position"]))
        elif kind == "progress":
            watermark = said["watermark"]
            watermark_ms = None if watermark is None else encoding.parse_time(watermark)
            self._listener.on_remote_progress(
                self.url, encoding.position_from(said["position"]), watermark_ms
            )
        elif kind == "subscribed":
            # Its position is not the feed's yet: what was missed comes now, and then `synced`.
            if said["recovered"]:
                self.covered = frozenset(said["partitions"])
            else:
                self._void()
            self.is_connected = True
            for snapshot in self._snapshots.values():
                self._ask(snapshot)
        elif kind == "reset":
            self._void()
        elif kind == "synced":
            self._cursor = said["cursor"]
            self.covered = frozenset(said["partitions"])
            position = encoding.position_from(said["position"])
            self._listener.on_remote_progress(self.url, position, self._listener.watermark_of(self.url))
            self._listener.check()
        elif kind == "error":
            raise PeerUnavailable(f"{self.url}: {said['message']}")

    def _void(self) -> None:
        """What we had of this peer is not what it has."""
        self.epoch = self._listener.next_epoch()
        self.covered = frozenset()
        self._cursor = None

    def _take_snapshot(self, snapshot: PeerSnapshot, said: dict[str, Any]) -> None:
        kind = said["t"]
        if kind == "snapshot":
            for value in said["rows"]:
                item = Item("upsert", encoding.row_from(value))
                if snapshot.filter.wants(item.row):
                    snapshot.rows.add(item)
        elif kind == "synced":
            snapshot.complete()
            self._leave(snapshot)
        elif kind == "reset":
            # The peer's rows are others now. It tells the live subscription so too, but maybe later.
            self.epoch = self._listener.next_epoch()
            snapshot.lose()
            self._leave(snapshot)
        elif kind == "error" and said["retry"]:
            snapshot.lose()
        elif kind == "error":
            snapshot.refuse(str(said["message"]))
