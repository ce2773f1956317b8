"""The open stores of one worker, by table and partition; they outlive the assignments that use them.

A store says what the changelog says below its offset, whoever wrote it. So a partition that comes back
after a rebalance, or after what was held in memory had to be dropped, needs only what was written since:
nothing, where nobody else owned it. Only one thing is lost with time: a compacted log forgets the
tombstones of deleted rows, after a day by default. A store that was left alone for longer than
``age_max_ms`` is therefore rebuilt from the beginning.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from streamflow.clock import Clock
from streamflow.state.partition import TableSpec
from streamflow.state.stores.base import Store

logger = logging.getLogger(__name__)

StoreId = tuple[str, int]
"""(table, partition)"""


class StoreManager:
    """``open_store`` is (table, partition) -> its store, empty or as a disk has kept it."""

    def __init__(
        self, open_store: Callable[[TableSpec, int], Store], clock: Clock, age_max_ms: float
    ) -> None:
        self._open_store = open_store
        self._clock = clock
        self._age_max_ms = age_max_ms
        self._stores: dict[StoreId, Store] = {}
        self._fresh_ms: dict[StoreId, float] = {}  # when the store was last known to be up to date
        self._whole: dict[StoreId, int] = {}  # its offset then

    def open(self, spec: TableSpec, partition: int) -> Store:
        """The store as it was left, or as it is opened now. Raises StoreError."""
        at = (spec.name, partition)
        store = self._stores.get(at)
        now_ms = self._clock.monotonic_ms()
        if store is None:
            store = self._stores[at] = self._open_store(spec, partition)
        elif now_ms - self._fresh_ms[at] > self._age_max_ms:
            logger.info("table %s[%d] was left alone for too long: it is rebuilt", *at)
            store.clear()
        self._fresh_ms.setdefault(at, now_ms)
        return store

    def is_warm(self, at: StoreId) -> bool:
        """Is it open, with something in it?"""
        store = self._stores.get(at)
        return store is not None and store.offset > 0

    def kept(self, at: StoreId) -> tuple[Store, float] | None:
        """An open store that has been up to date, and how many ms ago it was known to be so last.

        It holds what its log says below its offset: so it may be shown as what it is, old. Not so one that
        was cleared and is being read anew: it lacks rows which are older than some that it has.
        """
        store, offset = self._stores.get(at), self._whole.get(at)
        if store is None or offset is None or not 0 < offset <= store.offset:
            return None
        return store, self._clock.monotonic_ms() - self._fresh_ms[at]

    def mark_fresh(self, stores: Iterable[StoreId]) -> None:
        """These are up to date now."""
        now_ms = self._clock.monotonic_ms()
        for at in stores:
            if at in self._stores:
                self._fresh_ms[at] = now_ms
                self._whole[at] = self._stores[at].offset
                self._stores[at].touch()

    def keep_only(self, wanted: Iterable[StoreId]) -> None:
        """Closes all others."""
        for at in set(self._stores).difference(wanted):
            del self._fresh_ms[at]
            self._whole.pop(at, None)
            self._stores.pop(at).close()

    def clear(self) -> None:
        """All are rebuilt from the beginning when they are used next, also by another process."""
        for store in self._stores.values():
            store.clear()

    def close(self) -> None:
        """Closes all of them."""
        self.keep_only(())
