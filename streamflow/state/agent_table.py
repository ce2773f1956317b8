"""A table as agents write it."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import replace
from operator import add as operator_add
from typing import TYPE_CHECKING, Any, NotRequired, Protocol, TypedDict, Unpack

from streamflow.codecs import KeyCodec
from streamflow.codecs.times import NO_TIMESTAMP
from streamflow.state.committed import CommittedChanges, apply_cut
from streamflow.state.cut import Cut
from streamflow.state.event_context import EventContext, current_context
from streamflow.state.progress import Progress
from streamflow.state.stores.base import DELETED, MISSING, NO_WINDOW
from streamflow.transports.base import TopicPartition
from streamflow.windows import TumblingWindow, Window

if TYPE_CHECKING:
    from streamflow.state.partition import Spot, TablePartition, TableSpec

OnClose = Callable[[int, Any, Any], Awaitable[None]]
"""(window start, key, value): told of a row of a window that has expired"""


class KeyedRow(Protocol):
    """What stands for the row of a key where agents write ``row += operand``."""

    @property
    def key(self) -> Hashable: ...


Add = Callable[[KeyedRow, object], KeyedRow]


class TableHooks(TypedDict):
    """What a table asks of its worker, and tells it."""

    hash_partition: Callable[[Any], int]  # key -> the partition that its bytes hash to
    on_late: Callable[[EventContext, int], None]  # the event in flight came too late for this window's id
    on_scattered: Callable[[int, Any], None]  # this partition holds a row of a key that belongs to another
    on_close: NotRequired[OnClose | None]  # with `TableSpec.closes`: a row of a window has expired
    key_codec: NotRequired[KeyCodec | None]  # of its own, where its keys are not the topic's
    # The watermark that expires rows of a partition; ``None`` before anybody wrote.
    furthest_writer_ms: NotRequired[Callable[[TablePartition], int | None]]


_IMMUTABLE = (int, float, str, bytes, bool, type(None), tuple, frozenset)


class AgentTable:
    """A table in Faust's form: agents read and write rows of the partition of their event.

    Where events make the windows it is a `merging_table.MergingWindowTable`.
    """

    def __init__(
        self,
        spec: TableSpec,
        default: Callable[[], Any] | None,
        **hooks: Unpack[TableHooks],
    ) -> None:
        self.spec = spec
        self.default = default
        self.parts: dict[int, TablePartition] = {}
        self.key_codec = hooks.get("key_codec")
        self.on_close = hooks.get("on_close")
        self.furthest_writer_ms = hooks.get("furthest_writer_ms", _nobody_wrote)
        self._progress: dict[int, Progress] = {}  # partition -> how far its windows have expired
        self._hash_partition = hooks["hash_partition"]
        self._on_late = hooks["on_late"]
        self._on_scattered = hooks["on_scattered"]
        self._tumbling = window if isinstance(window := spec.window, TumblingWindow) else None

    @property
    def name(self) -> str:
        return self.spec.name

    def describe(self) -> dict[str, Any]:
        """JSON description, equal iff rows of an earlier run still mean the same, and lie where they did.

        For how long a window takes events is no part of it: the rows that are there stay what they are.
        """
        return {"window": described(self.spec.window)}

    def size(self, changelog: str, partitions: int) -> None:
        """Told, at the start, where its rows are rebuilt from."""
        self.spec = replace(self.spec, changelog=changelog, partitions=partitions)

    def hold(self, part: TablePartition, progress: Progress) -> None:
        """One of its partitions is this worker's, with the rows that are durable."""
        self._progress[part.partition] = progress
        self.parts[part.partition] = part

    def drop(self) -> None:
        """The partitions are gone."""
        for part in self.parts.values():
            part.end_spots()
        self.parts.clear()
        self._progress.clear()

    # -- Checkpointable --------------------------------------------------------------------------

    def due(self) -> bool:
        return any(part.announced for part in self.parts.values())

    def begin_cut(self) -> None:
        for part in self.parts.values():
            part.begin_cut(self.furthest_writer_ms(part))

    def cut(self, cut: Cut) -> None:
        for part in self.parts.values():
            part.emit(cut)
            progress = self._progress[part.partition]
            part.note_log(progress)
            if part.expired_to_ms is not None:
                progress.raise_watermark(part.expired_to_ms)
            if part.closed_to_ms != progress.closed_to_ms:
                progress.close_to(part.closed_to_ms)
            progress.note_writers(part.writers)

    def committed(self, written: Mapping[TopicPartition, int]) -> list[CommittedChanges]:
        return [
            apply_cut(part, written, expired=None if part.cut is None else self.expiring(part))
            for part in self.parts.values()
        ]

    def expiring(self, part: TablePartition) -> dict[int, list[Any]] | None:
        """The rows that the cut takes away, where those that are shown are not those that are kept."""
        return None

    # -- what agents do --------------------------------------------------------------------------

    def context(self) -> EventContext:
        """The event context of the calling agent. Raises TypeError outside an event."""
        context = current_context.get()
        if context is None:
            raise TypeError(f"table {self.spec.name!r} can be used only while an agent holds an event")
        context.check()
        return context

    def part(self, context: EventContext) -> TablePartition:
        try:
            return self.parts[context.partition]
        except KeyError:
            assert context.chunk is not None
            raise TypeError(
                f"table {self.spec.name!r} has no partition {context.partition}: the topic "
                f"{context.chunk.topic!r} has more partitions than the table's {self.spec.partitions}. Give "
                f"the table as many (partitions={context.partition + 1} at least; `streamflow reset` if its "
                "changelog is there already). To be only read from there, it can be a GlobalTable"
            ) from None

    def starts(self, context: EventContext) -> list[int]:
        """Starts of the windows that hold the event in flight; `NO_WINDOW` for a table without windows."""
        window = self.spec.window
        if window is None:
            return [NO_WINDOW]
        return [start for start, _ in window.windows_of(context.time_ms())]

    def open_starts(self, context: EventContext) -> list[int]:
        """Those of `starts` that are open. The event is late if none is, and only then."""
        starts = self.starts(context)
        if self.spec.window is None:
            return starts
        spot = self._spot(context)
        if starts[0] >= spot.own_from:
            return starts
        still = [s for s in starts if s >= spot.own_from or not self._is_late_in_own(context, spot, s)]
        if not still:
            self._on_late(context, starts[-1])
        return still

    def _spot(self, context: EventContext) -> Spot:
        """Where the consumer of the event in flight writes; made when it writes here first in a chunk."""
        spot: Spot | None = context.spots.get(self)
        if spot is None or spot.ended:
            part = self.part(context)
            spot = context.spots[self] = part.spot(self._open_from(context, part))
        return spot

    def _open_from(self, context: EventContext, part: TablePartition) -> int:
        """No event of the chunk is late for windows that begin here or later."""
        window = self.spec.window
        if window is None or self.spec.own_time:  # there the events' time is not the rows'
            return part.kept_from
        return max(part.kept_from, window.first_open_start(context.time.end_ms()))

    def _is_late_in_own(self, context: EventContext, spot: Spot, start: int) -> bool:
        """Is the event in flight late for this window of its own, which begins before `Spot.own_from`?

        Where the chunk is found to be in order, that goes back to what is kept at all.
        """
        if not spot.looked:
            in_order = self.spec.own_time or context.time.behind_ms() <= self._grace_ms
            spot.look(spot.part.kept_from if in_order else spot.own_from)
            if start >= spot.own_from:
                return False
        return self._is_late(context, spot.part, start)

    @property
    def _grace_ms(self) -> int:
        assert self.spec.window is not None
        return self.spec.window.grace_ms

    def read(self, key: Hashable, start: int) -> Any:
        """The row as the agent sees it, or `MISSING`."""
        context = self.context()
        return self.part(context).get(start, key)

    def base(self, part: TablePartition, start: int, key: Hashable) -> Any:
        """The row's value, else the table's default. Raises KeyError where it has none."""
        value = part.get(start, key)
        if value is not MISSING:
            return value if isinstance(value, _IMMUTABLE) else copy.deepcopy(value)
        return self._new(key)

    def _new(self, key: Hashable) -> Any:
        if self.default is None:
            raise KeyError(key)
        return self.default()

    def write(self, key: Hashable, value: object, start: int) -> None:
        """Sets a row (`DELETED` takes it away).

        Raises TypeError outside an event, StaleEvent when its partition was taken away.
        """
        self.write_for(self.context(), key, value, start)

    def write_for(self, context: EventContext, key: Hashable, value: object, start: int) -> None:
        """`write` on behalf of the event in flight, once it is known that there is one."""
        if key is not context.keys[context.position]:
            self._check_key(context, key)
        if context.copies is not None:
            context.copies.pop((self, start, key), None)  # what was given of the row stands for nothing now
        spot = self._spot(context)
        if start < spot.open_from and self._is_late_anywhere(context, spot, start):
            self._on_late(context, start)
            return
        spot.part.put(context, start, key, value)

    def change(self, key: Hashable, operator: Callable[[Any, Any], Any], operand: object) -> None:
        """HOT PATH: ``row = operator(row, operand)`` in every window that holds the event in flight.

        `write` written out for the common case: a tumbling window, an event that is not late.
        """
        context = current_context.get()
        if context is None or not context.in_flight or context.stale:
            context = self.context()
        if key is not context.keys[context.position]:
            self._check_key(context, key)
        if context.copies is not None:
            context.write_copies(self)
            context.drop_copies(self, key)
        index = context.position
        spot: Spot | None = context.spots.get(self)
        if spot is None or spot.ended:
            spot = self._spot(context)
        part = spot.part
        window = self._tumbling
        time_ms = context.times[index]
        if window is not None and time_ms == NO_TIMESTAMP:
            time_ms = context.time_ms()
        for start in (window.start_of(time_ms),) if window is not None else self.open_starts(context):
            if start < spot.own_from and self._is_late_in_own(context, spot, start):
                self._on_late(context, start)
                continue
            rows = part.changes.get(start)
            if rows is None:
                rows = part.changes[start] = {}
            elif window is not None and start >= spot.own_from and context.copies is None:
                # Set from outside on the hot path: a method would be a call for each event.
                spot.rows, spot.from_ms, spot.to_ms = rows, start, start + window.size_ms
            value = rows.get(key, MISSING)
            context.uncommitted_writes.append((index, part, start, key, value))
            if value is MISSING or value is DELETED:
                value = MISSING if value is DELETED else part.below(start, key)
                if value is MISSING:
                    value = self._new(key)
                elif not isinstance(value, _IMMUTABLE):
                    value = copy.deepcopy(value)
                part.writers.add(context.consumer)
            rows[key] = operator(value, operand)

    def adder(self) -> Add:
        """HOT PATH: ``row += operand``, for anything with a ``key``; returns the row.

        `change` written out once more, for what most events do: they count in the window that the event
        before them counted in, under their own key.
        """
        table, current, change, new = self, current_context.get, self.change, self._new

        def add(row: KeyedRow, operand: object) -> KeyedRow:
            key = row.key
            context = current()
            if context is not None and context.in_flight:
                index = context.position
                spot = context.spots.get(table)
                if (
                    spot is not None
                    and (key is context.keys[index] or key == context.keys[index])
                    and spot.from_ms <= context.times[index] < spot.to_ms
                ):
                    part, rows, start = spot.part, spot.rows, spot.from_ms
                    before = value = rows.get(key, MISSING)
                    if value is MISSING:  # the first write since the newest cut
                        value = part.below(start, key)
                        if value is MISSING:
                            value = new(key)
                        elif not isinstance(value, _IMMUTABLE):
                            value = DELETED  # to be copied: `change` does that
                        part.writers.add(context.consumer)
                    if value is not DELETED:
                        context.uncommitted_writes.append((index, part, start, key, before))
                        rows[key] = value + operand
                        return row
            change(key, operator_add, operand)
            return row

        return add

    def change_in(
        self, key: Hashable, operator: Callable[[Any, Any], Any], operand: object, starts: Iterable[int]
    ) -> None:
        """`change` in these windows, wherever the event in flight lies in time."""
        context = self.context()
        if context.copies is not None:
            context.write_copies(self)
        part = self.part(context)
        for start in starts:
            self.write(key, operator(self.base(part, start, key), operand), start)

    def _is_late(self, context: EventContext, part: TablePartition, start: int) -> bool:
        """Exactly: is the window closed by what this consumer saw up to and with this event?"""
        window = self.spec.window
        assert window is not None
        if not self.spec.own_time and window.closed(start, context.running_watermark_ms()):
            return True
        return part.expired_to_ms is not None and window.expired(start, part.expired_to_ms)

    def _is_late_anywhere(self, context: EventContext, spot: Spot, start: int) -> bool:
        """`_is_late`, where the window may be one of the event's own or any other."""
        t = context.times[context.position]
        if self._tumbling is not None and start <= t < start + self._tumbling.size_ms:
            return start < spot.own_from and self._is_late_in_own(context, spot, start)
        return self._is_late(context, spot.part, start)

    def _check_key(self, context: EventContext, key: Hashable) -> None:
        """A key that isn't the event's own may lie elsewhere: then this row holds only part of it.

        A batch in flight stands at its event with the key, if it has one.
        """
        if key == context.keys[context.position] or context.move_to(key):
            return
        if self._hash_partition(key) != context.partition:
            self._on_scattered(context.partition, key)

    def keys_seen(self, context: EventContext) -> Iterator[Any]:
        """Keys of the partition of the event in flight, changes included, each once."""
        part = self.part(context)
        seen: set[Any] = set()
        for layer in (part.changes, part.cut or {}):
            for start, rows in layer.items():
                for key in rows:
                    if key not in seen and part.get(start, key) is not MISSING:
                        seen.add(key)
                        yield key
        for start, key, _ in part.store.scan():
            if key not in seen and part.get(start, key) is not MISSING:
                seen.add(key)
                yield key


def described(window: Window | None) -> dict[str, Any] | None:
    """What rows by this window need in order to mean the same: for `AgentTable.describe`."""
    if window is None:
        return None
    return {name: value for name, value in window.describe().items() if name != "grace_ms"}


def _nobody_wrote(part: TablePartition) -> int | None:
    return None
