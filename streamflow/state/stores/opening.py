"""Which store a table has, and where on the disk: one folder for each worker, table and partition.

    <data_dir>/<app>/<slot>/<table>/<partition>/

Two workers never share a folder: each claims one by locking a file in it. The system gives the lock back
when the process ends, however it ends, so a worker that was killed finds its folder again at once. Where
the folder of a slot is taken, the next free ``<slot>-2``, ``<slot>-3`` ... is used.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterable
from io import BufferedRandom
from pathlib import Path

from streamflow.clock import Clock
from streamflow.errors import ConfigurationError, StoreError
from streamflow.settings import Settings
from streamflow.state.stores.base import Store
from streamflow.state.stores.memory import MemoryStore
from streamflow.state.stores.rocksdb import RocksStore, RowBytes, rocksdict

logger = logging.getLogger(__name__)

SCHEMES = ("memory", "rocksdb")
SLOTS_MAX = 1_000


def scheme_of(url: str) -> str:
    """``memory`` or ``rocksdb``. Raises ConfigurationError."""
    scheme = url.partition(":")[0]
    if scheme not in SCHEMES:
        raise ConfigurationError(f'store {url!r} is not known; it can be "memory://" or "rocksdb://"')
    if scheme == "rocksdb":
        rocksdict()
    return scheme


class Stores:
    """Opens the stores of one worker."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._app_id = settings.id
        self._url = settings.store
        self._top = Path(settings.data_dir) / _safe(settings.id)
        self._slot = _safe(settings.transactional_slot) or "worker"
        self._clock = clock
        self._age_max_ms = settings.store_age_max_s * 1_000
        self._folder: Path | None = None
        self._lock: BufferedRandom | None = None

    def check(self, urls: Iterable[str] = ()) -> None:
        """Raises ConfigurationError where stores of these kinds can't be had."""
        for url in (self._url, *urls):
            scheme_of(url or self._url)

    def open(self, table: str, partition: int, codec: RowBytes, identity: str, url: str = "") -> Store:
        """``identity`` says what the rows are, apart from their place. Raises StoreError."""
        if scheme_of(url or self._url) == "memory":
            return MemoryStore()
        if self._folder is None:
            self._folder, self._lock = self._claim()
        folder = self._folder / _safe(table) / str(partition)
        owner = f"{self._app_id}/{table}/{partition}/{identity}"
        return RocksStore(folder, owner, codec, self._clock, self._age_max_ms)

    def close(self) -> None:
        """Gives the folder back; all stores must be closed."""
        lock, self._lock, self._folder = self._lock, None, None
        if lock is not None:
            lock.close()

    def _claim(self) -> tuple[Path, BufferedRandom]:
        for number in range(1, SLOTS_MAX):
            folder = self._top / (self._slot if number == 1 else f"{self._slot}-{number}")
            try:
                folder.mkdir(parents=True, exist_ok=True)
                lock = (folder / ".lock").open("a+b")
            except OSError as exc:
                raise StoreError(f"the data folder {folder} can't be used: {exc}") from exc
            if _locked(lock):
                logger.info("stores are kept in %s", folder)
                return folder, lock
            lock.close()
        raise StoreError(f"every folder below {self._top} is taken")


def forget(settings: Settings, table: str) -> None:
    """Deletes a table's rows from every folder of this machine. Raises StoreError while a worker has one."""
    top = Path(settings.data_dir) / _safe(settings.id)
    for lock_path in sorted(top.glob("*/.lock")):
        rows = lock_path.parent / _safe(table)
        if not rows.is_dir():
            continue
        with lock_path.open("a+b") as lock:
            if not _locked(lock):
                raise StoreError(f"a worker has {lock_path.parent}: stop it first")
            shutil.rmtree(rows)


def _locked(file: BufferedRandom) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows has none; there RocksDB's own lock keeps two workers apart
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _safe(name: str) -> str:
    """A name as part of a path."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip(".")
