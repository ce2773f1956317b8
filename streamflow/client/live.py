"""A table that keeps itself up to date: its rows equal the table at ``position``, but for ``missing``
partitions.

Rows that were voided stay in view, as stale ones, until those in their place are complete; then all change
in one step.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import datetime
from typing import Any, Final, Literal
from weakref import WeakSet

from streamflow.client import frames
from streamflow.client.connection import Connection
from streamflow.client.errors import ClientError
from streamflow.client.messages import Change, Reason, Row, Said, canonical
from streamflow.client.subscription import CLOSED, Subscription

Mode = Literal["all", "latest"]
RowId = tuple[int, datetime | None, datetime | None, bytes]  # partition, window, canonical key
CHANGES_MAX: Final = 100_000
"""So many changes may wait for one reader that wants all of them."""


def row_id(row: Row) -> RowId:
    window = row.window
    bounds = (None, None) if window is None else (window.start, window.end)
    return (row.partition, *bounds, canonical(row.key))


class _Staged:
    """The rows of a snapshot that comes; ``partitions``: those whose rows it replaces, ``None`` for all."""

    def __init__(self, partitions: frozenset[int] | None, *, is_reset: bool) -> None:
        self.partitions = partitions
        self.is_reset = is_reset
        self.rows: dict[RowId, Row] = {}

    def covers(self, row: Row) -> bool:
        return self.partitions is None or row.partition in self.partitions

    def fold(self, change: Change) -> None:
        if change.op == "upsert":
            self.rows[row_id(change)] = plain(change)
        else:
            self.rows.pop(row_id(change), None)


def plain(change: Change) -> Row:
    return Row(change.key, change.value, change.window, change.partition)


class Changes:
    """``async for change in changes``: what becomes of the rows from now on.

    With the mode ``latest`` a slow reader gets the newest of each row; with ``all`` each of them, and
    ClientError ``too-slow`` when `CHANGES_MAX` wait. Ends when this side closes the table; raises
    ClientError when it ended otherwise.
    """

    def __init__(self, table: LiveTable, mode: Mode) -> None:
        self._table = table
        self._mode = mode
        self._latest: OrderedDict[RowId, Change] = OrderedDict()
        self._all: deque[Change] = deque()
        self._is_too_slow = False

    def offer(self, changes: list[Change]) -> None:
        if self._mode == "latest":
            for change in changes:
                self._latest[row_id(change)] = change
        elif len(self._all) + len(changes) > CHANGES_MAX:
            self._is_too_slow = True
        else:
            self._all.extend(changes)

    def __aiter__(self) -> AsyncIterator[Change]:
        return self

    async def __anext__(self) -> Change:
        while True:
            if self._latest:
                return self._latest.popitem(last=False)[1]
            if self._all:
                return self._all.popleft()
            if self._is_too_slow:
                raise ClientError(
                    "too-slow", f"more than {CHANGES_MAX} changes wait: take them faster, or the latest"
                )
            if self._table.reason == CLOSED:
                raise StopAsyncIteration
            self._table.check()
            await self._table.changed()


class LiveTable(Subscription, Mapping[Any, Any]):
    """A mapping from key to value, of the key's newest window where there are windows.

    `row`, `windows` and `rows` give whole rows; ``async for change in table`` gives what changes. Keys are
    as JSON has them; lists and objects are keys, too.

    Attributes:
        missing: partitions whose rows are old, since nobody has them now.
        watermark: event time that has passed, or ``None``.
    """

    def __init__(self, connection: Connection, table: str, mode: Mode, wanted: dict[str, Any]) -> None:
        super().__init__(connection, table, {"table": table, "mode": mode, "snapshot": True, **wanted})
        self.table = table
        self.mode: Mode = mode
        self.missing: tuple[int, ...] = ()
        self.watermark: datetime | None = None
        self._index: dict[bytes, list[Row]] = {}  # canonical key -> its rows, oldest window first
        self._row_count = 0
        self._staged: _Staged | None = None
        self._held: list[Change] = []  # of a step that comes in several messages
        self._readers: WeakSet[Changes] = WeakSet()

    # -- what it shows -------------------------------------------------------------------------

    def __getitem__(self, key: object) -> Any:
        return self._index[self._text(key)][-1].value

    def __contains__(self, key: object) -> bool:
        return self._text(key) in self._index

    def __iter__(self) -> Iterator[Any]:
        return (rows[-1].key for rows in self._index.values())

    def __len__(self) -> int:
        return len(self._index)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"<LiveTable {self.table!r} {self.state}, {len(self)} keys>"

    @staticmethod
    def _text(key: object) -> bytes:
        try:
            return canonical(key)
        except TypeError:
            raise KeyError(key) from None

    @property
    def row_count(self) -> int:
        return self._row_count

    def row(self, key: object, start: datetime | None = None) -> Row | None:
        """The row of a key, of its newest window or of the one that begins at ``start``."""
        rows = self._index.get(self._text(key), [])
        found = [row for row in rows if start is None or row.start == start]
        return found[-1] if found else None

    def windows(self, key: object) -> list[Row]:
        """All rows of a key, oldest window first."""
        return list(self._index.get(self._text(key), ()))

    def rows(self) -> Iterator[Row]:
        """All rows, those of a key together."""
        return (row for rows in self._index.values() for row in rows)

    def to_dicts(self) -> list[dict[str, Any]]:
        """Flat dictionaries, all with the same members: see `Row.to_dict`."""
        return frames.to_dicts(self.rows())

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame`` of the rows as they are now. Raises ImportError without pandas."""
        return frames.to_pandas(self.rows())

    def to_polars(self) -> Any:
        """A ``polars.DataFrame`` of the rows as they are now. Raises ImportError without polars."""
        return frames.to_polars(self.rows())

    def to_arrow(self) -> Any:
        """A ``pyarrow.Table`` of the rows as they are now. Raises ImportError without pyarrow."""
        return frames.to_arrow(self.rows())

    def changes(self) -> Changes:
        """What becomes of the rows from now on; what is different after a reset, too."""
        reader = Changes(self, self.mode)
        self._readers.add(reader)
        return reader

    def __aiter__(self) -> Changes:
        return self.changes()

    # -- what the worker says ------------------------------------------------------------------

    def lost(self, reason: Reason) -> None:
        self._held = []
        self._staged = None
        super().lost(reason)

    def hear(self, said: Said) -> None:
        if said.t == "subscribed":
            self._subscribed(said)
        elif not self._is_subscribed:
            return  # meant for a subscription before
        elif said.t == "snapshot":
            for row in said.rows:
                if self._staged is not None:
                    self._staged.fold(row)
        elif said.t == "changes":
            self._change(said)
        elif said.t == "synced":
            self._synced(said)
        elif said.t == "progress":
            self.position = said.position
            self.watermark = said.watermark or self.watermark
            self._tell()
        elif said.t == "reset":
            self._reset(said)
        elif said.t == "rebalancing":
            self.missing = tuple(said.partitions or ())
            if self._was_live and self._staged is None:
                self._settle()

    def _subscribed(self, said: Said) -> None:
        self._is_subscribed = True
        self._held = []
        # Its cursor is not ours yet: where it has recovered, it is ahead of what is still to come.
        if said.recovered:
            self._staged = None
        else:
            self.cursor = None
            self._staged = _Staged(None, is_reset=False)

    def _reset(self, said: Said) -> None:
        self.cursor = None
        self._held = []
        partitions = None if said.partitions is None else frozenset(said.partitions)
        before = self._staged
        if before is not None and before.is_reset:
            # What was void before still is. (What can't resume is told so twice, at last with partitions.)
            others = before.partitions
            partitions = None if others is None or partitions is None else others | partitions
        self._staged = _Staged(partitions, is_reset=True)
        if self._was_live:
            self._become("stale", Reason("reset", said.reason or "reset"))

    def _synced(self, said: Said) -> None:
        self.cursor = said.cursor
        self.position = said.position
        shown = self.missing if said.partitions is None else said.partitions
        self.missing = tuple(partition for partition in self.missing if partition not in shown)
        self._unstage()
        self._settle()

    def _settle(self) -> None:
        if not self.missing:
            self._become("live")
            return
        text = f"partitions are moving: {', '.join(map(str, self.missing))}"
        self._become("stale" if self._was_live or self._index else "connecting", Reason("rebalancing", text))

    def _change(self, said: Said) -> None:
        self._held.extend(said.rows)
        if said.more:
            return
        changes, self._held = self._held, []
        told: list[Change] = []
        for change in changes:
            if self._staged is not None and self._staged.covers(change):
                self._staged.fold(change)
            else:
                self._apply(change)
                told.append(change)
        self.cursor = said.cursor
        self.position = said.position
        self._offer(told)

    def _unstage(self) -> None:
        """A snapshot is complete: it takes the place of what it voided, in one step."""
        staged, self._staged = self._staged, None
        if staged is None:
            return
        changes: list[Change] = []
        for row in self.rows():
            if not staged.covers(row):
                continue
            at = row_id(row)
            fresh = staged.rows.get(at)
            if fresh is None:
                changes.append(Change(row.key, None, row.window, row.partition, "delete"))
            elif fresh == row:
                del staged.rows[at]
        for row in staged.rows.values():
            changes.append(Change(row.key, row.value, row.window, row.partition, "upsert"))
        for change in changes:
            self._apply(change)
        self._offer(changes)

    def _offer(self, changes: list[Change]) -> None:
        if changes:
            for reader in self._readers:
                reader.offer(changes)
        self._tell()

    def _apply(self, change: Change) -> None:
        text = canonical(change.key)
        rows = self._index.get(text)
        if rows is None:
            if change.op == "upsert":
                self._index[text] = [plain(change)]
                self._row_count += 1
            return
        place = next((place for place, row in enumerate(rows) if row.is_same(change)), None)
        if change.op == "upsert":
            if place is not None:
                rows[place] = plain(change)
                return
            after = len(rows)
            while after and rows[after - 1].start > change.start:
                after -= 1
            rows.insert(after, plain(change))
            self._row_count += 1
        elif place is not None:
            self._row_count -= 1
            del rows[place]
            if not rows:
                del self._index[text]
