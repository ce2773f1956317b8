"""A table as agents write it."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Iterable, Iterator
from operator import add as operator_add
from typing import TYPE_CHECKING, Any

from streamflow.codecs import KeyCodec
from streamflow.state.event_context import CURRENT, Hand
from streamflow.state.stores.base import DELETED, MISSING, NO_WINDOW
from streamflow.windows import TumblingWindow

if TYPE_CHECKING:
    from streamflow.state.partition import TablePartition, TableSpec

_IMMUTABLE = (int, float, str, bytes, bool, type(None), tuple, frozenset)


class AgentTable:
    """A table in Faust's form: agents read and write rows of the partition of their event.

    Where events make the windows it is one of `moving`.

    ``hash_partition`` gives the partition that a key's bytes hash to; ``on_late`` and ``on_scattered``
    are told of what they name.
    """

    moving = False

    def __init__(
        self,
        spec: TableSpec,
        default: Callable[[], Any] | None,
        *,
        hash_partition: Callable[[Any], int],
        on_late: Callable[[Hand, int], None],
        on_scattered: Callable[[int, Any], None],
    ) -> None:
        self.spec = spec
        self.default = default
        self.parts: dict[int, TablePartition] = {}
        # With `TableSpec.closes`: told of each row of a window that has expired: start, key, value.
        self.on_close: Callable[[int, Any, Any], Awaitable[None]] | None = None
        self.key_codec: KeyCodec | None = None  # of its own, where its keys are not the topic's
        self._hash_partition = hash_partition
        self._on_late = on_late
        self._on_scattered = on_scattered
        self._tumbling = window if isinstance(window := spec.window, TumblingWindow) else None

    def hand(self) -> Hand:
        """The hand of the calling agent. Raises TypeError outside an event."""
        hand = CURRENT.get()
        if hand is None:
            raise TypeError(f"table {self.spec.name!r} can be used only while an agent holds an event")
        hand.check()
        return hand

    def part(self, hand: Hand) -> TablePartition:
        try:
            return self.parts[hand.partition]
        except KeyError:
            assert hand.chunk is not None
            raise TypeError(
                f"table {self.spec.name!r} has no partition {hand.partition}: the topic "
                f"{hand.chunk.topic!r} has more partitions than the table's {self.spec.partitions}"
            ) from None

    def starts(self, hand: Hand) -> list[int]:
        """Starts of the windows that hold the event in hand; `NO_WINDOW` for a table without windows."""
        window = self.spec.window
        if window is None:
            return [NO_WINDOW]
        return [start for start, _ in window.windows_of(hand.times[hand.index])]

    def open_starts(self, hand: Hand, part: TablePartition) -> list[int]:
        """Those of `starts` that are open. The event is late if none is, and only then."""
        starts = self.starts(hand)
        if self.spec.window is None or part.open_from is None or starts[0] >= part.open_from:
            return starts
        still = [s for s in starts if s >= part.open_from or not self._is_late(hand, part, s)]
        if not still:
            self._on_late(hand, starts[-1])
        return still

    def open_chunk(self, partition: int, watermark_ms: int) -> None:
        """Told the watermark at the end of a chunk: only windows before `open_from` need a closer look."""
        window, part = self.spec.window, self.parts.get(partition)
        if window is None or part is None:
            return
        if self.spec.own_time:
            return  # the events' time is not the rows'
        if part.expired_to_ms is not None and part.expired_to_ms > watermark_ms:
            watermark_ms = part.expired_to_ms
        first = window.first_open_start(watermark_ms)
        part.open_at(first)

    def read(self, key: Any, start: int) -> Any:
        """The row as the agent sees it, or `MISSING`."""
        hand = self.hand()
        return self.part(hand).get(start, key)

    def base(self, part: TablePartition, start: int, key: Any) -> Any:
        """The row's value, else the table's default. Raises KeyError where it has none."""
        value = part.get(start, key)
        if value is not MISSING:
            return value if isinstance(value, _IMMUTABLE) else copy.deepcopy(value)
        return self._new(key)

    def _new(self, key: Any) -> Any:
        if self.default is None:
            raise KeyError(key)
        return self.default()

    def write(self, key: Any, value: Any, start: int) -> None:
        """Sets a row (`DELETED` takes it away).

        Raises TypeError outside an event, StaleEvent when its partition was taken away.
        """
        hand = self.hand()
        if key is not hand.keys[hand.index]:
            self._check_key(hand, key)
        part = self.part(hand)
        if part.open_from is not None and start < part.open_from and self._is_late(hand, part, start):
            self._on_late(hand, start)
            return
        part.put(hand, start, key, value)

    def change(self, key: Any, operator: Callable[[Any, Any], Any], operand: Any) -> None:
        """HOT PATH: ``row = operator(row, operand)`` in every window that holds the event in hand.

        `write` written out for the common case: a tumbling window, an event that is not late.
        """
        hand = CURRENT.get()
        if hand is None or not hand.holding or hand.stale:
            hand = self.hand()
        if key is not hand.keys[hand.index]:
            self._check_key(hand, key)
        index = hand.index
        part = self.parts.get(hand.partition)
        if part is None:
            part = self.part(hand)
        window = self._tumbling
        for start in (
            (window.start_of(hand.times[index]),) if window is not None else self.open_starts(hand, part)
        ):
            if part.open_from is not None and start < part.open_from and self._is_late(hand, part, start):
                self._on_late(hand, start)
                continue
            rows = part.changes.get(start)
            if rows is None:
                rows = part.changes[start] = {}
            elif window is not None and (part.open_from is None or start >= part.open_from):
                part.spot, part.spot_from_ms, part.spot_to_ms = rows, start, start + window.size_ms
            value = rows.get(key, MISSING)
            hand.undo.append((index, part, start, key, value))
            if value is MISSING or value is DELETED:
                value = MISSING if value is DELETED else part.below(start, key)
                if value is MISSING:
                    value = self._new(key)
                elif not isinstance(value, _IMMUTABLE):
                    value = copy.deepcopy(value)
                part.writers.add(hand.consumer)
            rows[key] = operator(value, operand)

    def adder(self) -> Callable[[Any, Any], Any]:
        """HOT PATH: ``row += operand``, for anything with a ``key``; returns the row.

        `change` written out once more, for what most events do: they count in the window that the event
        before them counted in, under their own key.
        """
        current, parts, change, new = CURRENT.get, self.parts, self.change, self._new

        def add(row: Any, operand: Any) -> Any:
            key = row.key
            hand = current()
            if hand is not None and hand.holding:
                index = hand.index
                part = parts.get(hand.partition)
                if (
                    part is not None
                    and key is hand.keys[index]
                    and part.spot_from_ms <= hand.times[index] < part.spot_to_ms
                ):
                    rows, start = part.spot, part.spot_from_ms
                    before = value = rows.get(key, MISSING)
                    if value is MISSING:  # the first write since the newest cut
                        value = part.below(start, key)
                        if value is MISSING:
                            value = new(key)
                        elif not isinstance(value, _IMMUTABLE):
                            value = DELETED  # to be copied: `change` does that
                        part.writers.add(hand.consumer)
                    if value is not DELETED:
                        hand.undo.append((index, part, start, key, before))
                        rows[key] = value + operand
                        return row
            change(key, operator_add, operand)
            return row

        return add

    def change_in(
        self, key: Any, operator: Callable[[Any, Any], Any], operand: Any, starts: Iterable[int]
    ) -> None:
        """`change` in these windows, wherever the event in hand lies in time."""
        part = self.part(self.hand())
        for start in starts:
            self.write(key, operator(self.base(part, start, key), operand), start)

    def _is_late(self, hand: Hand, part: TablePartition, start: int) -> bool:
        """Exactly: is the window closed by what this consumer saw up to and with this event?"""
        window = self.spec.window
        assert window is not None
        if not self.spec.own_time and window.closed(start, hand.running_watermark_ms()):
            return True
        return part.expired_to_ms is not None and window.expired(start, part.expired_to_ms)

    def _check_key(self, hand: Hand, key: Any) -> None:
        """A key that isn't the event's own may lie elsewhere: then this row holds only a share of it.

        A batch in hand stands at its event with the key, if it has one.
        """
        if key == hand.keys[hand.index] or hand.move_to(key):
            return
        if self._hash_partition(key) != hand.partition:
            self._on_scattered(hand.partition, key)

    def keys_seen(self, hand: Hand) -> Iterator[Any]:
        """Keys of the partition of the event in hand, changes included, each once."""
        part = self.part(hand)
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
