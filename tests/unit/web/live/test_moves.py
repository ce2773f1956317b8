"""What every message promises, under seeded traffic, moves, restores and broken connections.

At every message with a position, each partition that is not told to be missing holds exactly the rows
that it had at that offset.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from tests.support.web_fakes import PARTITIONS, Cluster
from tests.unit.web.live.test_hub import Live, connect

SEEDS = [int(os.environ["SEED"])] if "SEED" in os.environ else list(range(20))
STEPS = 120
KEYS = [f"k{index}" for index in range(15)]

Rows = dict[Any, Any]  # key -> value


class History:
    """The rows of each partition at each offset."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.at: dict[tuple[int, int], Rows] = {}
        self.note()

    def note(self) -> None:
        data = self.cluster.data["users"]
        for partition in range(PARTITIONS):
            rows = {row.key: row.value for row in data.rows[partition].values()}
            self.at[partition, data.positions[partition]] = rows


class Checked(Live):
    """A client that checks the promise at every message."""

    history: History
    is_synced = False
    missing: frozenset[int] = frozenset()
    checks = 0
    listening: asyncio.Task[None]

    def _fold(self, said: dict[str, Any]) -> None:
        super()._fold(said)
        kind = said["t"]
        if kind == "rebalancing":
            self.missing = frozenset(said["partitions"])
        elif kind == "reset":
            self.is_synced = False
        elif kind == "synced":
            self.is_synced = True
            self.missing = frozenset()
        if self.is_synced and kind in ("synced", "changes", "progress") and "more" not in said:
            # `rebalancing` follows a `synced` that knows of missing partitions.
            covered = set(said["partitions"]) if kind == "synced" else set(range(PARTITIONS))
            self._check(said, covered - self.missing)

    def _check(self, said: dict[str, Any], partitions: set[int]) -> None:
        for partition in partitions & set(map(int, said["position"])):
            offset = int(said["position"][str(partition)])
            rows = {key: value for (p, key, _), value in self.rows["s"].items() if p == partition}
            recent = [(old["t"], old.get("position"), old.get("partitions")) for old in self.said[-8:]]
            assert rows == self.history.at[partition, offset], f"{partition}@{offset}: {recent}"
            self.checks += 1

    async def listen(self) -> None:
        while True:
            await self.hear()


@asynccontextmanager
async def checked(cluster: Cluster, index: int, history: History, **members: Any) -> AsyncIterator[Checked]:
    async with connect(cluster.workers[index]) as plain:
        live = Checked(plain.socket)
        live.history = history
        await live.say("subscribe", id="s", table="users", **members)
        listening = live.listening = asyncio.create_task(live.listen())
        try:
            yield live
        finally:
            if listening.done():
                listening.result()
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


def change(cluster: Cluster, history: History, rnd: random.Random, count: int) -> None:
    """A checkpoint with one change; only an owner can have it."""
    key = rnd.choice(KEYS)
    partition = rnd.randrange(PARTITIONS)
    if cluster.owner(partition) is None:
        return
    # The history knows the new rows before any listener is told of them.
    data = cluster.data["users"]
    is_delete = rnd.random() < 0.2
    rows = {row.key: row.value for row in data.rows[partition].values()}
    if is_delete:
        rows.pop(key, None)
    else:
        rows[key] = count
    history.at[partition, data.positions[partition] + 1] = rows
    cluster.put("users", key, count, partition=partition, op="delete" if is_delete else "upsert")


async def move(cluster: Cluster, history: History, rnd: random.Random, count: int) -> None:
    """All partitions are revoked and given out anew, as a rebalance does; some change in between."""
    for worker in cluster.workers:
        worker.owned.clear()
        worker.generations += 1
    await asyncio.sleep(rnd.choice([0, 0.01, 0.15]))
    for partition in range(PARTITIONS):
        new = rnd.choice(cluster.workers)
        new.owned.add(partition)
    for worker in cluster.workers:
        worker.generations += 1
    cluster.elect()
    change(cluster, history, rnd, count)


async def lose(cluster: Cluster, history: History, rnd: random.Random, count: int) -> None:
    """One partition goes from one worker to another, which comes into its own a little later."""
    partition = rnd.randrange(PARTITIONS)
    for worker in cluster.workers:
        worker.owned.discard(partition)
    if rnd.random() < 0.5:
        cluster.elect()
    for extra in range(3):
        change(cluster, history, rnd, count * 10 + extra)
    await asyncio.sleep(rnd.choice([0, 0.01, 0.15]))
    new = rnd.choice(cluster.workers)
    new.owned.add(partition)
    change(cluster, history, rnd, count)
    cluster.elect()


async def cut(cluster: Cluster, history: History, rnd: random.Random, count: int) -> None:
    """The connections between workers break."""
    for index in range(len(cluster.workers)):
        for session in list(cluster.hubs[index].sessions):
            if session.own_rows_only and rnd.random() < 0.7:
                session.abort()
    change(cluster, history, rnd, count)
    await asyncio.sleep(rnd.choice([0, 0.02]))


@pytest.mark.parametrize("seed", SEEDS)
async def test_rows_are_those_of_the_position_at_every_message(seed: int) -> None:
    rnd = random.Random(seed)
    cluster = Cluster()
    for index, key in enumerate(KEYS):
        cluster.put("users", key, index)
    history = History(cluster)
    async with cluster.run([0], [1], [2]), AsyncExitStack() as stack:
        lives: list[Checked] = []
        for count in range(STEPS):
            if count % 30 == 0:
                members = {"mode": rnd.choice(["all", "latest"]), "max_hz": rnd.choice([None, 50])}
                live = checked(cluster, rnd.randrange(3), history, **members)
                lives.append(await stack.enter_async_context(live))
            chance = rnd.random()
            action = move if chance < 0.03 else lose if chance < 0.06 else cut if chance < 0.1 else None
            if action is not None:
                await action(cluster, history, rnd, count)
            else:
                change(cluster, history, rnd, count)
            await asyncio.sleep(rnd.choice([0, 0, 0.002, 0.02]))
        whole = {
            (row.partition, row.key): row.value for p in range(PARTITIONS) for row in rows_of(cluster, p)
        }
        async with asyncio.timeout(10):
            while not all(live.listening.done() or shown(live) == whole for live in lives):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert min(live.checks for live in lives) > 0


def shown(live: Checked) -> dict[tuple[int, Any], Any]:
    return {(partition, key): value for (partition, key, _), value in live.rows.get("s", {}).items()}


def rows_of(cluster: Cluster, partition: int) -> list[Any]:
    return list(cluster.data["users"].rows[partition].values())
