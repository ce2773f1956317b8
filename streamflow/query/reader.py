"""What the readers of all tables have in common: keys, rows and windows as they may be seen.

See `readers` for the kinds of tables.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Literal

from streamflow.codecs import KeyCodec, bytes_of_shown, json_bytes, json_value, shown_bytes
from streamflow.codecs.values import plain_json
from streamflow.engine.engine import Engine
from streamflow.query.counting import counted
from streamflow.query.key_order import is_hashable
from streamflow.query.list_index import ListIndex
from streamflow.query.listing import KeyListing, Listing, newest_ids
from streamflow.query.row_query import RowQuery
from streamflow.query.rows import LateSeen, PartitionMoved, Row, State, TableStatus
from streamflow.query.slices import Slices
from streamflow.query.table_reader import WantsKey
from streamflow.state.changelog import bare
from streamflow.state.progress import Progress
from streamflow.state.stores.base import MISSING, NO_WINDOW, Rows
from streamflow.windows import HoppingWindow, TumblingWindow, Window

SAMPLE_ROWS = 64
LAST_ID = 1 << 62
ROWS_AT_ONCE = 32

_PLAIN = frozenset({str, int, float, bool, type(None)})


class TableReaderBase(ABC):
    """A `table_reader.TableReader`; the kinds of tables answer the rest.

    Invariant: between two awaits its answers are of one checkpoint.
    """

    kind: Literal["agent", "aggregate"]
    kept_as_panes = False
    """True: `next_kept` tells of panes."""
    keyed = True

    def __init__(
        self,
        engine: Engine,
        name: str,
        window: Window | None,
        *,
        source_topic: str,
        partitions: int,
        key_codec: KeyCodec,
        description: Mapping[str, Any],
    ) -> None:
        self.engine = engine
        self.name = name
        self.window = window
        self._source_topic = source_topic
        self.partitions = partitions
        self.description = description
        self._own_key_codec = key_codec
        self.lists = ListIndex(self, engine.clock)

    @property
    def is_merged(self) -> bool:
        return False

    @property
    def is_exact(self) -> bool:
        return True

    @property
    def value_names(self) -> tuple[str, ...] | None:
        return None

    @property
    def source_topic(self) -> str:
        """The topic whose events make the rows."""
        return self._source_topic

    @property
    def _key_codec(self) -> KeyCodec:
        """How keys are read."""
        return self._own_key_codec

    # -- what the kinds of tables answer -------------------------------------------------------

    @property
    @abstractmethod
    def owned(self) -> frozenset[int]: ...

    @abstractmethod
    def starts(self, partition: int) -> list[int]:
        """Ids of the windows that have rows, in order; mostly their starts (see `windows.Window`)."""

    @abstractmethod
    def keys(self, partition: int, start: int) -> Iterable[Any]:
        """The keys of one window's rows, as they are kept."""

    @abstractmethod
    def value(self, partition: int, start: int, key: Hashable) -> Any:
        """The row's value as JSON, or `MISSING`; ``key`` as it is kept."""

    @abstractmethod
    def is_closed(self, partition: int, start: int) -> bool:
        """Does the durable state say that the window takes no more events?"""

    def late(self) -> dict[int, LateSeen]:
        """Source partition of this worker -> its late events, as checkpointed. Tables of agents have none."""
        return {}

    def is_revised(self, partition: int, start: int, key: Hashable) -> bool:
        """Does the row durably count events that came when its window was closed? ``key`` as it is kept."""
        return False

    @abstractmethod
    def partition_of(self, key: object) -> int: ...

    @abstractmethod
    def rows_in(self, partition: int) -> int | None:
        """How many rows an owned partition has; ``None`` where only a count tells."""

    def row_count(self) -> int:
        return sum(self.rows_in(partition) or 0 for partition in self.owned)

    async def count_rows(self) -> int:
        return self.row_count()

    def approximate_bytes(self) -> int:
        """The size of the rows as JSON, by a sample."""
        sample = list(islice(self._some_rows(), SAMPLE_ROWS))
        if not sample:
            return 0
        return self.row_count() * sum(len(json_bytes(row, str)) for row in sample) // len(sample)

    def _some_rows(self) -> Iterator[list[Any]]:
        for partition in sorted(self.owned):
            start = self.next_start(partition, None)
            while start is not None:
                for key in self.keys(partition, start):
                    if (value := self.value(partition, start, key)) is not MISSING:
                        yield [self.shown(key), value]
                start = self.next_start(partition, start)

    @abstractmethod
    def positions(self, partition: int | None = None) -> dict[int, int]:
        """Source partition -> next offset to be taken, as of the rows of one or of all owned partitions."""

    @abstractmethod
    def watermark_ms(self, partition: int | None = None) -> int | None:
        """The least watermark, as of the same rows."""

    @abstractmethod
    def lags(self) -> dict[int, int | None]: ...

    @abstractmethod
    def consumers(self) -> list[str]:
        """Those whose progress feeds the table."""

    def stored(self, key: object) -> Any:
        """The key as it is kept, of the JSON value."""
        if self._key_codec.key_type in (None, bytes) and isinstance(key, str):
            return bytes_of_shown(key)
        return key

    def shown(self, key: Hashable) -> Any:
        """The JSON value of a kept key."""
        return plain(key)

    # -- keys ----------------------------------------------------------------------------------

    def parse_key(self, text: str) -> Any:
        """Raises DecodeError."""
        return self.shown(self._key_codec.parse_text(text))

    def parse_key_bytes(self, raw: bytes) -> Any:
        """Raises DecodeError."""
        return self.shown(self._key_codec.decode(raw))

    async def scattered_partitions(self, key: object) -> tuple[int, ...]:
        return ()

    # -- rows ----------------------------------------------------------------------------------

    def begins(self, partition: int, start: int, key: Hashable) -> int:
        """Where the window of a row begins that is kept by the id ``start``."""
        return start

    def starts_of(self, partition: int, key: Hashable) -> list[int]:
        """Ids of the windows that may have a row of a kept key, in order."""
        return self.starts(partition)

    def changed(self, partition: int, rows: Rows) -> Rows:
        """The rows that are shown otherwise since these kept ones changed, by id and kept key."""
        return rows

    def values(
        self, partition: int, rows: Mapping[int, Iterable[Any]]
    ) -> Iterator[tuple[int, Hashable, Any]]:
        """Id, kept key and `value` of each of these rows, in their order."""
        for start, keys in rows.items():
            for key in keys:
                yield start, key, self.value(partition, start, key)

    def row(self, partition: int, start: int, key: Hashable, value: object, begins: int | None = None) -> Row:
        """The row of a kept key; ``begins`` where only the caller knows still."""
        if self.window is None:
            return Row(self.shown(key), None, None, None, value, partition)
        state: State = "closed" if self.is_closed(partition, start) else "open"
        if state == "closed" and self.is_revised(partition, start, key):
            state = "revised"
        begins = self.begins(partition, start, key) if begins is None else begins
        return Row(self.shown(key), begins, self.window.end_of(start), state, value, partition)

    def rows(self, partition: int, wants_key: WantsKey | None = None) -> Iterator[Row]:
        for start in self.starts(partition):
            yield from self._rows_at(partition, start, wants_key)

    async def sliced(self, partition: int, wants_key: WantsKey | None = None) -> AsyncIterator[list[Row]]:
        slices = Slices(self.engine.clock)
        self._check_owned(partition)
        for start in self.starts(partition):
            # Only the keys at once, which costs a hundredth of their rows.
            keys = list(self.keys(partition, start)) if partition in self.owned else []
            for at in range(0, len(keys), ROWS_AT_ONCE):
                if slices.over():
                    await slices.rest()
                self._check_owned(partition)  # whoever takes the rows may have waited, too
                wanted = [
                    k for k in keys[at : at + ROWS_AT_ONCE] if wants_key is None or wants_key(self.shown(k))
                ]
                found = ((key, self.value(partition, start, key)) for key in wanted)
                yield [self.row(partition, start, k, value) for k, value in found if value is not MISSING]

    def _check_owned(self, partition: int) -> None:
        if partition not in self.owned:
            raise PartitionMoved(f"partition {partition} has moved")

    def _rows_at(self, partition: int, start: int, wants_key: WantsKey | None) -> Iterator[Row]:
        for key in self.keys(partition, start):
            if wants_key is not None and not wants_key(self.shown(key)):
                continue
            value = self.value(partition, start, key)
            if value is not MISSING:
                yield self.row(partition, start, key, value)

    def windows(self, key: object) -> list[Row]:
        stored = self.stored(key)
        rows = [
            self.row(partition, start, stored, value)
            for partition in self.owned
            for start in self.starts_of(partition, stored)
            if (value := self.value(partition, start, stored)) is not MISSING
        ]
        return sorted(rows, key=lambda row: row.start_ms or 0)

    def get(self, key: object, at_ms: int | None = None) -> Row | None:
        """`find`, at once: it takes its time where there are many windows."""
        stored = self.stored(key)
        partition = self.partition_of(key)
        if partition not in self.owned:
            return None
        starts = self._candidates(partition, stored, at_ms)
        for start in self._newest_first(partition, stored) if starts is None else starts:
            row = self._row_at(partition, start, stored, at_ms)
            if row is not None:
                return row
        return None

    def _newest_first(self, partition: int, stored: Hashable) -> Iterator[int]:
        if not self.counts_windows:
            yield from reversed(self.starts_of(partition, stored))
            return
        start = self.next_start(partition, None, descending=True)
        while start is not None:
            yield start
            start = self.next_start(partition, start, descending=True)

    def _candidates(self, partition: int, stored: Hashable, at_ms: int | None) -> list[int] | None:
        """The ids of the windows that may hold a time, newest first; ``None`` where only the rows tell."""
        if self.window is None:
            return [NO_WINDOW]
        if at_ms is not None and isinstance(self.window, TumblingWindow | HoppingWindow):
            return [start for start, _ in reversed(self.window.windows_of(at_ms))]
        return None

    def _row_at(self, partition: int, start: int, stored: Hashable, at_ms: int | None) -> Row | None:
        value = self.value(partition, start, stored)
        row = None if value is MISSING else self.row(partition, start, stored, value)
        return row if row is not None and (at_ms is None or _holds(row, at_ms)) else None

    # -- lists ---------------------------------------------------------------------------------

    @property
    def counts_windows(self) -> bool:
        """Does `next_start` take no time that grows with the windows, and `keys` of one hold nothing up?"""
        return True

    @abstractmethod
    def has(self, partition: int, start: int, key: Hashable) -> bool:
        """Is there a row of this id and kept key?"""

    @abstractmethod
    def next_start(self, partition: int, start: int | None, *, descending: bool = False) -> int | None:
        """The one of `starts` behind ``start`` (``None``: the first), or before it, if ``descending``."""

    @abstractmethod
    def closed_to(self, partition: int) -> int | None:
        """The watermark that has durably closed windows, if any has."""

    def groups(self, partition: int) -> Iterable[Any]:
        """All kept keys, of tables over sliding windows."""
        raise NotImplementedError

    def next_kept(self, partition: int, kept: int | None) -> int | None:
        return self.next_start(partition, kept)

    def kept_keys(self, partition: int, kept: int) -> Iterable[Any]:
        return self.keys(partition, kept)

    def ids_made_of(self, kept: list[int]) -> list[int]:
        return kept

    def is_part(self, kept: int, start: int) -> bool:
        return kept == start

    def kept_bounds(self, partition: int, state: str) -> tuple[int, int]:
        """Ids of windows in this state lie at or behind the first, and before the second."""
        low, high = -LAST_ID, LAST_ID
        if self.window is None or state == "all":
            return low, high
        closed_to_ms = self.closed_to(partition)
        first_open = low if closed_to_ms is None else self.window.first_open_start(closed_to_ms)
        return (first_open, high) if state == "open" else (low, first_open)

    def listed(self, partition: int, query: RowQuery) -> AsyncIterator[Row]:
        return Listing(self, partition, query, Slices(self.engine.clock)).rows()

    def listed_of(self, key: object, query: RowQuery) -> AsyncIterator[Row]:
        slices = Slices(self.engine.clock)
        return KeyListing(self, self.partition_of(key), query, slices, self.stored(key)).rows()

    async def counted(self, partition: int, query: RowQuery) -> int:
        slices = Slices(self.engine.clock)
        if query.keys is None:
            return await counted(self, partition, query, slices)
        return sum([1 async for _ in Listing(self, partition, query, slices).rows()])

    async def counted_of(self, key: object, query: RowQuery) -> int:
        return sum([1 async for _ in self.listed_of(key, query)])

    async def find(self, key: object, at_ms: int | None = None) -> Row | None:
        partition, stored = self.partition_of(key), self.stored(key)
        if partition not in self.owned or not is_hashable(stored):
            return None
        candidates = self._candidates(partition, stored, at_ms)
        if candidates is not None:
            rows = (self._row_at(partition, start, stored, at_ms) for start in candidates)
            return next((row for row in rows if row is not None), None)
        async for start in newest_ids(self, partition, stored, Slices(self.engine.clock)):
            row = self._row_at(partition, start, stored, at_ms)
            if row is not None:
                return row
        return None

    # -- status --------------------------------------------------------------------------------

    def status(self) -> TableStatus:
        counters: dict[str, int] = {}
        for progress in self.progress():
            bad = self._undecoded(progress)
            for name, amount in (*progress.counters.items(), ("in", bad), ("bad", bad)):
                if amount:
                    counters[name] = counters.get(name, 0) + amount
        return TableStatus(self.positions(), self.lags(), self.watermark_ms(), counters)

    def _undecoded(self, progress: Progress) -> int:
        """Records of its partition that were bad before they reached the consumer: `in` has them too."""
        active = self.engine.active
        for decoder in self.engine.topology.decoders.values():
            if (
                active is not None
                and decoder.source.name == progress.topic
                and decoder.feeds(progress.consumer)
            ):
                found = active.shown.get((decoder.consumer, progress.topic, progress.partition))
                # One that began elsewhere has counted what is not this consumer's.
                same = found is not None and found.began == progress.began
                return found.counters.get("bad", 0) if found is not None and same else 0
        return 0

    def progress(self, partition: int | None = None) -> list[Progress]:
        """Durable progress of those who feed the table, in one or in all source partitions of this worker."""
        active = self.engine.active
        if active is None:
            return []
        wanted = set(self.consumers())
        return [
            progress
            for (consumer, topic, at), progress in active.shown.items()
            if consumer in wanted and topic and partition in (None, at)
        ]

    def own_positions(self, partition: int | None = None) -> dict[int, int]:
        least: dict[int, int] = {}
        topic = self.source_topic  # offsets of another topic that feeds the table too mean something else
        for progress in self.progress(partition):
            if progress.topic == topic:
                at = progress.partition
                least[at] = min(progress.position, least.get(at, progress.position))
        return least

    def own_watermark_ms(self, partition: int | None = None) -> int | None:
        later = self.engine.topology.retry_topics  # old events come there, and mostly none: no table waits
        watermarks_ms = [
            progress.watermark_ms
            for progress in self.progress(partition)
            if progress.watermark_ms is not None and progress.topic not in later
        ]
        return min(watermarks_ms, default=None)

    def own_lags(self) -> dict[int, int | None]:
        active = self.engine.active
        lags: dict[int, int | None] = {}
        for progress in self.progress() if active is not None else ():
            assert active is not None
            lag, worst = active.lag(progress), lags.get(progress.partition)
            lags[progress.partition] = lag if worst is None or lag is None else max(lag, worst)
        return lags


def plain(value: object, encode: Callable[[Any], bytes] | None = None) -> Any:
    """The JSON value of whatever a table keeps."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, bytes):
        return shown_bytes(value)
    return bare(json_value(json_bytes(value, plain_json) if encode is None else encode(value)))


def _holds(row: Row, at_ms: int) -> bool:
    return row.start_ms is not None and row.end_ms is not None and row.start_ms <= at_ms < row.end_ms
