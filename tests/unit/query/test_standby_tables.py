"""What a worker keeps of others' partitions may be read: as it was committed, with its position and age."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from streamflow.query.row_query import RowQuery
from streamflow.query.table_reader import StandbyReader
from streamflow.query.value_paths import ValuePath
from streamflow.query.worker_view import WorkerView
from tests.unit.engine.test_kept_partitions import KEYS, Group, Worker

TABLES = ("counts", "by_key", "by_type")


@pytest.fixture
async def group() -> AsyncIterator[Group]:
    made = Group(session_timeout_ms=10_000.0)
    await made.client.start()
    yield made
    for worker in made.workers:
        await worker.engine.stop()
    await made.client.stop()


async def two(group: Group) -> tuple[Worker, Worker, list[WorkerView]]:
    """Two workers that stand by for each other, with their views."""
    workers = [await group.join(name, standby_replicas=1) for name in ("first", "second")]
    views = [WorkerView(worker.engine, f"http://{n}") for n, worker in enumerate(workers)]
    for view in views:
        view.open()
    return workers[0], workers[1], views


def kept(view: WorkerView, table: str) -> StandbyReader:
    found = view.standby(table)
    assert found is not None
    return found


async def rows(reader: StandbyReader, query: RowQuery) -> dict[str, object]:
    return {
        row.key: row.value
        for partition in sorted(reader.owned)
        async for row in reader.listed(partition, query)
    }


async def all_kept(group: Group, views: list[WorkerView], count: int) -> None:
    """Does each keep all rows of the other, so often written?"""

    def follows() -> bool:
        for mine, other in (views, reversed(views)):
            served = other.tables
            for table in TABLES:
                standby = mine.standby(table)
                if standby is None or standby.owned != served[table].owned:
                    return False
                if standby.positions() != served[table].status().positions:
                    return False
        return True

    await group.all_count(count)
    await group.until(follows)


async def test_what_is_kept_is_what_the_owner_shows(group: Group) -> None:
    _, _, views = await two(group)
    for count in (1, 2):
        await group.write_each_key()
        await all_kept(group, views, count)
        for mine, other in (views, reversed(views)):
            for table in TABLES:
                standby, served = kept(mine, table), other.tables[table]
                for query in (
                    RowQuery(),
                    RowQuery(sort="-value", by=ValuePath.of("value")),
                    RowQuery(prefix="k1", sort="key"),
                ):
                    shown = {
                        row.key: row.value
                        for partition in sorted(served.owned)
                        async for row in served.listed(partition, query)
                    }
                    assert await rows(standby, query) == shown, (table, query)
                for partition in standby.owned:
                    assert await standby.counted(partition, RowQuery()) == await served.counted(
                        partition, RowQuery()
                    )


async def test_a_dead_owners_rows_are_found_at_once(group: Group) -> None:
    first, second, views = await two(group)
    await group.write_each_key()
    await all_kept(group, views, 1)
    mine = [key for key in KEYS if views[0].tables["counts"].partition_of(key) in first.owned]
    owned = first.owned
    assert mine
    group.workers.remove(first)
    first.transport.kill()
    standby = kept(views[1], "counts")
    assert standby.owned == owned
    for key in mine:
        row = await standby.find(key)
        assert row is not None
        assert row.value == 1
    partition = min(owned)
    assert standby.age_ms(partition) < 6_000
    await standby.look([partition])
    assert standby.lags_of(partition) == {partition: 0}
    await group.write_each_key()  # nobody takes these yet
    await standby.look([partition])
    lag = standby.lags_of(partition)[partition]
    assert lag is not None
    assert lag > 0
    assert second.owned.isdisjoint(owned)


async def test_a_store_that_is_read_anew_is_not_shown(group: Group) -> None:
    _, second, views = await two(group)
    await group.write_each_key()
    await all_kept(group, views, 1)
    standby = kept(views[1], "counts")
    partition = min(standby.owned)
    store = second.engine.store_manager.kept(("counts", partition))
    assert store is not None
    store[0].clear()
    assert partition not in kept(views[1], "counts").owned
