"""Rows on a disk, in RocksDB: for tables larger than memory, and for restarts that need no full restore.

One database, in a folder of its own, for each table partition. Its keys:

- ``r`` + window start (8 bytes, ordered) + the row's key -> the row's value. So a window is one range, which
  goes with one write when it expires.
- ``w`` + window start -> number of rows. Read once at the opening: what windows there are is known without
  a look at the rows.
- ``m`` -> offset in the changelog, when that was, and what the folder belongs to.

All that a checkpoint changes is one write batch. The write-ahead log is not synced: a process that is killed
loses nothing, a machine that loses power falls back to an earlier offset, and reads on from there.

Needs rocksdict (extra ``rocksdb``), which is imported by the first store that is opened.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Hashable, ItemsView, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from streamflow.clock import Clock
from streamflow.errors import ConfigurationError, StoreError
from streamflow.state.starts import SortedStarts
from streamflow.state.stores.base import DELETED, MISSING

if TYPE_CHECKING:
    from rocksdict import WriteBatch

logger = logging.getLogger(__name__)

ROWS, WINDOWS, META = b"r", b"w", b"m"
START_BYTES = 8
START_OFFSET = 1 << 63  # so that starts before 1970 come first too
TOUCH_EVERY_MS = 60_000
WRITE_BUFFER_BYTES = 8 * 1024 * 1024
CACHE_BYTES = 64 * 1024 * 1024  # shared by all stores of a process
FORMAT = 1


class RowBytes(Protocol):
    """Rows of one table as bytes: `state.changelog.RowCodec`."""

    def key_bytes(self, key: Hashable) -> bytes: ...

    def key_of(self, data: bytes) -> Any: ...

    def encode_value(self, value: object) -> bytes: ...

    def decode_value(self, data: bytes) -> Any: ...


class Meta(msgspec.Struct, frozen=True):
    """``owner`` is what the rows are of; ``stamp_ms`` when they were last known to be up to date."""

    format: int
    owner: str
    offset: int
    stamp_ms: int


_encode = msgspec.json.encode
_metas = msgspec.json.Decoder(Meta)


@cache
def _shared_cache() -> Any:
    return rocksdict().Cache(CACHE_BYTES)


def rocksdict() -> Any:
    """The module. Raises ConfigurationError where it isn't installed."""
    try:
        import rocksdict as module
    except ImportError as exc:
        raise ConfigurationError(
            'store "rocksdb://" needs rocksdict: pip install rocksdict, the extra [rocksdb] of'
            ' faust-streamflow; or set store="memory://"'
        ) from exc
    return module


class RocksStore:
    """See `stores.base.Store`.

    ``owner`` names app, table, partition and declaration: a folder of another is rebuilt, as is one that is
    damaged, or was not kept up for longer than ``age_max_ms``. Raises StoreError where the folder can't be
    used, such as when another process has it open.
    """

    def __init__(self, folder: Path, owner: str, codec: RowBytes, clock: Clock, age_max_ms: float) -> None:
        self.folder = folder
        self.offset = 0
        self._rocks = rocksdict()
        self._owner = owner
        self._codec = codec
        self._clock = clock
        self._counts: dict[int, int] = {}  # window start -> rows
        self._starts = SortedStarts()  # of these
        self._count = 0  # of all rows
        self._stamp_ms = 0
        self._db: Any = None
        self._open()
        if not self._known(age_max_ms):
            self.clear()

    # -- opening -------------------------------------------------------------------------------

    def _open(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._db = self._rocks.Rdict(str(self.folder), self._options())
        except OSError as exc:
            raise StoreError(f"the folder {self.folder} can't be used: {exc}") from exc
        except Exception as exc:
            if "lock" in str(exc).lower():
                raise StoreError(
                    f"the store {self.folder} is open in another process; each worker needs its own data_dir"
                ) from exc
            if _is_full(exc):
                raise StoreError(f"the store {self.folder} can't be opened: {exc}") from exc
            logger.warning("the store %s is damaged and is rebuilt: %s", self.folder, exc)
            self._destroy()
            try:
                self._db = self._rocks.Rdict(str(self.folder), self._options())
            except Exception as again:
                raise StoreError(f"the store {self.folder} can't be opened: {again}") from again

    def _options(self) -> Any:
        rocks = self._rocks
        blocks = rocks.BlockBasedOptions()
        blocks.set_bloom_filter(10.0, False)
        blocks.set_block_cache(_shared_cache())
        blocks.set_cache_index_and_filter_blocks(True)
        options = rocks.Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_block_based_table_factory(blocks)
        options.set_write_buffer_size(WRITE_BUFFER_BYTES)
        options.set_max_open_files(256)
        options.set_keep_log_file_num(2)
        options.set_max_log_file_size(1024 * 1024)
        return options

    def _known(self, age_max_ms: float) -> bool:
        """Reads what it holds. False: it is not to be used."""
        try:
            raw = self._db.get(META)
            if raw is None:
                return next(iter(self._range(b"", None)), None) is None
            meta = _metas.decode(raw)
            self._counts = {
                _start(key[1:]): int(value) for key, value in self._range(WINDOWS, _after(WINDOWS))
            }
            self._starts, self._count = SortedStarts(self._counts), sum(self._counts.values())
        except Exception as exc:  # noqa: BLE001 - whatever it is, the changelog has it all
            logger.warning("the store %s can't be read and is rebuilt: %s", self.folder, exc)
            return False
        if meta.format != FORMAT or meta.owner != self._owner:
            logger.warning(
                "the store %s belongs to something else (%s) and is rebuilt", self.folder, meta.owner
            )
            return False
        if self._clock.now_ms() - meta.stamp_ms > age_max_ms:
            logger.info("the store %s was not kept up for too long and is rebuilt", self.folder)
            return False
        self.offset, self._stamp_ms = meta.offset, meta.stamp_ms
        return True

    def _destroy(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None
        try:
            shutil.rmtree(self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise StoreError(f"the store {self.folder} can't be cleared: {exc}") from exc

    # -- reading -------------------------------------------------------------------------------

    def get(self, start: int, key: Hashable) -> Any:
        if start not in self._counts:
            return MISSING
        raw = self._read(_prefix(start) + self._codec.key_bytes(key))
        return MISSING if raw is None else self._codec.decode_value(raw)

    def starts(self) -> list[int]:
        return list(self._starts)

    def first_start(self) -> int | None:
        return self._starts.first()

    def next_start(self, start: int | None, *, descending: bool = False) -> int | None:
        return self._starts.after(start, descending=descending)

    def window(self, start: int) -> Mapping[Any, Any]:
        return WindowRows(self, start, self._counts.get(start, 0))

    def scan(self) -> Iterator[tuple[int, Any, Any]]:
        key_of, value_of, head = self._codec.key_of, self._codec.decode_value, 1 + START_BYTES
        for key, value in self._range(ROWS, _after(ROWS)):
            yield _start(key[1:head]), key_of(key[head:]), value_of(value)

    def rows(self, start: int) -> Iterator[tuple[Any, Any]]:
        """The rows of one window, as (key, value)."""
        prefix = _prefix(start)
        key_of, value_of, head = self._codec.key_of, self._codec.decode_value, len(prefix)
        for key, value in self._range(prefix, _after(prefix)):
            yield key_of(key[head:]), value_of(value)

    def keys(self, start: int) -> Iterator[Any]:
        """The keys of one window's rows."""
        prefix = _prefix(start)
        key_of, head = self._codec.key_of, len(prefix)
        for key, _ in self._range(prefix, _after(prefix)):
            yield key_of(key[head:])

    def __len__(self) -> int:
        return self._count

    def _read(self, key: bytes) -> bytes | None:
        if self._db is None:
            raise StoreError(f"the store {self.folder} is closed")
        found: bytes | None = self._db.get(key)
        return found

    def _range(self, low: bytes, high: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        if self._db is None:
            raise StoreError(f"the store {self.folder} is closed")
        options = self._rocks.ReadOptions()
        if high is not None:
            options.set_iterate_upper_bound(high)
        at = self._db.iter(options)
        at.seek(low)
        while at.valid():
            yield at.key(), at.value()
            at.next()
        at.status()  # raises where the reading has failed

    # -- writing -------------------------------------------------------------------------------

    def apply(
        self,
        changes: Mapping[int, Mapping[Any, Any]],
        offset: int | None = None,
        drops: Iterable[int] = (),
    ) -> None:
        batch = self._rocks.WriteBatch(raw_mode=True)
        counts: dict[int, int] = {}
        for start, changed in changes.items():
            counts[start] = self._counts.get(start, 0) + self._put(batch, start, changed)
        for start in drops:
            prefix = _prefix(start)
            batch.delete_range(prefix, _after(prefix))
            counts[start] = 0
        for start, count in counts.items():
            if count:
                batch.put(WINDOWS + prefix_start(start), b"%d" % count)
            else:
                batch.delete(WINDOWS + prefix_start(start))
        now_ms = self._clock.now_ms()
        to = self.offset if offset is None else offset
        batch.put(META, _encode(Meta(FORMAT, self._owner, to, now_ms)))
        self._write(batch)
        self.offset, self._stamp_ms = to, now_ms
        self._count += sum(count - self._counts.get(start, 0) for start, count in counts.items())
        self._starts.add([start for start, count in counts.items() if count and start not in self._counts])
        self._starts.drop([start for start, count in counts.items() if not count and start in self._counts])
        for start, count in counts.items():
            if count:
                self._counts[start] = count
            else:
                self._counts.pop(start, None)

    def _put(self, batch: WriteBatch, start: int, changed: Mapping[Any, Any]) -> int:
        """Adds the rows of one window to the batch; returns by how many rows it grows."""
        prefix, codec = _prefix(start), self._codec
        keys = [prefix + codec.key_bytes(key) for key in changed]
        there = self._db.get(keys) if start in self._counts and self._db is not None else [None] * len(keys)
        grown = 0
        for key, value, before in zip(keys, changed.values(), there, strict=True):
            if value is DELETED:
                batch.delete(key)
                grown -= before is not None
            else:
                batch.put(key, codec.encode_value(value))
                grown += before is None
        return grown

    def _write(self, batch: WriteBatch) -> None:
        if self._db is None:
            raise StoreError(f"the store {self.folder} is closed")
        try:
            self._db.write(batch)
        except Exception as exc:
            raise StoreError(
                f"the store {self.folder} can't be written: {exc}. Nothing is lost: the changelog has it "
                "all, and the store reads on from there when it can be written again"
            ) from exc

    def clear(self) -> None:
        self._destroy()
        self.offset, self._counts, self._starts, self._count = 0, {}, SortedStarts(), 0
        self._open()

    def touch(self) -> None:
        """Written at most once a minute."""
        now_ms = self._clock.now_ms()
        if now_ms - self._stamp_ms >= TOUCH_EVERY_MS and self.offset:
            self.apply({})

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


class WindowRows(Mapping[Any, Any]):
    """One window's rows, read as one asks for them: nothing is held in memory."""

    def __init__(self, store: RocksStore, start: int, count: int) -> None:
        self._store = store
        self._start_ms = start
        self._count = count

    def __getitem__(self, key: Hashable) -> Any:
        value = self._store.get(self._start_ms, key)
        if value is MISSING:
            raise KeyError(key)
        return value

    def __iter__(self) -> Iterator[Any]:
        return self._store.keys(self._start_ms)

    def __len__(self) -> int:
        return self._count

    def items(self) -> ItemsView[Any, Any]:
        return WindowItems(self)

    def rows(self) -> Iterator[tuple[Any, Any]]:
        """Key and value of each row, in one pass."""
        return self._store.rows(self._start_ms)


class WindowItems(ItemsView[Any, Any]):
    """Not one look for each key."""

    def __init__(self, window: WindowRows) -> None:
        super().__init__(window)
        self._window = window

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return self._window.rows()


def _is_full(exc: Exception) -> bool:
    return "no space" in str(exc).lower()


def prefix_start(start: int) -> bytes:
    """A window's start so that bytes are ordered as the numbers are."""
    return (start + START_OFFSET).to_bytes(START_BYTES, "big")


def _prefix(start: int) -> bytes:
    return ROWS + prefix_start(start)


def _start(data: bytes) -> int:
    return int.from_bytes(data, "big") - START_OFFSET


def _after(prefix: bytes) -> bytes:
    """The first bytes behind everything that begins with ``prefix``."""
    return (int.from_bytes(prefix, "big") + 1).to_bytes(len(prefix), "big")
