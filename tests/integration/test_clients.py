"""The clients at two real workers that are killed in turn: what they show is what was counted, in the end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pytest

from streamflow.client import Client, LiveTable, LiveTopic
from streamflow.client.blocking import Client as BlockingClient
from streamflow.clock import epoch_ms, rfc3339
from tests.clients.node import Node, find_node, node
from tests.integration.job import TABLES, Cluster
from tests.integration.workers import Events, Row, WorkerProcess, difference, read_all, wait_for
from tests.support.web_fakes import until

LIMIT_S = 90.0


async def rounds(cluster: Cluster, events: Events, workers: Sequence[WorkerProcess]) -> None:
    """Events, a SIGKILL in the middle of them, more events, a restart: for each worker once."""
    for victim in workers:
        await asyncio.to_thread(events.send, 4_000, span_ms=40_000)
        victim.kill()
        await asyncio.to_thread(events.send, 4_000, span_ms=40_000)
        victim.start()
        await asyncio.to_thread(victim.wait_ready)
    await asyncio.to_thread(events.finish)
    await asyncio.to_thread(cluster.check, events)


async def start_two(cluster: Cluster) -> list[WorkerProcess]:
    workers = [cluster.start(), cluster.start()]
    for worker in workers:
        await asyncio.to_thread(worker.wait_ready)
    return workers


def rows_of(table: LiveTable) -> dict[Row, Any]:
    return {(row.key, rfc3339(epoch_ms(row.start))): row.value for row in table.rows()}


async def until_exact(table: LiveTable, wanted: Mapping[Row, Any]) -> None:
    try:
        async with asyncio.timeout(LIMIT_S):
            while not (table.state == "live" and rows_of(table) == wanted):
                await table.changed()
    except TimeoutError:
        raise AssertionError(f"{table}: {difference(rows_of(table), wanted)}") from None
    assert table.row_count == len(wanted)


@pytest.mark.timeout(600)
async def test_live_tables_of_python_are_exact_after_kills(cluster: Cluster) -> None:
    workers = await start_two(cluster)
    events = Events(cluster.kafka, cluster.topic)
    urls = [worker.url for worker in workers]
    async with Client(urls, patience_s=60) as client:
        tables = [client.live(name) for name in TABLES]
        alone = client.live("events_by_user", keys=["user-7"], mode="all")
        folded: dict[Row, Any] = {}

        async def fold() -> None:
            async for change in alone:
                at = (change.key, rfc3339(epoch_ms(change.start)))
                if change.op == "upsert":
                    folded[at] = change.value
                else:
                    folded.pop(at, None)

        folding = asyncio.create_task(fold())
        asked = asyncio.create_task(ask_all_the_time(client))
        await rounds(cluster, events, workers)
        for table in tables:
            await until_exact(table, events.expected.rows(table.table))
        wanted = events.expected.rows("events_by_user")
        of_seven = {at: count for at, count in wanted.items() if at[0] == "user-7"}
        await until_exact(alone, of_seven)
        await alone.close()
        await folding
        assert folded == of_seven
        asked.cancel()
        listed = await client.rows("events_by_user", limit=100).to_list()
        assert {(row.key, rfc3339(epoch_ms(row.start))): row.value for row in listed} == wanted


@pytest.mark.timeout(600)
async def test_live_topics_tell_every_committed_record_once_over_kills(cluster: Cluster) -> None:
    """Of the source, and of results that are written in transactions: each partition in its order."""
    workers = await start_two(cluster)
    events = Events(cluster.kafka, cluster.topic)
    async with Client([worker.url for worker in workers], patience_s=60) as client:
        topics = [client.topic(name) for name in (cluster.topic, cluster.results)]
        for topic in topics:
            await topic.ready(LIMIT_S)
        told: dict[str, list[tuple[int, int]]] = {topic.topic: [] for topic in topics}

        async def take(topic: LiveTopic) -> None:
            async for record in topic:
                told[topic.topic].append((record.partition, int(record.offset)))

        taking = [asyncio.create_task(take(topic)) for topic in topics]
        await rounds(cluster, events, workers)
        for name, places in told.items():
            wanted = sorted(
                (row.partition, row.offset) for row in await asyncio.to_thread(read_all, cluster.kafka, name)
            )
            await until(partial(all_told, places, len(wanted)), LIMIT_S)
            assert sorted(places) == wanted
            for partition in {partition for partition, _ in wanted}:
                mine = [offset for at, offset in places if at == partition]
                assert mine == sorted(mine)
        for topic in topics:
            await topic.close()
        await asyncio.gather(*taking)


def all_told(places: list[tuple[int, int]], count: int) -> bool:
    return len(places) >= count


async def ask_all_the_time(client: Client) -> None:
    """No question fails while one of the workers is there, or comes back within the client's patience."""
    while True:
        await client.get("events_by_user", "user-7")
        page = await anext(client.rows("events_by_type", limit=10).pages())
        assert not page.partial
        await asyncio.sleep(0.05)


@pytest.mark.timeout(600)
async def test_live_tables_of_javascript_are_exact_after_kills(cluster: Cluster) -> None:
    command = find_node()
    if command is None:
        pytest.skip("no node of version 20 or newer on this machine")
    workers = await start_two(cluster)
    events = Events(cluster.kafka, cluster.topic)
    urls = json.dumps([worker.url for worker in workers])
    async with node(command) as script:
        await script.ask(
            f"(globalThis.client = new lib.Client({urls}, {{ patienceMs: 60000 }}),"
            f"globalThis.tables = {json.dumps(TABLES)}.map((name) => client.live(name)), 0)"
        )
        await rounds(cluster, events, workers)
        for index, name in enumerate(TABLES):
            await until_exact_in(script, f"tables[{index}]", events.expected.rows(name))


async def until_exact_in(script: Node, table: str, wanted: Mapping[Row, Any]) -> None:
    found: dict[Row, Any] = {}
    for _ in range(int(LIMIT_S / 0.2)):
        if await script.ask(f"{table}.state") == "live":
            rows = await script.ask(f"[...{table}.rows()]")
            found = {(row["key"], row["window"]["start"]): row["value"] for row in rows}
            if found == wanted:
                assert len(rows) == len(wanted)
                return
        await asyncio.sleep(0.2)
    raise AssertionError(difference(found, wanted))


@pytest.mark.timeout(300)
def test_the_blocking_client_reads_from_whichever_worker_is_there(cluster: Cluster) -> None:
    workers = [cluster.start(), cluster.start()]
    for worker in workers:
        worker.wait_ready()
    events = Events(cluster.kafka, cluster.topic)
    events.send(2_000, span_ms=20_000)
    events.finish()
    cluster.check(events)
    wanted = events.expected.rows("events_by_user")
    with BlockingClient([worker.url for worker in workers], patience_s=60) as client:
        workers[0].kill()
        listed = client.rows("events_by_user", limit=50).to_list()
        assert {(row.key, rfc3339(epoch_ms(row.start))): row.value for row in listed} == wanted
        with client.live("events_by_type") as table:
            by_type = events.expected.rows("events_by_type")

            def is_exact() -> bool:
                rows = {(row.key, rfc3339(epoch_ms(row.start))): row.value for row in table.rows()}
                return table.state == "live" and rows == by_type

            wait_for("the table is exact", is_exact)
