"""Which rows of a table a live subscription shows, and what a change means for it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from msgspec import UNSET

from streamflow.query.row_query import canonical, key_text, state_matches
from streamflow.query.rows import Operation, Row, RowChange
from streamflow.query.table_reader import TableReader
from streamflow.web import encoding
from streamflow.web.messages import Subscribe, WindowState
from streamflow.web.rights import ALL_KEYS, KeyLimits

KEYS_AT_ONCE: Final = 16

RowId = tuple[int, bytes, int | None, int | None]  # partition, canonical key, window start and end


class Item:
    """One change, encoded at most once however many subscriptions show it."""

    __slots__ = ("_id", "_raw", "op", "row")

    def __init__(self, op: Operation, row: Row) -> None:
        self.op = op
        self.row = row
        self._id: RowId | None = None
        self._raw: bytes | None = None

    @classmethod
    def of(cls, change: RowChange) -> Item:
        return cls(change.op, change.row)

    @property
    def id(self) -> RowId:
        """What makes two changes be about the same row."""
        if self._id is None:
            row = self.row
            self._id = (row.partition, canonical(row.key), row.start_ms, row.end_ms)
        return self._id

    @property
    def raw(self) -> bytes:
        """The change as a member of ``rows`` of a ``changes`` message."""
        if self._raw is None:
            self._raw = encoding.encode({"op": self.op, **encoding.row_object(self.row)})
        return self._raw


@dataclass(frozen=True, slots=True)
class Filter:
    """``keys`` holds canonical keys (``None``: all). Equal filters have the same frames.

    ``window``: ``current`` takes windows that are still open (and rows without a window), ``closed``
    those that have closed.
    """

    keys: frozenset[bytes] | None = None
    prefix: str | None = None
    window: WindowState = "all"
    limits: KeyLimits = ALL_KEYS

    @classmethod
    def of(cls, wanted: Subscribe, limits: KeyLimits = ALL_KEYS) -> Filter:
        """``limits``: the keys that the subscriber may read.

        Raises ValueError when a subscription names its keys in two ways.
        """
        given = [name for name in ("key", "keys", "prefix") if getattr(wanted, name) is not UNSET]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other")
        keys: frozenset[bytes] | None = None
        if wanted.key is not UNSET:
            keys = frozenset({canonical(wanted.key)})
        elif isinstance(wanted.keys, list):
            keys = frozenset(map(canonical, wanted.keys))
        prefix = wanted.prefix if isinstance(wanted.prefix, str) else None
        return cls(keys, prefix, wanted.window, limits)

    @property
    def fingerprint(self) -> str:
        """Tells the cursors of different filters apart."""
        keys = sorted(key.decode() for key in self.keys or ())
        parts = (keys, self.keys is None, self.prefix, self.window, *(self.limits.texts or ()))
        return hashlib.blake2b(canonical(parts), digest_size=4).hexdigest()

    @property
    def is_all(self) -> bool:
        return self.keys is None and self.prefix is None and self.window == "all" and self.limits == ALL_KEYS

    def _wants_key(self, key: object) -> bool:
        if self.limits is not ALL_KEYS and not self.limits.allows(key):
            return False
        if self.keys is not None:
            return canonical(key) in self.keys
        return self.prefix is None or key_text(key).startswith(self.prefix)

    def wants(self, row: Row) -> bool:
        state = "open" if self.window == "current" else self.window
        return state_matches(state, row) and self._wants_key(row.key)

    def view(self, item: Item) -> Item | None:
        """What ``item`` means for this view, or ``None`` for nothing.

        A window that closes leaves the view ``current``, and one that is opened again leaves ``closed``:
        the view must be told so, or it would keep the row.
        """
        if self.is_all:
            return item
        if not self._wants_key(item.row.key):
            return None
        if item.op != "upsert" or self.wants(item.row):
            return item
        row = item.row
        return Item("expire", Row(row.key, row.start_ms, row.end_ms, row.state, None, row.partition))

    async def rows(self, reader: TableReader) -> AsyncIterator[list[Row]]:
        """The rows of this view that this worker holds now, in slices; those that change meanwhile are there
        as they were or as they are. Raises PartitionMoved."""
        if self.keys is not None:
            keys = [encoding.decode(key) for key in self.keys]
            if all(isinstance(key, str | int | float) for key in keys):
                for at, key in enumerate(keys):
                    if at % KEYS_AT_ONCE == KEYS_AT_ONCE - 1:
                        await asyncio.sleep(0)
                    yield [row for row in reader.windows(key) if self.wants(row)]
                return
        is_any = self.keys is None and self.prefix is None and self.limits == ALL_KEYS
        wants_key = None if is_any else self._wants_key
        for partition in sorted(reader.owned):
            async for rows in reader.sliced(partition, wants_key):
                yield list(filter(self.wants, rows))
