"""One live client: what waits for it, how it falls behind, and what it is then told.

Invariants: the messages of a subscription leave in the order in which they were queued; changes that
were conflated leave behind all of them; nothing waits without a limit.

There is no task for a client: what is said goes to its connection at once, while that takes more; what has
to wait goes on when the connection says that it is clear again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

from streamflow.clock import Clock
from streamflow.metrics import Metrics
from streamflow.web import encoding
from streamflow.web.live.filters import Filter, Item, RowId
from streamflow.web.live.gathered import Gathered
from streamflow.web.live.wire import frame
from streamflow.web.messages import Close, Mode, message, splice
from streamflow.web.rights import Caller
from streamflow.web.settings import WebSettings

BEHIND_FRAMES = 8
"""With so many messages waiting, a client counts as slow and gets the latest values only."""

DRAIN_POLL_MS = 10.0
FLOW_BYTES = 128 * 1024
"""So much at once to a client for whom something waited; then others have their turn."""
FRAME_BYTES = 256 * 1024
"""Larger messages are split: many clients take no more than 1 MiB."""


class Emission:
    """Changes of one filter: encoded once for each subscription id, mostly one in all.

    ``meta`` is cursor and position as JSON members, ``before`` those before these changes. Usually one
    message; a large step is split, and all but its last message carry ``before`` and ``"more": true``.
    """

    __slots__ = ("_frames", "_parts", "_wires", "before", "items", "meta", "skipped")

    def __init__(self, items: Sequence[Item], meta: bytes, before: bytes, skipped: int = 0) -> None:
        self.items = items
        self.meta = meta
        self.before = before
        self.skipped = skipped
        self._frames: dict[bytes, list[bytes]] = {}  # id as JSON -> messages
        self._wires: dict[bytes, bytes] = {}  # id as JSON -> the messages as WebSocket frames
        self._parts: list[bytes] = []  # rows of each message, as JSON array

    def wire(self, id_json: bytes) -> bytes:
        """The messages as WebSocket frames: made once, and written to every client as they are."""
        wire = self._wires.get(id_json)
        if wire is None:
            wire = self._wires[id_json] = b"".join(map(frame, self.frames(id_json)))
        return wire

    def offer_to(self, sub: Subscription) -> None:
        """To a client that does not take it at once."""
        sub.offer(self)

    def frames(self, id_json: bytes) -> list[bytes]:
        frames = self._frames.get(id_json)
        if frames is None:
            if not self._parts:
                self._parts = json_arrays([item.raw for item in self.items])
            tails = [
                b'%b,"rows":%b,"skipped":0,"more":true}' % (self.before, part) for part in self._parts[:-1]
            ]
            tails.append(b'%b,"rows":%b,"skipped":%d}' % (self.meta, self._parts[-1], self.skipped))
            frames = self._frames[id_json] = [splice("changes", id_json, tail) for tail in tails]
        return frames


class Told:
    """A message that is the same for many subscriptions, but for their ids."""

    __slots__ = ("_name", "_tail", "_wires")

    def __init__(self, name: str, tail: bytes) -> None:
        self._name = name
        self._tail = tail
        self._wires: dict[bytes, bytes] = {}  # id as JSON -> the message as a WebSocket frame

    def wire(self, id_json: bytes) -> bytes:
        wire = self._wires.get(id_json)
        if wire is None:
            wire = self._wires[id_json] = frame(splice(self._name, id_json, self._tail))
        return wire


class Notice(Told):
    """A message without rows, for the subscriptions of a table."""

    __slots__ = ()

    def offer_to(self, sub: Subscription) -> None:
        """To a client that does not take it at once."""
        if self._name == "progress":
            sub.offer_progress(self._tail)
        elif not sub.must_resync:
            sub.flush()
            sub.tell(self._name, self._tail)


def json_arrays(values: Sequence[bytes]) -> list[bytes]:
    """JSON arrays of about `FRAME_BYTES` at most, in which all ``values`` stand in order; at least one."""
    arrays: list[bytes] = []
    part: list[bytes] = []
    size = 0
    for value in values:
        if part and size + len(value) > FRAME_BYTES:
            arrays.append(b"[%b]" % b",".join(part))
            part, size = [], 0
        part.append(value)
        size += len(value) + 1
    arrays.append(b"[%b]" % b",".join(part))
    return arrays


class Snapshot:
    """The rows of one filter at one moment, encoded message by message as clients take them, and shared.

    ``parts``: rows, and the partitions whose rows they are; what is encoded is freed.
    """

    def __init__(self, parts: Sequence[tuple[Gathered, AbstractSet[int]]], chunk_rows: int) -> None:
        pages = [(page, partitions) for rows, partitions in parts for page in rows.pages()]
        self._pages = deque(pages)
        self._chunk_rows = chunk_rows
        self._left: list[Item] = []  # of the page that was taken last, in reverse
        self._tails: list[bytes] = []  # the rest of each message behind its id

    def _chunk(self) -> list[Item]:
        chunk: list[Item] = []
        while len(chunk) < self._chunk_rows and (self._left or self._pages):
            if not self._left:
                page, partitions = self._pages.popleft()
                self._left = [item for item in page.values() if item.row.partition in partitions]
                self._left.reverse()
                page.clear()
                continue
            chunk.append(self._left.pop())
        return chunk

    def tail(self, index: int) -> bytes | None:
        """The rest of the message number ``index``; ``None`` behind the last one."""
        while index >= len(self._tails) and (self._left or self._pages or not self._tails):
            chunk = self._chunk()
            arrays = json_arrays([encoding.encode(encoding.row_object(item.row)) for item in chunk])
            for number, array in enumerate(arrays):
                more = number < len(arrays) - 1 or bool(self._left or self._pages)
                self._tails.append(b'"rows":%b,"more":%b}' % (array, b"true" if more else b"false"))
        return self._tails[index] if index < len(self._tails) else None


class Waiting:
    """A snapshot on its way out: encoded while it leaves, so that a table isn't held twice."""

    __slots__ = ("_index", "_snapshot", "_sub")

    def __init__(self, snapshot: Snapshot, sub: Subscription) -> None:
        self._snapshot = snapshot
        self._sub = sub
        self._index = 0

    def take(self) -> bytes | None:
        tail = self._snapshot.tail(self._index)
        self._index += 1
        return None if tail is None else splice("snapshot", self._sub.id_json, tail)


class Subscribed(Protocol):
    """What a subscription needs of the feed that it is subscribed to."""

    def resync(self, sub: Subscription, reason: str) -> None: ...

    def leave(self, sub: Subscription) -> None: ...


NEVER = 1 << 62


class Listener:
    """What one client is subscribed to, as its session sees it: a table, or a topic.

    ``live_from``: of what goes out to many, it gets what has a greater number.
    """

    __slots__ = ("id", "id_json", "live_from", "session")

    def __init__(self, session: Session, sub_id: str) -> None:
        self.session = session
        self.id = sub_id
        self.id_json = encoding.encode(sub_id)
        self.live_from = NEVER

    @property
    def is_live(self) -> bool:
        return self.live_from != NEVER

    def start_live(self, number: int) -> None:
        """What it begins with is queued: from now on it gets what goes out after this number."""
        self.live_from = number

    def stop_live(self) -> None:
        """It gets nothing until it is started again."""
        self.live_from = NEVER

    def tell(self, name: str, tail: bytes, *, lasts: bool = False) -> None:
        """``tail`` is the rest of the message behind its id. One that ``lasts`` outlives a reset."""
        self.session.put([splice(name, self.id_json, tail)], None if lasts else self)

    @property
    def has_pending(self) -> bool:
        """Is something held back for it, that is to leave before the connection ends?"""
        return False

    def forget_pending(self) -> None:
        """What is held back is void."""

    def refill(self) -> bool:
        """Everything has left: queues what was held back. Was there something?"""
        return False

    def leave(self) -> None:
        """Its client wants no more of it."""
        raise NotImplementedError


class Subscription(Listener):
    """One client's view of one table; ``max_hz``: so often at most it gets changes."""

    __slots__ = (
        "_pending",
        "_pending_before",
        "_pending_meta",
        "_skipped",
        "feed",
        "filter",
        "max_hz",
        "mode",
        "must_resync",
        "wants_snapshot",
    )

    def __init__(
        self,
        session: Session,
        feed: Subscribed,
        sub_id: str,
        view: Filter,
        mode: Mode,
        *,
        wants_snapshot: bool,
        max_hz: float | None,
    ) -> None:
        super().__init__(session, sub_id)
        self.feed = feed
        self.filter = view
        self.mode = mode
        self.wants_snapshot = wants_snapshot
        self.max_hz = max_hz
        self.must_resync = False
        self._pending: dict[RowId, Item] = {}  # what was conflated, the newest of each row
        self._pending_meta = b""
        self._pending_before = b""
        self._skipped = 0

    @property
    def has_pending(self) -> bool:
        return bool(self._pending)

    def offer(self, emission: Emission) -> None:
        """Queues changes; conflates them, or ends the connection, when the client is slow."""
        if self.must_resync:
            return  # the snapshot to come has them
        if self.mode == "latest" and (self._pending or self.session.is_behind):
            self._conflate(emission)
        else:
            self.session.put(emission.frames(self.id_json), self)

    def offer_progress(self, tail: bytes) -> None:
        """Progress must not overtake changes, and needs no place in a slow client's queue."""
        if not (self._pending or self.must_resync or self.session.is_behind):
            self.tell("progress", tail)

    def _conflate(self, emission: Emission) -> None:
        before = len(self._pending)
        for item in emission.items:
            self._pending[item.id] = item
        replaced = before + len(emission.items) - len(self._pending)
        self._skipped += replaced + emission.skipped
        if not before:
            self._pending_before = emission.before
        self._pending_meta = emission.meta
        self.session.metrics.ws_skipped_changes_total.inc(replaced)
        if len(self._pending) > self.session.settings.ws_pending_rows_max:
            self.must_resync = True
            self._pending = {}
        self.session.wake()

    def take_pending(self) -> list[bytes]:
        """The conflated changes as messages, once everything queued before has left."""
        if not self._pending:
            return []
        items = list(self._pending.values())
        emission = Emission(items, self._pending_meta, self._pending_before, self._skipped)
        self.forget_pending()
        return emission.frames(self.id_json)

    def flush(self) -> None:
        """Queues the conflated changes now, since a position is told next that has them."""
        frames = self.take_pending()
        if frames:
            self.session.put(frames, self)

    def forget_pending(self) -> None:
        self._pending = {}
        self._skipped = 0
        self.must_resync = False

    def refill(self) -> bool:
        if self.must_resync:
            self.feed.resync(self, "too-far-behind")
            return True
        frames = self.take_pending()
        self.session.queue(frames, self)
        return bool(frames)

    def leave(self) -> None:
        self.feed.leave(self)


class Outlet(Protocol):
    """Where the messages of one client go."""

    @property
    def takes_more(self) -> bool:
        """Does the client take a message now? One who fetches them never says so."""
        ...

    @property
    def raw(self) -> Callable[[bytes], None] | None:
        """Writes whole WebSocket frames as they are, where that may be done."""
        ...

    def write(self, payload: bytes) -> None:
        """Writes one message."""
        ...

    def wake(self) -> None:
        """Something waits, or the session has failed."""
        ...

    def abort(self) -> None:
        """Ends the connection as if the network had cut it."""
        ...


Entry = tuple[bytes | Waiting, Listener | None]
"""What waits, and whose it is"""


class Session:
    """One connection. `write_on` when its outlet takes more; ``direct`` writes frames as they are to a client
    for whom nothing waits."""

    __slots__ = (
        "_bytes",
        "_is_closed",
        "_is_flowing",
        "_outlet",
        "_queue",
        "caller",
        "connection",
        "direct",
        "failure",
        "is_clear",
        "metrics",
        "own_rows_only",
        "settings",
        "subscriptions",
        "subscriptions_max",
    )

    def __init__(
        self,
        connection: str,
        settings: WebSettings,
        metrics: Metrics,
        outlet: Outlet,
        caller: Caller,
        *,
        own_rows_only: bool = False,
        subscriptions_max: int,
    ) -> None:
        self.connection = connection
        self.settings = settings
        self.metrics = metrics
        self.caller = caller
        self.own_rows_only = own_rows_only
        self.subscriptions_max = subscriptions_max
        self.subscriptions: dict[str, Listener] = {}  # id -> subscription
        self.failure: tuple[Close, str] | None = None
        self.is_clear = False  # nothing waits, and the outlet takes more
        self.direct: Callable[[bytes], None] | None = None
        self._outlet = outlet
        self._queue: deque[Entry] | None = None  # made when something has to wait
        self._bytes = 0
        self._is_closed = False
        self._is_flowing = False  # `write_on` is to be called soon

    @property
    def is_behind(self) -> bool:
        return self._queue is not None and len(self._queue) >= BEHIND_FRAMES

    def wake(self) -> None:
        if not self.is_clear:
            self._outlet.wake()

    def block(self) -> None:
        """The outlet takes no more now: what comes has to wait until `write_on`."""
        self.is_clear = False
        self.direct = None

    def write_on(self) -> None:
        """The outlet takes more: writes what waits, a stretch at once."""
        self._is_flowing = False
        left = FLOW_BYTES
        while self._outlet.takes_more and self.failure is None and not self._is_closed:
            payload = self.next()
            if payload is None:
                self._queue = None
                self.is_clear, self.direct = True, self._outlet.raw
                return
            self._outlet.write(payload)
            left -= len(payload)
            if left <= 0:
                self._flow_soon()
                return

    def _flow_soon(self) -> None:
        if not self._is_flowing:
            self._is_flowing = True
            asyncio.get_running_loop().call_soon(self.write_on)

    def put(self, frames: Sequence[bytes], owner: Listener | None = None) -> None:
        """Says messages; a client that leaves too many waiting is let go.

        What waits already is what counts, not how much comes at once: one step may be large.
        """
        if self.is_clear:
            for payload in frames:
                self._outlet.write(payload)
            self.metrics.ws_frames_total.inc(len(frames))
            return
        if self.failure is not None or self._is_closed:
            return
        limit = self.settings
        queue = self._waiting()
        if self._bytes > limit.ws_queue_bytes_max or len(queue) >= limit.ws_queue_frames_max:
            self.metrics.ws_slow_disconnects_total.inc()
            self.fail(Close.SLOW, "the client is too slow: subscribe with mode latest, or to less")
            return
        self.queue(frames, owner)
        self._outlet.wake()

    def queue(self, frames: Sequence[bytes], owner: Listener | None) -> None:
        """Behind what waits, without a look at how much that is."""
        self._waiting().extend((payload, owner) for payload in frames)
        self._bytes += sum(map(len, frames))

    def put_snapshot(self, snapshot: Snapshot, owner: Subscription) -> None:
        """Queues a snapshot, to be encoded as it leaves; waiting for it is not being slow."""
        self._waiting().append((Waiting(snapshot, owner), owner))
        self.block()
        if self._outlet.takes_more:
            self._flow_soon()
        self._outlet.wake()

    def _waiting(self) -> deque[Entry]:
        if self._queue is None:
            self._queue = deque()
        return self._queue

    def purge(self, owner: Listener) -> None:
        """Takes back what has not left yet, before a reset makes it void."""
        if self._queue is not None:
            self._queue = deque(entry for entry in self._queue if entry[1] is not owner)
            self._bytes = sum(len(payload) for payload, _ in self._queue if isinstance(payload, bytes))
        owner.forget_pending()

    def fail(self, code: Close, reason: str) -> None:
        """Ends the connection; the first reason stands."""
        if self.failure is None:
            self.failure = (code, reason)
            self._queue = None
            self._bytes = 0
        self._leave()
        self._outlet.wake()

    def abort(self) -> None:
        """Ends the connection as if the network had cut it."""
        self.block()
        self._outlet.abort()

    def admit(self, caller: Caller) -> None:
        """It has shown who it is."""
        self.caller = caller

    def say(self, name: str, **members: object) -> None:
        self.put([message(name, **members)])

    async def drain(self, clock: Clock) -> None:
        """Returns when all that waits has left."""
        self._outlet.wake()
        while self.failure is None and not self._is_closed and not self._is_empty:
            await clock.sleep_ms(DRAIN_POLL_MS)

    @property
    def _is_empty(self) -> bool:
        return not self._queue and not any(sub.has_pending for sub in self.subscriptions.values())

    def next(self) -> bytes | None:
        """The next message, or ``None`` when nothing waits."""
        while True:
            while self._queue:
                payload = self._queue[0][0]
                if isinstance(payload, bytes):
                    self._queue.popleft()
                    self._bytes -= len(payload)
                else:
                    part = payload.take()
                    if part is None:
                        self._queue.popleft()
                        continue
                    payload = part
                self.metrics.ws_frames_total.inc()
                return payload
            if not self._refill():
                return None

    def _refill(self) -> bool:
        """Queues what was held back from a client that has caught up now."""
        return any(sub.refill() for sub in list(self.subscriptions.values()))

    def close(self) -> None:
        """Leaves every feed; nothing leaves any more."""
        self._is_closed = True
        self._leave()

    def _leave(self) -> None:
        self.block()
        for sub in list(self.subscriptions.values()):
            sub.leave()
        self.subscriptions.clear()
