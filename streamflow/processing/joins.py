"""Streams joined with streams, by key, within a time of each other, in event time.

What has come on one side waits in a table of that side until no event of the other side can match it any
more: until both sides' time has passed ``within + grace`` behind it. The tables are changelogged like
any others, and every step is part of the checkpoint of the event that took it, so that a crash changes
nothing. A side that has been silent for ``idle`` holds nothing back.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Any, NoReturn

from streamflow.clock import Clock
from streamflow.codecs.chunk import Chunk
from streamflow.errors import StreamflowError
from streamflow.processing.acks import AckTracker, ChunkAcks
from streamflow.processing.feed import EventFeed
from streamflow.processing.units import EventRef, InFlight
from streamflow.state.agent_table import AgentTable
from streamflow.state.event_context import Sent
from streamflow.state.partition import TablePartition
from streamflow.state.progress import Progress
from streamflow.state.stores.base import DELETED, MISSING, NO_WINDOW

LEFT, RIGHT = 0, 1
TICK_MS = 250.0
"""So often somebody looks whether anything expires while nothing comes."""
Entry = list[Any]
"""[event time in ms, number, value as on the wire, did it match?]; a number is there once on its side"""
Waiting = tuple[int, int, int, Hashable]
"""(event time in ms, number, side, key) of an entry, in the order in which entries expire"""
Pair = tuple[object, object]
"""(left value, right value), ``None`` where nothing matches"""
Text = str | list[str] | None
"""A record's value as JSON holds it: a text, or a list with the base64 of what is none"""


class JoinKeyError(StreamflowError):
    """The key to join by lies in another partition than the event: `group_by` it first."""


@dataclass(frozen=True, slots=True)
class JoinSpec:
    """``outer``: does an event of the left, the right side come out alone if nothing matches it?"""

    name: str
    outer: tuple[bool, bool]
    within_ms: int
    grace_ms: int = 0
    idle_ms: int = 10_000

    @property
    def stays_ms(self) -> int:
        return self.within_ms + self.grace_ms


@dataclass(slots=True)
class Side:
    """One side: its consumer's feed, its table, and how a value comes back from the wire form.

    ``key_of`` is (value, event key) -> the key to join by; ``place`` gives the partition of such a key.
    """

    feed: EventFeed
    table: AgentTable
    decode: Callable[[bytes | None], Awaitable[Any]]
    key_of: Callable[[Any, Any], Hashable]
    place: Callable[[Any], int]


@dataclass(slots=True)
class PartitionState:
    """What is only remembered: it can be made again of the tables and the progress."""

    parts: tuple[TablePartition, TablePartition]
    watermarks_ms: list[int | None]
    moved_ms: list[float]  # when each side's last event came, monotonic
    waiting: list[Waiting] = field(default_factory=list)  # a heap
    closed_ms: int | None = None

    def close_to(self, joint_ms: int) -> None:
        """Nothing that comes may be matched with what a time before this has closed."""
        self.closed_ms = joint_ms


class Join:
    """Of two sides; `take` is told each event, in turn, and gives the pairs that come of it.

    It lives until an event fails: what is only remembered is then made again, of the tables.
    """

    def __init__(self, spec: JoinSpec, clock: Clock, sides: Sequence[Side]) -> None:
        self.spec = spec
        self.sides = tuple(sides)
        self._clock = clock
        self._states: dict[int, PartitionState] = {}

    async def take(self, unit: InFlight, value: object) -> list[Pair]:
        """The pairs of one event: those that it ends the waiting of, alone, and then its own matches."""
        partition = unit.partition
        state = self._state(partition)
        if isinstance(unit.ref.feed, TickFeed):
            return await self._expire(state, unit.times[0])
        time_ms = unit.time_ms()
        side = LEFT if unit.ref.feed is self.sides[LEFT].feed else RIGHT
        state.watermarks_ms[side] = unit.running_watermark_ms()
        state.moved_ms[side] = self._clock.monotonic_ms()
        pairs = await self._expire(state, self._joint_ms(state))
        if state.closed_ms is not None and time_ms + self.spec.stays_ms < state.closed_ms:
            unit.ref.become("late")
            return pairs
        key = self._key(unit, side, value)
        return pairs + await self._match(unit, state, side, key, value)

    def _key(self, unit: InFlight, side: int, value: object) -> Hashable:
        own = unit.keys[unit.position]
        key = self.sides[side].key_of(value, own)
        if key != own and self.sides[side].place(key) != unit.partition:
            raise JoinKeyError(
                f"join {self.spec.name}: key {key!r} does not lie in partition {unit.partition}, where its "
                "event is; group_by it first"
            )
        return key

    async def _match(
        self, unit: InFlight, state: PartitionState, side: int, key: Hashable, value: object
    ) -> list[Pair]:
        time_ms, other = unit.times[unit.position], self.sides[1 - side]
        pairs: list[Pair] = []
        found = _entries(other.table, key)
        fitting = [entry for entry in found if abs(entry[0] - time_ms) <= self.spec.within_ms]
        for entry in fitting:
            pairs.append(_pair(side, value, await other.decode(_wire(entry[2]))))
        if any(not entry[3] for entry in fitting):
            matched = [[*entry[:3], True] if entry in fitting else entry for entry in found]
            other.table.write(key, matched, NO_WINDOW)
        ref = unit.ref
        chunk = ref.chunk_acks.chunk
        number = chunk.offsets[ref.index]
        entry = [time_ms, number, _text(chunk.raw_values[ref.index]), bool(fitting)]
        own = self.sides[side].table
        own.write(key, [*_entries(own, key), entry], NO_WINDOW)
        heappush(state.waiting, (time_ms, number, side, key))
        return pairs

    async def _expire(self, state: PartitionState, joint_ms: int | None) -> list[Pair]:
        """Takes away what nothing can match any more; what never matched comes out alone."""
        pairs: list[Pair] = []
        if joint_ms is None or (state.closed_ms is not None and joint_ms < state.closed_ms):
            return pairs
        state.close_to(joint_ms)
        while state.waiting and state.waiting[0][0] + self.spec.stays_ms < joint_ms:
            time_ms, number, side, key = heappop(state.waiting)
            table = self.sides[side].table
            entries = _entries(table, key)
            left = [entry for entry in entries if (entry[0], entry[1]) != (time_ms, number)]
            if len(left) == len(entries):
                continue
            table.write(key, left or DELETED, NO_WINDOW)
            (gone,) = [entry for entry in entries if (entry[0], entry[1]) == (time_ms, number)]
            if self.spec.outer[side] and not gone[3]:
                pairs.append(_pair(side, await self.sides[side].decode(_wire(gone[2])), None))
        return pairs

    # -- time ------------------------------------------------------------------------------------

    def _joint_ms(self, state: PartitionState) -> int | None:
        """How far time has come on both sides; a silent side does not count."""
        now_ms = self._clock.monotonic_ms()
        live = [
            state.watermarks_ms[side]
            for side in (LEFT, RIGHT)
            if now_ms - state.moved_ms[side] < self.spec.idle_ms
        ]
        known = [seen_ms for seen_ms in state.watermarks_ms if seen_ms is not None]
        if not known or None in live:
            return None
        if live:
            return min(seen_ms for seen_ms in live if seen_ms is not None)
        return max(known) + int(now_ms - max(state.moved_ms))

    def idle_tick(self) -> tuple[int, Hashable, int] | None:
        """(partition, key, time) of what expires without an event, since nothing has come for a while."""
        for partition, state in self._states.items():
            self._state(partition)
            if not state.waiting or state.parts != self._parts(partition):
                continue
            joint_ms = self._joint_ms(state)
            if joint_ms is not None and state.waiting[0][0] + self.spec.stays_ms < joint_ms:
                return partition, state.waiting[0][3], joint_ms
        return None

    # -- what is remembered ------------------------------------------------------------------------

    def _parts(self, partition: int) -> tuple[TablePartition | None, TablePartition | None]:
        left, right = self.sides
        return left.table.parts.get(partition), right.table.parts.get(partition)

    def _state(self, partition: int) -> PartitionState:
        state, parts = self._states.get(partition), self._parts(partition)
        left, right = parts
        assert left is not None, "an event's partition has its tables"
        assert right is not None, "an event's partition has its tables"
        if state is not None and state.parts == parts:
            return state
        waiting = [
            (entry[0], entry[1], side, key)
            for side, part in enumerate((left, right))
            for key in self._keys(part)
            for entry in part.get(NO_WINDOW, key)
        ]
        heapify(waiting)
        now_ms = self._clock.monotonic_ms()
        watermarks = [self._watermark_ms(side, partition) for side in self.sides]
        state = self._states[partition] = PartitionState((left, right), watermarks, [now_ms, now_ms], waiting)
        return state

    def _keys(self, part: TablePartition) -> set[Hashable]:
        layers = (part.changes, part.cut or {})
        keys: set[Hashable] = {key for layer in layers for key in layer.get(NO_WINDOW, {})}
        keys.update(key for _, key, _ in part.store.scan())
        return {key for key in keys if part.get(NO_WINDOW, key) is not MISSING}

    def _watermark_ms(self, side: Side, partition: int) -> int | None:
        side.feed.settle()  # what is done counts, also since the last checkpoint
        found = [
            tracker.progress.watermark_ms
            for (_, number), tracker in side.feed.trackers.items()
            if number == partition and tracker.progress.watermark_ms is not None
        ]
        return max(found, default=None)


def _entries(table: AgentTable, key: Hashable) -> list[Entry]:
    found = table.read(key, NO_WINDOW)
    return [] if found is MISSING else found


def _pair(side: int, own: object, other: object) -> Pair:
    return (own, other) if side == LEFT else (other, own)


def _text(raw: bytes | None) -> Text:
    """Bytes as JSON: a text, or where they are none a list with their base64."""
    if raw is None:
        return None
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return [base64.b64encode(raw).decode()]


def _wire(text: Text) -> bytes | None:
    if isinstance(text, list):
        return base64.b64decode(text[0])
    return None if text is None else text.encode()


class TickFeed(EventFeed):
    """Gives a unit without an event when something expires while nothing comes; part of ``main``'s."""

    def __init__(
        self, main: EventFeed, clock: Clock, next_tick: Callable[[], tuple[int, Hashable, int] | None]
    ) -> None:
        super().__init__(
            main.consumer,
            lambda _: None,
            policy=main.policy,
            give_up=_not_at_all,
        )
        self._main = main
        self.units = main.units
        self.tick_ms = TICK_MS
        self._next_tick = next_tick

    def keep(self, sends: Sequence[Sent]) -> None:
        self._main.keep(sends)

    def pop(self, lane: int) -> EventRef | None:
        tick = self._next_tick()
        if tick is None:
            return None
        partition, key, time_ms = tick
        chunk = Chunk(
            "",
            partition,
            offsets=[-1],
            keys=[key],
            events=[None],
            columns={},
            times_ms=[time_ms],
            timestamps_ms=[time_ms],
            raw=([None], [None], None),
            next_offset=-1,
        )
        tracker = AckTracker(Progress(self.consumer, "", partition))
        return EventRef(self, tracker, ChunkAcks(chunk, None, (), 0), 0)

    def put_back(self, refs: Sequence[EventRef], lane: int) -> None:
        """It comes again by itself while it is due."""

    def finish(self, ref: EventRef) -> None:
        for tracker in self._main.trackers.values():
            tracker.touch()  # so that there is a checkpoint, though no event was done
            return


def _not_at_all(_: Chunk, __: int, exc: BaseException) -> NoReturn:
    """What expired can't be set aside: there is no record of it."""
    raise exc
