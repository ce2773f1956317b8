"""The subscriptions of a feed that get the very same messages."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from streamflow.clock import Clock
from streamflow.web.live.filters import Filter, Item, RowId
from streamflow.web.live.session import Emission, Listener, Notice, Subscription


class Delta:
    """What one checkpoint of one worker changed.

    ``position``: that of the table with it, as JSON; ``before``: without it.
    """

    __slots__ = ("_by_key", "before", "items", "position", "seq")

    def __init__(self, seq: int, items: Sequence[Item], position: bytes, before: bytes) -> None:
        self.seq = seq
        self.items = items
        self.position = position
        self.before = before
        self._by_key: dict[bytes, list[Item]] | None = None

    def of(self, view: Filter) -> list[Item]:
        """What it means for this view. Those of some keys look these up, however many views there are."""
        items: Iterable[Item] = self.items
        if view.keys is not None:
            if self._by_key is None:
                self._by_key = {}
                for item in self.items:
                    self._by_key.setdefault(item.id[1], []).append(item)
            by_key = self._by_key
            items = [item for key in view.keys for item in by_key.get(key, ())]
        return [item for item in map(view.view, items) if item is not None]


S = TypeVar("S", bound=Listener)
S_contra = TypeVar("S_contra", bound=Listener, contravariant=True)


class Message(Protocol[S_contra]):
    """What many get, but for their ids."""

    def wire(self, id_json: bytes) -> bytes:
        """It as WebSocket frames: made once for an id."""
        ...

    def offer_to(self, sub: S_contra) -> None:
        """To a client that does not take it at once."""
        ...


@dataclass(frozen=True, slots=True)
class Outgoing(Generic[S]):
    """A message for those who were subscribed when it was made."""

    number: int
    message: Message[S]
    subscriptions: Sequence[S]

    def __len__(self) -> int:
        return len(self.subscriptions)

    def send(self, begin: int, end: int) -> int:
        """To these of them; returns to how many it was written. HOT PATH: a look, and a write, for each."""
        number, message = self.number, self.message
        sent = 0
        id_json, wire = b"", b""
        for sub in self.subscriptions[begin:end]:
            if sub.live_from >= number:
                continue  # it has gone, or has begun anew, with this in what it begins with
            write = sub.session.direct
            if write is None:
                message.offer_to(sub)
                continue
            if sub.id_json != id_json:
                id_json, wire = sub.id_json, message.wire(sub.id_json)
            write(wire)
            sent += 1
        return sent


class Channel:
    """The subscriptions that get the very same messages: one filter, one rate.

    ``meta`` gives the cursor and the position of a message, of (seq, fingerprint of the filter, position);
    ``number`` the next number of what goes out. ``wake`` is called when what a rate has held back is due.
    """

    def __init__(
        self,
        clock: Clock,
        meta: Callable[[int, str, bytes], bytes],
        number: Callable[[], int],
        wake: Callable[[], None],
        view: Filter,
        *,
        seq: int,
        conflates: bool,
        max_hz: float | None,
    ) -> None:
        self.filter = view
        self.seq = seq  # of the last change that it has seen
        self._subscriptions: dict[Subscription, None] = {}
        self._sequence: tuple[Subscription, ...] | None = None  # the same, as messages have it
        self._clock = clock
        self._meta = meta
        self._number = number
        self._wake = wake
        self._fingerprint = view.fingerprint
        self._conflates = conflates
        self._interval_ms = 0.0 if max_hz is None else 1_000.0 / max_hz
        self._held: list[Item] = []
        self._held_by_id: dict[RowId, Item] = {}
        self._skipped = 0
        self._first: Delta | None = None  # of those that are held
        self._last: Delta | None = None
        self._sent_at_ms = float("-inf")
        self._timer: asyncio.Task[None] | None = None
        self._out: deque[Outgoing[Subscription]] = deque()
        self._progress = b""  # told last

    # -- who is subscribed -----------------------------------------------------------------------

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        if self._sequence is None:
            self._sequence = tuple(self._subscriptions)
        return self._sequence

    def add(self, sub: Subscription) -> None:
        self._subscriptions[sub] = None
        self._sequence = None

    def discard(self, sub: Subscription) -> None:
        if self._subscriptions.pop(sub, self) is None:
            self._sequence = None

    # -- what is new -----------------------------------------------------------------------------

    def see(self, deltas: Iterable[Delta]) -> None:
        """Takes what it has not seen yet, in order."""
        for delta in deltas:
            if delta.seq > self.seq:
                self.seq = delta.seq
                self._hold(delta)

    def _hold(self, delta: Delta) -> None:
        items = delta.of(self.filter)
        if not items:
            return
        self._last = delta
        if self._first is None:
            self._first = delta
        if not self._conflates:
            self._held.extend(items)
            return
        before = len(self._held_by_id)
        for item in items:
            self._held_by_id.pop(item.id, None)  # the newest stands last
            self._held_by_id[item.id] = item
        self._skipped += before + len(items) - len(self._held_by_id)

    @property
    def holds(self) -> bool:
        return bool(self._held or self._held_by_id)

    def ripen(self) -> bool:
        """Makes a message of what is held, as its rate allows. Is there something to say?"""
        if self.holds:
            wait_ms = self._sent_at_ms + self._interval_ms - self._clock.monotonic_ms()
            if wait_ms <= 0 or self._interval_ms == 0.0:
                self.flush()
            elif self._timer is None:
                self._timer = asyncio.create_task(self._wake_in(wait_ms))
        return bool(self._out)

    async def _wake_in(self, wait_ms: float) -> None:
        await self._clock.sleep_ms(wait_ms)
        self._timer = None
        self._wake()

    def flush(self) -> None:
        """Makes a message of what is held, for those who are subscribed now."""
        held = self._held or list(self._held_by_id.values())
        skipped, self._skipped = self._skipped, 0
        self._held, self._held_by_id = [], {}
        if not held:
            return
        assert self._first is not None
        assert self._last is not None
        self._sent_at_ms = self._clock.monotonic_ms()
        meta = self._meta(self._last.seq, self._fingerprint, self._last.position)
        before = self._meta(self._first.seq - 1, self._fingerprint, self._first.before)
        self._first = None
        self._put(Emission(held, meta, before, skipped))

    def _put(self, message: Emission | Notice) -> None:
        self._out.append(Outgoing(self._number(), message, self.subscriptions))

    def tell(self, told: Notice) -> None:
        """Behind all that is held."""
        self.flush()
        self._put(told)

    def tell_progress(self, tail: bytes) -> None:
        """Not while changes are held back: their position comes with them."""
        if not self.holds and tail != self._progress:
            self._progress = tail
            self._put(Notice("progress", tail))

    def next(self) -> Outgoing[Subscription] | None:
        return self._out.popleft() if self._out else None

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
