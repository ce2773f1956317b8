"""One live client: what waits for it, how it falls behind, and what it is then told.

Invariants: the messages of a subscription leave in the order in which they were queued; changes that
were conflated leave behind all of them; nothing waits without a limit.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from streamflow.clock import Clock
from streamflow.metrics import Metrics
from streamflow.web import encoding
from streamflow.web.filters import Filter, Item, RowId
from streamflow.web.messages import Close, Mode, message, splice
from streamflow.web.settings import WebSettings

if TYPE_CHECKING:
    from streamflow.web.feed import Feed

BEHIND_FRAMES = 8
"""With so many messages waiting, a client counts as slow and gets the latest values only."""

DRAIN_POLL_MS = 10.0


class Emission:
    """Changes of one filter, as one message: encoded once for each subscription id, mostly one in all."""

    __slots__ = ("_frames", "_rows", "items", "meta", "skipped")

    def __init__(self, items: Sequence[Item], meta: bytes, skipped: int = 0) -> None:
        self.items = items
        self.meta = meta  # `"cursor":…,"position":…` as JSON members
        self.skipped = skipped
        self._frames: dict[bytes, bytes] = {}  # id as JSON -> message
        self._rows: bytes | None = None

    def frame(self, id_json: bytes) -> bytes:
        frame = self._frames.get(id_json)
        if frame is None:
            if self._rows is None:
                self._rows = b",".join([item.raw for item in self.items])
            tail = b'%b,"rows":[%b],"skipped":%d}' % (self.meta, self._rows, self.skipped)
            frame = self._frames[id_json] = splice("changes", id_json, tail)
        return frame


class Snapshot:
    """The rows of one filter at one moment, encoded chunk by chunk as clients take them, and shared."""

    def __init__(self, rows: Sequence[Item], chunk_rows: int) -> None:
        self.rows = rows
        self._chunk_rows = chunk_rows
        self._tails: dict[int, bytes] = {}  # first row of the chunk -> the rest of its message

    def frames(self, id_json: bytes) -> list[Callable[[], bytes]]:
        """Makers of the messages, so that a table is not held encoded for a slow client."""
        starts = range(0, max(len(self.rows), 1), self._chunk_rows)
        return [lambda start=start: splice("snapshot", id_json, self._tail(start)) for start in starts]  # type: ignore[misc]  # mypy can't infer a lambda's default

    def _tail(self, start: int) -> bytes:
        tail = self._tails.get(start)
        if tail is None:
            end = start + self._chunk_rows
            rows = [encoding.row_object(item.row) for item in self.rows[start:end]]
            more = end < len(self.rows)
            tail = self._tails[start] = b'"rows":%b,"more":%b}' % (
                encoding.encode(rows),
                b"true" if more else b"false",
            )
        return tail


class Subscription:
    """One client's view of one table."""

    def __init__(
        self, session: Session, feed: Feed, sub_id: str, view: Filter, mode: Mode, wants_snapshot: bool
    ) -> None:
        self.session = session
        self.feed = feed
        self.id = sub_id
        self.id_json = encoding.encode(sub_id)
        self.filter = view
        self.mode = mode
        self.wants_snapshot = wants_snapshot
        self.max_hz: float | None = None
        self.is_live = False  # gets changes; False until its snapshot is queued
        self.must_resync = False
        self._pending: dict[RowId, Item] = {}  # what was conflated, the newest of each row
        self._pending_meta = b""
        self._skipped = 0

    @property
    def has_pending(self) -> bool:
        return bool(self._pending)

    def tell(self, name: str, tail: bytes, *, lasts: bool = False) -> None:
        """``tail`` is the rest of the message behind its id. One that ``lasts`` outlives a reset."""
        self.session.put(splice(name, self.id_json, tail), None if lasts else self)

    def offer(self, emission: Emission) -> None:
        """Queues changes; conflates them, or ends the connection, when the client is slow."""
        if self.must_resync:
            return  # the snapshot to come has them
        if self.mode == "latest" and (self._pending or self.session.is_behind):
            self._conflate(emission)
        else:
            self.session.put(emission.frame(self.id_json), self)

    def offer_progress(self, tail: bytes) -> None:
        """Progress must not overtake changes, and needs no place in a slow client's queue."""
        if self.is_live and not self._pending and not self.must_resync and not self.session.is_behind:
            self.tell("progress", tail)

    def _conflate(self, emission: Emission) -> None:
        before = len(self._pending)
        for item in emission.items:
            self._pending[item.id] = item
        replaced = before + len(emission.items) - len(self._pending)
        self._skipped += replaced + emission.skipped
        self._pending_meta = emission.meta
        self.session.metrics.ws_skipped_changes_total.inc(replaced)
        if len(self._pending) > self.session.settings.ws_pending_rows_max:
            self.must_resync = True
            self._pending = {}
        self.session.wake()

    def take_pending(self) -> bytes | None:
        """The conflated changes as one message, once everything queued before has left."""
        if not self._pending:
            return None
        emission = Emission(list(self._pending.values()), self._pending_meta, self._skipped)
        self.forget_pending()
        return emission.frame(self.id_json)

    def forget_pending(self) -> None:
        self._pending = {}
        self._skipped = 0
        self.must_resync = False


class Session:
    """One connection. ``send`` writes one message and returns when the client can take more."""

    def __init__(
        self,
        connection: str,
        settings: WebSettings,
        metrics: Metrics,
        send: Callable[[bytes], Awaitable[None]],
        *,
        own_rows_only: bool = False,
    ) -> None:
        self.connection = connection
        self.settings = settings
        self.metrics = metrics
        self.own_rows_only = own_rows_only
        self.subscriptions: dict[str, Subscription] = {}  # id -> subscription
        self.failure: tuple[Close, str] | None = None
        self.failed = asyncio.Event()
        self._send = send
        # (message or its maker, its length, whose it is)
        self._queue: deque[tuple[bytes | Callable[[], bytes], int, Subscription | None]] = deque()
        self._bytes = 0
        self._wake = asyncio.Event()

    @property
    def is_behind(self) -> bool:
        return len(self._queue) >= BEHIND_FRAMES

    def wake(self) -> None:
        self._wake.set()

    def put(self, frame: bytes, owner: Subscription | None = None) -> None:
        """Queues one message; a client that leaves too many of them waiting is let go."""
        limit = self.settings
        too_long = self._bytes + len(frame) > limit.ws_queue_bytes_max and self._queue
        if too_long or len(self._queue) >= limit.ws_queue_frames_max:
            self.metrics.ws_slow_disconnects_total.inc()
            self.fail(Close.SLOW, "the client is too slow: subscribe with mode latest, or to less")
            return
        self._queue.append((frame, len(frame), owner))
        self._bytes += len(frame)
        self._wake.set()

    def put_snapshot(self, snapshot: Snapshot, owner: Subscription) -> None:
        """Queues a snapshot, to be encoded as it leaves; it does not count as being slow."""
        self._queue.extend((maker, 0, owner) for maker in snapshot.frames(owner.id_json))
        self._wake.set()

    def purge(self, owner: Subscription) -> None:
        """Takes back what has not left yet, before a reset makes it void."""
        kept = [entry for entry in self._queue if entry[2] is not owner]
        self._queue = deque(kept)
        self._bytes = sum(size for _, size, _ in kept)
        owner.forget_pending()

    def fail(self, code: Close, reason: str) -> None:
        """Ends the connection; the first reason stands."""
        if self.failure is None:
            self.failure = (code, reason)
            self._queue.clear()
            self._bytes = 0
        self.failed.set()
        self._wake.set()

    def say(self, name: str, **members: object) -> None:
        self.put(message(name, **members))

    async def drain(self, clock: Clock) -> None:
        """Returns when all that waits has left."""
        self._wake.set()
        while self.failure is None and not self._is_empty:
            await clock.sleep_ms(DRAIN_POLL_MS)

    @property
    def _is_empty(self) -> bool:
        return not self._queue and not any(sub.has_pending for sub in self.subscriptions.values())

    async def write(self) -> None:
        """Sends what waits, for ever; the only place that sends."""
        while self.failure is None:
            frame = self._next()
            if frame is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            self.metrics.ws_frames_total.inc()
            await self._send(frame)

    def _next(self) -> bytes | None:
        if self._queue:
            frame, size, _ = self._queue.popleft()
            self._bytes -= size
            return frame if isinstance(frame, bytes) else frame()
        for sub in list(self.subscriptions.values()):
            if sub.must_resync:
                sub.feed.resync(sub, "too-far-behind")
                return self._next()
            pending = sub.take_pending()
            if pending is not None:
                return pending
        return None

    def close(self) -> None:
        """Leaves every feed."""
        for sub in list(self.subscriptions.values()):
            sub.feed.leave(sub)
        self.subscriptions.clear()
