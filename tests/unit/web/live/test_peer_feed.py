"""The WebSocket on several workers: whichever one is asked shows the whole table."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from streamflow.web.security import PEER_HEADER
from tests.support.web_fakes import SIZE_MS, Cluster, FakeServed, until
from tests.unit.web.live.test_hub import Live, connect, truth


def has_all(live: Live, cluster: Cluster, table: str) -> bool:
    """The subscription ``s`` has come to the table's position, with its rows."""
    return bool(
        live.last["s"]["position"] == cluster.position(table) and live.rows["s"] == truth(cluster, table)
    )


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster()
    for index in range(12):
        cluster.put("users", f"k{index}", index)
        cluster.put("counts", f"k{index}", index, start_ms=SIZE_MS)
    return cluster


@pytest.fixture
async def workers(cluster: Cluster) -> AsyncIterator[list[FakeServed]]:
    async with cluster.run([0], [1, 2]) as workers:
        yield workers


async def test_a_client_of_any_worker_sees_the_whole_table_live(
    cluster: Cluster, workers: list[FakeServed]
) -> None:
    async with connect(workers[0]) as one, connect(workers[1]) as two:
        for live in (one, two):
            await live.subscribe("s", "counts")
            assert live.rows["s"] == truth(cluster, "counts")
            assert live.last["s"]["position"] == cluster.position("counts")
        for index in range(30):
            cluster.put("counts", f"k{index}", 100 + index, start_ms=SIZE_MS)
        for live in (one, two):
            await live.hear_until_that(partial(has_all, live, cluster, "counts"))
            assert live.rows["s"] == truth(cluster, "counts")


async def test_local_subscribers_share_one_connection_to_a_peer(
    cluster: Cluster, workers: list[FakeServed]
) -> None:
    async with connect(workers[0]) as one, connect(workers[0]) as two:
        for live in (one, two):
            await live.subscribe("s", "users")
            await live.subscribe("p", "users", prefix="k1")
        assert workers[1].metrics.ws_connections.value == 1


async def test_filters_reach_the_peers_snapshot(cluster: Cluster, workers: list[FakeServed]) -> None:
    async with connect(workers[0]) as live:
        await live.subscribe("keys", "users", keys=["k1", "k2", "k3", "k4"])
        await live.subscribe("pre", "users", prefix="k1")
        assert {key for _, key, _ in live.rows["keys"]} == {"k1", "k2", "k3", "k4"}
        assert {key for _, key, _ in live.rows["pre"]} == {"k1", "k10", "k11"}


async def test_a_peers_session_gets_that_workers_own_rows_only(
    cluster: Cluster, workers: list[FakeServed]
) -> None:
    async with connect(workers[0], headers={PEER_HEADER: "http://me"}) as live:
        synced = await live.subscribe("s", "users")
        assert synced["partitions"] == [0]
        assert {partition for partition, _, _ in live.rows["s"]} == {0}
        workers[0].owned.add(1)
        workers[1].owned.discard(1)
        cluster.elect()
        reset = await live.hear_until("reset")
        assert reset["partitions"] == [0, 1]
        await live.hear_until("synced")
        assert {partition for partition, _, _ in live.rows["s"]} == {0, 1}


async def test_snapshots_under_traffic_have_no_gap(cluster: Cluster, workers: list[FakeServed]) -> None:
    """Clients join at any moment of a busy table, and fold to the truth."""
    generator = random.Random(7)
    is_running = True

    async def traffic() -> None:
        count = 0
        while is_running and count < 3_000:
            count += 1
            key = f"k{generator.randrange(40)}"
            op: Any = "delete" if generator.random() < 0.2 else "upsert"
            cluster.put("users", key, count if op == "upsert" else None, op=op)
            await asyncio.sleep(0.001)

    writing = asyncio.create_task(traffic())
    async with connect(workers[0]) as one, connect(workers[1]) as two:
        lives: list[tuple[Live, str]] = []
        for number in range(10):
            for live in (one, two):
                mode = "all" if number % 2 else "latest"
                hz = 20 if number % 3 == 0 else None
                await live.subscribe(f"s{number}", "users", mode=mode, max_hz=hz)
                lives.append((live, f"s{number}"))
            await asyncio.sleep(generator.random() / 50)
        is_running = False
        await writing

        def done(live: Live) -> bool:
            mine = [sub for other, sub in lives if other is live]
            return all(live.rows[sub] == truth(cluster, "users") for sub in mine)

        for live in (one, two):
            await live.hear_until_that(partial(done, live))
        assert not [said for live in (one, two) for said in live.said if said["t"] == "reset"]


async def test_a_partition_that_moves_is_shown_anew(cluster: Cluster, workers: list[FakeServed]) -> None:
    async with connect(workers[0]) as one, connect(workers[1]) as two:
        for live in (one, two):
            await live.subscribe("s", "users")
        workers[1].owned.discard(2)
        for live in (one, two):
            assert (await live.hear_until("rebalancing"))["partitions"] == [2]
        moved = next(key for (p, key, _) in cluster.table("users") if p == 2)
        cluster.put("users", moved, "while moving", partition=2)
        workers[0].owned.add(2)
        cluster.elect()
        for live in (one, two):
            await live.hear_until("reset")
            await live.hear_until("synced")
            assert live.rows["s"] == truth(cluster, "users")
        cluster.put("users", moved, "after", partition=2)
        for live in (one, two):
            await live.hear_until_that(partial(has_all, live, cluster, "users"))


async def test_a_worker_that_dies_leaves_the_rest_live_until_others_take_over(
    cluster: Cluster, workers: list[FakeServed]
) -> None:
    async with connect(workers[0]) as live:
        await live.subscribe("s", "users")
        await cluster.kill(1)
        assert (await live.hear_until("rebalancing"))["partitions"] == [1, 2]
        key = next(key for (p, key, _) in cluster.table("users") if p == 0)
        cluster.put("users", key, "still live")
        await live.hear_until_that(lambda: "still live" in live.rows["s"].values())
        workers[0].owned.update({1, 2})
        workers[1].owned.clear()
        cluster.elect()
        await live.hear_until("reset")
        await live.hear_until("synced")
        assert live.rows["s"] == truth(cluster, "users")


async def test_a_new_client_starts_without_a_dead_worker_and_is_told(
    cluster: Cluster, workers: list[FakeServed]
) -> None:
    await cluster.kill(1)
    async with connect(workers[0]) as live:
        await live.say("subscribe", id="s", table="users")
        assert (await live.hear_until("rebalancing"))["partitions"] == [1, 2]
        await live.hear_until("synced")
        assert {partition for partition, _, _ in live.rows["s"]} == {0}


async def test_a_short_break_to_a_peer_costs_no_reset(cluster: Cluster, workers: list[FakeServed]) -> None:
    async with connect(workers[0]) as live:
        await live.subscribe("s", "users")
        hub_sessions = [session for session in cluster.hubs[1].sessions if session.own_rows_only]
        for session in hub_sessions:
            session.abort()  # the connection ends as if the network had cut it
        for index in range(12):
            cluster.put("users", f"k{index}", 1_000 + index)
        await live.hear_until_that(lambda: live.rows["s"] == truth(cluster, "users"))
        assert not [said for said in live.said if said["t"] in ("reset", "rebalancing")]


async def test_a_worker_that_stops_watching_lets_go_of_its_peers(cluster: Cluster) -> None:
    async with cluster.with_settings(ws_linger_s=0.1).run([0], [1, 2]) as workers:
        async with connect(workers[0]) as live:
            await live.subscribe("s", "users")
            assert workers[1].metrics.ws_connections.value == 1
        await until(lambda: workers[1].metrics.ws_connections.value == 0)


async def test_tokens_open_the_peers_hub(cluster: Cluster) -> None:
    headers = {"Authorization": "Bearer shared"}
    async with (
        cluster.with_settings(tokens=("shared",)).run([0], [1, 2]) as workers,
        connect(workers[0], headers=headers) as live,
    ):
        await live.subscribe("s", "users")
        assert live.rows["s"] == truth(cluster, "users")
