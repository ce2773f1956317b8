"""Apps whose tables lie on a disk: restarts read only what is new, and tables need not fit into memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streamflow import App, Count, Event, Key, TumblingWindow
from streamflow.clock import SystemClock
from streamflow.errors import ConfigurationError
from streamflow.state.stores.base import Store
from streamflow.state.stores.memory import MemoryStore
from streamflow.transports.memory import MemoryBroker, MemoryTransport
from tests.support.running import T0_MS, event, make_app, running, until

pytest.importorskip("rocksdict", reason='needs the extra "rocksdb"')

from streamflow.state.stores.rocksdb import RocksStore


def counting(broker: MemoryBroker, tmp_path: Path, **options: Any) -> tuple[App, Any]:
    """An app over a broker that outlives it: a table, an aggregate in windows, one in memory."""
    app = App(
        "disk-app",
        commit_interval=0.02,
        fetch_wait_ms=5,
        web_enabled=False,
        env={},
        transport=MemoryTransport(broker, "disk-app", "worker"),
        datadir=tmp_path,
        store="rocksdb://",
        **options,
    )
    events = app.topic("events", key_type=str, value_type=Event, partitions=2)
    counts = app.Table("counts", default=int)
    app.aggregate("windowed", events, by=Key(), values=Count(), window=TumblingWindow(10, retain_s=60))
    app.aggregate("quick", events, by=Key(), values=Count(), store="memory://")

    @app.agent(events)
    async def count(stream: Any) -> None:
        async for key, _ in stream.items():  # noqa: PERF102 - a stream
            counts[key] += 1

    return app, events


def stores_of(app: App, name: str) -> list[Store]:
    engine = app.engine
    parts = (
        engine.topology.tables[name].parts
        if name in engine.topology.tables
        else engine.topology.aggregates[name].parts
    )
    return [part.store for part in parts.values()]


async def test_a_restart_reads_from_the_changelogs_only_what_the_disk_lacks(tmp_path: Path) -> None:
    broker = MemoryBroker(SystemClock())
    app, events = counting(broker, tmp_path)
    async with running(app):
        for n in range(30):
            await events.send(key=f"k{n % 5}", value=event(at_ms=T0_MS + n * 1_000))
        await until(lambda: sum(v for s in stores_of(app, "counts") for _, _, v in s.scan()) == 30)
        assert all(isinstance(store, RocksStore) for store in stores_of(app, "counts"))
        assert all(isinstance(store, MemoryStore) for store in stores_of(app, "quick"))
    in_memory = sum(len(broker.log(("disk-app-quick-changelog", p))) for p in range(2))
    again, _ = counting(broker, tmp_path)
    async with running(again):
        await until(lambda: not again.engine.active.unopened)  # type: ignore[union-attr]  # it is live
        assert again.engine.metrics.restored_records_total.value == in_memory
        rows = {key: v for s in stores_of(again, "counts") for _, key, v in s.scan()}
        assert rows == {f"k{n}": 6 for n in range(5)}
        assert sum(v for s in stores_of(again, "windowed") for _, _, v in s.scan()) == 30
    assert (tmp_path / "disk-app" / "worker" / "counts" / "0").is_dir()


async def test_windows_that_expire_leave_the_disk(tmp_path: Path) -> None:
    broker = MemoryBroker(SystemClock())
    app, events = counting(broker, tmp_path)
    async with running(app):
        for n in range(20):
            await events.send(key="ann", value=event(at_ms=T0_MS + n * 10_000))
        last = T0_MS + 19 * 10_000

        def kept() -> list[int]:
            return [start for store in stores_of(app, "windowed") for start in store.starts()]

        await until(lambda: max(kept(), default=0) == last and min(kept()) >= last - 80_000)
        assert sum(map(len, stores_of(app, "windowed"))) == len(kept())


async def test_an_unknown_store_is_refused_at_the_start(tmp_path: Path) -> None:
    app = make_app()
    events = app.topic("events", key_type=str, value_type=Event)
    app.aggregate("counts", events, by=Key(), values=Count(), store="sqlite://")
    with pytest.raises(ConfigurationError, match="sqlite"):
        await app.start()
    await app.stop()
