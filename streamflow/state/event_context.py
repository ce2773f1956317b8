"""The event that an agent holds: where it lies, what it wrote and sent so far.

A checkpoint holds whole events. What the event in flight wrote and sent is kept apart by its index in
the chunk: it stays out of a cut that is made meanwhile, and it is undone when the event fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, Protocol

from streamflow.codecs.times import NO_TIMESTAMP, no_timestamp
from streamflow.errors import ConfigurationError, DecodeError, StaleEvent
from streamflow.state.chunk_time import NO_TIME, ChunkTime
from streamflow.state.stores.base import MISSING
from streamflow.transports.base import Record

if TYPE_CHECKING:
    from streamflow.codecs.chunk import Chunk


class WrittenRows(Protocol):
    """A table partition, as those see it who undo what was written there."""

    def put_back(self, start: int, key: Hashable, before: object) -> None:
        """Undoes a write: ``before`` is what the changes had, or `MISSING`."""
        ...

    def leave_cut(self, start: int, key: Hashable, before: object) -> bool:
        """Moves a write from the cut, which gets ``before`` back, to the changes. False: there is no cut."""
        ...


class RowCopy(Protocol):
    """A copy of a row's value that the event was given, and may change: see `handed_copy`."""

    value: Any

    def write_back(self, context: EventContext) -> None:
        """The event ends, or writes the row: what was changed in place is written first."""


SendTime = Literal["now", "event"]
"""What is sent without a timestamp is stamped with: now, or the time of its event."""

# (index in the chunk, table partition, window start, key, value before or MISSING from its changes)
UncommittedWrite = tuple[int, WrittenRows, int, Hashable, Any]
# (index in the chunk, what to write, resolved with the checkpoint that holds it)
Sent = tuple[int, Record, "asyncio.Future[Record] | None"]


class SendPromise(asyncio.Future[Any]):
    """Of a send: resolved with the checkpoint that holds it.

    ``consumer`` sent it, on behalf of the event ``origin``: (chunk, index), or ``None`` where there is none.
    """

    def __init__(self, consumer: str, origin: tuple[Chunk, int] | None) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self.consumer = consumer
        self.origin = origin


def stamp_ms(time_ms: int, now_ms: int) -> int:
    """An event time as a record's timestamp: brokers take none from before 1970, and none far ahead.

    How far is the topic's to say, by default an hour; what claims to be later than now is stamped with now.
    """
    return max(0, min(time_ms, now_ms))


class EventContext:
    """One task of one agent: the chunk it works on and the event it holds.

    ``position`` is the event in flight while ``in_flight``; otherwise the last one that is done.
    """

    __slots__ = (
        "block",
        "chunk",
        "conflicting",
        "consumer",
        "copies",
        "in_flight",
        "keys",
        "partition",
        "position",
        "sends",
        "spots",
        "stale",
        "time",
        "times",
        "uncommitted_writes",
    )

    def __init__(self, consumer: str) -> None:
        self.consumer = consumer
        self.sends: list[Sent] = []
        self.uncommitted_writes: list[UncommittedWrite] = []
        self.clear()

    def clear(self) -> None:
        """Holds nothing, and nothing that was held is remembered."""
        self.chunk: Chunk | None = None
        self.block: list[Any] = []  # what is walked over before the event loop has its turn
        self.position = -1
        self.in_flight = False
        self.stale = False
        # (table, window's id, key) -> the copy that the event in flight was given; None: none, as mostly
        self.copies: dict[tuple[object, int, Hashable], RowCopy] | None = None
        self.conflicting = False  # another event wrote, and kept, over what the event in flight wrote
        self.partition = -1
        self.keys: list[Any] = []
        self.times: list[int] = []
        self.time = NO_TIME
        self.spots = NO_TIME.spots
        self.uncommitted_writes.clear()
        self.sends.clear()

    def open(self, chunk: Chunk, watermark_ms: int | None) -> None:
        """Begins a chunk; nothing of it is in flight yet."""
        self.chunk = chunk
        self.position = -1
        self.partition = chunk.partition
        self.keys = chunk.keys
        self.times = chunk.times_ms
        self.time = ChunkTime(chunk.times_ms, watermark_ms)
        self.spots = self.time.spots

    def time_ms(self) -> int:
        """When the event in flight happened. Raises DecodeError where nothing tells."""
        time_ms = self.times[self.position]
        chunk = self.chunk
        if time_ms == NO_TIMESTAMP and chunk and chunk.timestamps_ms[self.position] == NO_TIMESTAMP:
            raise no_timestamp()
        return time_ms

    def running_watermark_ms(self) -> int:
        """The consumer's highest event time as of the event in flight, that event included.

        What an idle tick assumed is not in it: silence makes no event late that comes in order.
        """
        return self.time.watermark_ms(self.position)

    @property
    def takes_sends(self) -> bool:
        """Does what is sent now belong to a checkpoint to come?"""
        return self.in_flight or self.stale

    def check_send(self) -> None:
        """Raises as `check` does."""
        self.check()

    def promise(self) -> SendPromise:
        """For what is sent now."""
        return SendPromise(self.consumer, None if self.chunk is None else (self.chunk, self.position))

    def holds(self, index: int) -> bool:
        """Is the event that had this index when it was asked for still in flight?"""
        return self.in_flight and self.position == index

    def move_to(self, key: Hashable) -> bool:
        """Of the events in flight, stands at one with this key. One event in flight: there is no other."""
        return False

    def check(self) -> None:
        """Raises StaleEvent for an event whose partition was taken away, TypeError where none is held."""
        if self.stale:
            raise StaleEvent("the event's partition is no longer assigned to this worker")
        if not self.in_flight:
            raise TypeError("a table can be written only while an agent holds an event")

    # -- values that can be changed in place ------------------------------------------------------

    def place(self) -> object:
        """Where it stands, for `return_to`, while its event is in flight."""
        return None

    def return_to(self, place: object) -> None:
        """Stands there again."""

    def keep_copy(self, table: object, start: int, key: Hashable, row_copy: RowCopy) -> None:
        """The event in flight was given this of a row."""
        if self.copies is None:
            self.copies = {}
        for spot in self.spots.values():
            spot.pause()  # the quick way of writing does not look for copies
        self.copies[table, start, key] = row_copy

    def settle_copies(self) -> None:
        """The event in flight ends: what it changed in place is written. Raises what `RowCopy` raises."""
        copies, self.copies = self.copies, None
        for row_copy in () if copies is None else copies.values():
            row_copy.write_back(self)

    def write_copies(self, table: object) -> None:
        """`settle_copies` of one table, which is about to be read; the event keeps its copies."""
        copies, self.copies = self.copies, None  # to write is to read: not again from within
        try:
            for row, row_copy in () if copies is None else copies.items():
                if row[0] is table:
                    row_copy.write_back(self)
        finally:
            self.copies = copies

    def drop_copies(self, table: object, key: Hashable) -> None:
        """The rows of this key are written: what the event was given of them before stands for nothing."""
        if self.copies is not None:
            kept = {row: each for row, each in self.copies.items() if row[0] is not table or row[2] != key}
            self.copies = kept or None

    def revert(self) -> None:
        """Undoes what the event in flight wrote and sent: it will be tried again, or set aside."""
        self.copies = None
        held = self.position
        for index, part, start, key, before in reversed(self.uncommitted_writes):
            if index != held:
                continue
            part.put_back(start, key, before)
        self.uncommitted_writes = [entry for entry in self.uncommitted_writes if entry[0] != held]
        for _, _, future in (sent for sent in self.sends if sent[0] == held):
            if future is not None:
                future.cancel()
        self.sends = [sent for sent in self.sends if sent[0] != held]

    def begin_block(self, block: list[Any]) -> None:
        """From here on one event after the other of these is in flight."""
        self.in_flight = True
        self.block = block

    def end_block(self) -> None:
        """The event loop has its turn behind the event in flight. Another thread may call it.

        Who iterates over the block finds that nothing of it is left; the rest is the next block's.
        """
        self.block.clear()

    def settled(self) -> int:
        """The index of the last event of the chunk that is done (-1: none)."""
        return self.position - 1 if self.in_flight else self.position

    def take_sends(self) -> list[Sent]:
        """What the events that are done have sent; the held event's stays here."""
        if not self.sends:
            return []
        last = self.settled()
        done = [sent for sent in self.sends if sent[0] <= last]
        self.sends = [sent for sent in self.sends if sent[0] > last]
        return done

    def held_writes(self) -> list[UncommittedWrite]:
        """What the event in flight wrote, oldest first; what older events wrote is forgotten."""
        held = self.position if self.in_flight else -2
        self.uncommitted_writes = [entry for entry in self.uncommitted_writes if entry[0] == held]
        return self.uncommitted_writes

    def writes(self) -> list[UncommittedWrite]:
        """What the event in flight wrote, oldest first."""
        return (
            [entry for entry in self.uncommitted_writes if entry[0] == self.position]
            if self.in_flight
            else []
        )

    # -- what becomes of the event in flight -----------------------------------------------------

    def release(self) -> None:
        """It is done, or undone: no event is in flight."""
        self.in_flight = False

    def undo(self) -> None:
        """Undoes it; it is the next one to be taken."""
        self.revert()
        self.in_flight = False
        self.position -= 1

    def pass_over(self) -> None:
        """The next event is done without being taken."""
        self.position += 1
        self._leave_when_done()

    def finish_block(self) -> None:
        """What events up to the last one that is done have written can't be undone any more."""
        self.uncommitted_writes.clear()
        self.conflicting = False
        self._leave_when_done()

    def _leave_when_done(self) -> None:
        if self.chunk is not None and self.position + 1 >= len(self.chunk):
            self.chunk = None

    def leave(self) -> None:
        """Walks over its chunk no longer."""
        self.chunk = None

    def conflict(self) -> None:
        """Another event wrote, and kept, over what this one wrote."""
        self.conflicting = True

    def expire(self) -> None:
        """Its partition was taken away."""
        self.stale = True

    # -- the checkpoint's side -------------------------------------------------------------------

    def exclude_from_cut(self) -> None:
        """Puts what the event in flight wrote back from the cuts to the changes, as if written after them."""
        kept: list[UncommittedWrite] = []
        seen: set[tuple[int, int, Hashable]] = set()
        for index, part, start, key, before in self.held_writes():
            if (id(part), start, key) not in seen and part.leave_cut(start, key, before):
                seen.add((id(part), start, key))
                kept.append((index, part, start, key, MISSING))
        self.uncommitted_writes = kept


class WindowCloseContext(EventContext):
    """Not an event but a window that expires is in flight: what is sent goes with the window's end.

    Tables can't be written: ``in_flight`` stays False.
    """

    __slots__ = ()

    def __init__(self, consumer: str, partition: int) -> None:
        super().__init__(consumer)
        self.partition = partition

    def end(self) -> None:
        """The window's partition was taken away."""
        self.stale = True

    @property
    def takes_sends(self) -> bool:
        return True

    def holds(self, index: int) -> bool:
        return not self.stale  # what is sent waits for the checkpoint, and that for the one who is told

    def check_send(self) -> None:
        """Raises StaleEvent when the window's partition was taken away."""
        if self.stale:
            self.check()


current_context: ContextVar[EventContext | None] = ContextVar("streamflow_hand", default=None)
"""The event context of the agent whose code runs."""


def time_of_event(now_ms: int) -> int | None:
    """The timestamp of what is sent for the event in flight; ``None`` where there is none, or no time."""
    context = current_context.get()
    if context is None or not context.in_flight:
        return None
    try:
        return stamp_ms(context.time_ms(), now_ms)
    except DecodeError:
        return None


def checked_send_time(send_time: SendTime, what: str) -> SendTime:
    """Raises ConfigurationError, naming ``what``, for what is none."""
    if send_time not in ("now", "event"):
        raise ConfigurationError(f'{what}: send_time={send_time!r}: this is "now" or "event"')
    return send_time
