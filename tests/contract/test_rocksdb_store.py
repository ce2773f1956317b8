"""RocksDB passes the contract, and survives what a disk and other processes do to it."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamflow.errors import ConfigurationError, StoreError
from streamflow.settings import Settings
from streamflow.state.changelog import RowCodec
from streamflow.state.stores.base import MISSING, NO_WINDOW, Store
from streamflow.state.stores.opening import Stores
from streamflow.testing import ManualClock
from tests.contract.store_contract import StoreContract

pytest.importorskip("rocksdict", reason='needs the extra "rocksdb"')

from streamflow.state.stores.rocksdb import RocksStore

HOUR_MS = 3_600_000.0


def opened(folder: Path, owner: str = "app/table/0", clock: ManualClock | None = None) -> RocksStore:
    return RocksStore(folder, owner, RowCodec(None), clock or ManualClock(now_ms=1), HOUR_MS)


class TestRocksStore(StoreContract):
    @pytest.fixture(autouse=True)
    def _folders(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        top = tmp_path_factory.mktemp("stores")
        type(self).folders = (top / str(n) for n in itertools.count())
        type(self).open_stores = []
        yield
        for store in self.open_stores:
            store.close()

    folders: Iterator[Path]
    open_stores: list[RocksStore]

    def new_store(self) -> Store:
        self.open_stores.append(opened(next(self.folders)))
        return self.open_stores[-1]

    def reopened(self, store: Store) -> Store:
        assert isinstance(store, RocksStore)
        store.close()
        self.open_stores.append(opened(store.folder))
        return self.open_stores[-1]


def test_a_folder_of_something_else_is_rebuilt(tmp_path: Path) -> None:
    store = opened(tmp_path / "0", "app/table/0")
    store.apply({NO_WINDOW: {"a": 1}}, 5)
    store.close()
    other = opened(tmp_path / "0", "app/table/1")
    assert (len(other), other.offset) == (0, 0)
    other.apply({NO_WINDOW: {"b": 1}}, 2)
    other.close()
    again = opened(tmp_path / "0", "app/table/1")
    assert again.get(NO_WINDOW, "b") == 1
    again.close()


def test_a_damaged_folder_is_rebuilt(tmp_path: Path) -> None:
    store = opened(tmp_path / "0")
    store.apply({NO_WINDOW: {f"k{n}": n for n in range(1_000)}}, 5)
    store.close()
    for file in (tmp_path / "0").iterdir():
        if file.name.startswith(("MANIFEST", "current_context")):
            file.write_bytes(b"no longer what it was")
    again = opened(tmp_path / "0")
    assert (len(again), again.offset) == (0, 0)
    again.apply({NO_WINDOW: {"a": 1}}, 1)
    assert again.get(NO_WINDOW, "a") == 1
    again.close()


def test_a_folder_that_was_not_kept_up_for_long_is_rebuilt(tmp_path: Path) -> None:
    store = opened(tmp_path / "0", clock=ManualClock(now_ms=1_000))
    store.apply({NO_WINDOW: {"a": 1}}, 5)
    store.close()
    in_time = opened(tmp_path / "0", clock=ManualClock(now_ms=1_000 + int(HOUR_MS)))
    assert in_time.offset == 5
    in_time.touch()
    in_time.close()
    kept_up = opened(tmp_path / "0", clock=ManualClock(now_ms=1_000 + 2 * int(HOUR_MS)))
    assert kept_up.offset == 5
    kept_up.close()
    late = opened(tmp_path / "0", clock=ManualClock(now_ms=1_002 + 3 * int(HOUR_MS)))
    assert (late.offset, len(late)) == (0, 0)
    late.close()


def test_a_folder_that_another_has_open_is_refused_and_left_alone(tmp_path: Path) -> None:
    store = opened(tmp_path / "0")
    store.apply({NO_WINDOW: {"a": 1}}, 5)
    with pytest.raises(StoreError, match="open in another process"):
        opened(tmp_path / "0")
    assert store.get(NO_WINDOW, "a") == 1
    store.close()


def test_two_workers_on_one_machine_have_folders_of_their_own_and_find_them_again(tmp_path: Path) -> None:
    settings = Settings(id="app", store="rocksdb://", data_dir=str(tmp_path), transactional_slot="slot")
    clock = ManualClock(now_ms=1)
    first, second = Stores(settings, clock), Stores(settings, clock)
    codec = RowCodec(None)
    a, b = (each.open("table", 0, codec, "") for each in (first, second))
    a.apply({NO_WINDOW: {"who": "first"}}, 1)
    b.apply({NO_WINDOW: {"who": "second"}}, 1)
    for store in (a, b):
        store.close()
    first.close()
    again = Stores(settings, clock)
    mine = again.open("table", 0, codec, "")
    assert mine.get(NO_WINDOW, "who") == "first"
    mine.close()
    again.close()
    second.close()


def test_after_sigkill_the_folder_opens_at_once_with_all_that_was_applied(tmp_path: Path) -> None:
    program = f"""
        import os, signal
        from streamflow.state.changelog import RowCodec
        from streamflow.clock import SystemClock
        from streamflow.settings import Settings
        from streamflow.state.stores.opening import Stores
        stores = Stores(Settings(id="app", store="rocksdb://", data_dir={str(tmp_path)!r}), SystemClock())
        store = stores.open("table", 0, RowCodec(None), "")
        for n in range(1, 501):
            store.apply({{0: {{"n": n, f"k{{n}}": n}}}}, n)
        print("done", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    stores = Stores(Settings(id="app", store="rocksdb://", data_dir=str(tmp_path)), ManualClock(now_ms=1))
    store = stores.open("table", 0, RowCodec(None), "")
    assert (store.offset, len(store), store.get(NO_WINDOW, "n")) == (500, 501, 500)
    store.close()
    stores.close()


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rocksdict", None)
    with pytest.raises(ConfigurationError, match=r"the extra \[rocksdb\] of faust-streamflow"):
        Stores(Settings(id="app", store="rocksdb://"), ManualClock(now_ms=1)).check()


def test_an_unknown_store_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="memory://"):
        Stores(Settings(id="app", store="redis://"), ManualClock(now_ms=1)).check()


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = opened(tmp_path / "0")
    store.apply({NO_WINDOW: {"a": 1}}, 1)
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.get(NO_WINDOW, "a")
    assert MISSING is not None
